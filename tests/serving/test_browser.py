"""The page in a real browser: with and without JavaScript, by keyboard alone, on narrow and wide screens."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from tests.helpers.served_galleries import CAPTIONS, FIRST, DrawnGallery, draw

from ascl_lightning.serving.app import create_app
from ascl_lightning.serving.workers import Workers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Where a server runs in a thread."""
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder)
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(DrawnGallery(folder), Workers(1, 16)), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    server.should_exit = True
    thread.join()


class Visit:
    """A page, what it asked for and what it said on the console."""

    def __init__(self, browser: Browser, address: str, path: str = "/", width: int = 1280, **options) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.page.set_default_timeout(60_000)
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(address + path, wait_until="networkidle")

    def first(self) -> int:
        return int(self.page.locator(".hit").first.get_attribute("id").removeprefix("hit-"))


@pytest.mark.parametrize("javascript", [True, False])
def test_a_query_finds_the_right_picture_first(browser, address, javascript):
    visit = Visit(browser, address, java_script_enabled=javascript)
    page = visit.page
    page.get_by_label("Describe what the picture shows").fill("a yellow ball")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hit")).to_have_count(12, timeout=60_000)
    assert visit.first() == FIRST + CAPTIONS.index("a yellow ball")
    expect(page).to_have_url(f"{address}/?text=a+yellow+ball")
    # back leads to the page as it was
    page.go_back()
    expect(page.locator(".hit")).to_have_count(0, timeout=60_000)
    assert all(url.startswith((address, "data:")) for url in visit.requests)
    assert visit.said == []
    page.close()


def test_an_upload_is_described_by_captions(browser, address, tmp_path):
    Image.new("RGB", (50, 40), "green").save(tmp_path / "mine.png")
    visit = Visit(browser, address)
    visit.page.get_by_label("Or search by a picture").set_input_files(tmp_path / "mine.png")
    expect(visit.page.locator(".captions li").first).to_contain_text("a green", timeout=60_000)
    visit.page.locator(".captions a").first.click()
    expect(visit.page.get_by_role("status").first).to_contain_text("for “a green")
    assert all(url.startswith((address, "data:")) for url in visit.requests)
    assert visit.said == []
    visit.page.close()


def test_everything_by_keyboard(browser, address):
    visit = Visit(browser, address)
    page = visit.page

    def tab_to(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({selector!r})"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", "the focus is not visible"
                return
        raise AssertionError(f"{selector} is not reached")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to("#text")
    page.keyboard.type("a red kite")
    page.keyboard.press("Enter")
    expect(page.locator(".hit")).to_have_count(12, timeout=60_000)
    expect(page.locator("p[aria-live=polite]")).to_have_text("12 pictures for “a red kite”.")
    # the focus stays in the field; a word shows where it looks as soon as it has the focus
    tab_to(".asked .w1")
    expect(page.locator(".hit .s1").first).to_have_css("opacity", "1")
    expect(page.locator(".hit .s2").first).to_have_css("opacity", "0")
    tab_to(".hit summary")
    page.keyboard.press("Enter")
    tab_to(".hit .word.w2")
    expect(page.locator(".hit .s2").first).to_have_css("opacity", "1")
    expect(page.locator(".hit .s2").nth(1)).to_have_css("opacity", "0")
    tab_to(".acts a")
    page.keyboard.press("Enter")
    expect(page.locator(".by")).to_contain_text("Searching by this picture", timeout=60_000)
    page.close()


def test_changed_queries_appear_below_without_a_new_page(browser, address):
    visit = Visit(browser, address, "/?text=a+red+kite")
    page = visit.page
    page.evaluate("window.kept = true")
    page.get_by_role("link", name="Drop, change and add words").click()
    expect(page.get_by_role("heading", name="Says less")).to_be_visible(timeout=60_000)
    page.get_by_label("Your own change").fill("a blue box")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="Your change")).to_be_visible(timeout=60_000)
    assert page.evaluate("window.kept")
    page.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_are_accessible(browser, address, width, scheme):
    for path in ("/", "/?text=a+red+umbrella&variants=1", "/?image_id=8", "/docs"):
        visit = Visit(browser, address, path, width, color_scheme=scheme, bypass_csp=True)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        found = Axe().run(visit.page).response["violations"]
        assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []
        visit.page.close()


def test_text_of_double_size_needs_no_sideways_scrolling(browser, address):
    """As on a screen of 1,280 pixels at 200%."""
    visit = Visit(browser, address, "/?text=a+red+kite&variants=1", width=640, device_scale_factor=2)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 640
    visit.page.close()


def test_a_dropped_file_that_is_too_large_is_not_sent(browser, address, tmp_path: Path):
    (tmp_path / "large.png").write_bytes(b"x" * 10_000_001)
    visit = Visit(browser, address)
    visit.page.get_by_label("Or search by a picture").set_input_files(tmp_path / "large.png")
    expect(visit.page.get_by_role("alert")).to_contain_text("larger than 10 MB")
    assert [url for url in visit.requests if url == address + "/"] == [address + "/"]
    visit.page.close()
