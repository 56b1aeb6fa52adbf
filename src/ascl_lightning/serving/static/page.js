// The page works without this file: it adds answers without a new page, and pictures by drag, drop and paste.
"use strict";
(() => {
  const form = document.getElementById("search");
  const results = document.getElementById("results");
  const file = document.getElementById("image");
  if (!form || !results || !file) return;
  const MAX_BYTES = 10e6;
  let waiting = null;

  function say(text) {
    const line = document.createElement("p");
    line.id = "status";
    line.className = "wrong";
    line.setAttribute("role", "alert");
    line.textContent = text;
    results.replaceChildren(line);
  }

  // The server renders every page; this takes over what has changed.
  async function show(address, options, remember) {
    if (waiting) waiting.abort();
    const own = waiting = new AbortController();
    results.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(address, { ...options, signal: own.signal, headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = page.getElementById("results");
      if (!found) throw new Error("not the page");
      results.replaceChildren(...document.adoptNode(found).childNodes);
      document.title = page.title;
      if (remember) history.pushState({}, "", answer.redirected ? answer.url : address);
      takeOver(page);
      return true;
    } catch (error) {
      if (own.signal.aborted) return false;
      say("The server does not answer. Try again.");
      return false;
    } finally {
      if (waiting === own) {
        waiting = null;
        results.removeAttribute("aria-busy");
        announce();
      }
    }
  }

  // A status that is inserted whole is not read out; its text is set anew in a line that stays.
  const live = document.createElement("p");
  live.className = "hidden";
  live.setAttribute("role", "status");
  live.setAttribute("aria-live", "polite");
  form.after(live);
  function announce() {
    const status = document.getElementById("status");
    live.textContent = status && status.getAttribute("role") !== "alert" ? status.textContent.trim() : "";
    if (status && status.getAttribute("role") === "status") status.removeAttribute("role");
  }

  // Fields of the form follow the address, so that back and forward agree with what is shown.
  function takeOver(page) {
    const other = page.getElementById("search");
    if (!other) return;
    for (const field of form.querySelectorAll("input[type=hidden]")) field.remove();
    for (const field of other.elements) {
      const own = field.name && form.elements.namedItem(field.name);
      if (field.type === "hidden") form.append(document.adoptNode(field.cloneNode()));
      else if (own && field.type !== "file") own.value = field.value;
    }
  }

  function search() {
    const data = new FormData(form);
    const picture = data.get("image");
    if (picture && picture.size > MAX_BYTES) {
      say("This picture is larger than 10 MB: choose a smaller one.");
      return;
    }
    if (picture && picture.size) {
      show("/", { method: "POST", body: data }, false);
      return;
    }
    data.delete("image");
    const defaults = { k: "12", text_weight: "0.5" };
    const asked = [...data].filter(([name, value]) => value !== "" && defaults[name] !== value);
    show("/?" + new URLSearchParams(asked), {}, true);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });

  document.addEventListener("submit", (event) => {
    if (event.target === form) return;
    event.preventDefault();
    show("/?" + new URLSearchParams(new FormData(event.target)), {}, true).then((done) => done && focusOn("variants"));
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='/?'], #results a[href='/']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const [address, place] = link.getAttribute("href").split("#");
    file.value = "";
    show(address, {}, true).then((done) => done && focusOn(place || "results"));
  });

  function focusOn(id) {
    const place = document.getElementById(id);
    if (!place) return;
    if (id !== "results") place.scrollIntoView();
    else if (results.getBoundingClientRect().top < 0) form.scrollIntoView();
    place.tabIndex = -1;
    place.focus({ preventScroll: true });
  }

  addEventListener("popstate", () => show(location.pathname + location.search, {}, false));

  file.addEventListener("change", () => file.files.length && search());

  function take(files) {
    const pictures = [...files].filter((each) => each.type.startsWith("image/"));
    if (!pictures.length) return false;
    const chosen = new DataTransfer();
    chosen.items.add(pictures[0]);
    file.files = chosen.files;
    search();
    return true;
  }

  addEventListener("paste", (event) => {
    if (event.clipboardData && take(event.clipboardData.files)) event.preventDefault();
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    form.classList.add("over");
  });
  addEventListener("dragleave", () => form.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    take(event.dataTransfer.files);
  });
})();
