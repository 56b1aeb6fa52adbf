"""The page in a real browser: what it asks for, says on its console, and how it lies on narrow and wide screens."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from tests.helpers.report_pages import SECTIONS
from tests.helpers.run_folders import write_run

from ascl_lightning.evaluation.page.page import write_report

LONG = "/a/folder/whose/name/has/no/space/in/it" * 8


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(
        write_run(tmp_path_factory.mktemp("run"), checkpoint=LONG, leaks=[{"kind": "x", "message": LONG}])
    )


def opened(browser: Browser, report: Path, width: int, scheme: str = "light") -> tuple[Page, list[str], list[str]]:
    """The page, what it asked for and what it said on the console."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.as_uri(), wait_until="networkidle")
    return page, requests, said


@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_without_requests_and_console_errors(browser, report, width, scheme):
    page, requests, said = opened(browser, report, width, scheme)
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert said == []
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_the_figures_of_the_types_need_no_scrolling_on_a_phone(browser, report):
    page, _, _ = opened(browser, report, 400)
    table = page.query_selector(".scroll[aria-label^='Summary by type, %']")
    assert table.evaluate("of => of.scrollWidth <= of.clientWidth")
    page.close()


def test_every_section_is_seen(browser, report):
    page, _, _ = opened(browser, report, 1400)
    assert page.eval_on_selector_all("main section", "all => all.map(each => each.id)") == list(SECTIONS)
    assert all(page.is_visible(f"#{section} h2") for section in SECTIONS)
    page.close()


def test_pictures_are_drawn_and_described(browser, report):
    page, _, _ = opened(browser, report, 1400)
    page.eval_on_selector_all("img", "all => all.forEach(each => each.loading = 'eager')")
    page.wait_for_function("[...document.images].every(each => each.complete)")
    undrawn = "all => all.filter(each => each.naturalWidth === 0 || !each.alt).length"
    assert page.eval_on_selector_all("img", undrawn) == 0
    grey = "all => all.length > 0 && all.every(each => getComputedStyle(each).filter === 'grayscale(1)')"
    assert page.eval_on_selector_all(".lights use", grey), "the tint of attention is no colour of the picture"
    unnamed = "all => all.filter(each => !each.getAttribute('aria-label')).length"
    assert page.eval_on_selector_all("[role=img]", unnamed) == 0
    # a drawing that has no name is hidden, or inside something that has one
    loose = "all => all.filter(each => !each.closest('[role=img], [aria-hidden]')).length"
    assert page.eval_on_selector_all("svg", loose) == 0
    page.close()


def test_keyboard_navigation(browser, report):
    page, _, _ = opened(browser, report, 1400)
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('href')"))
    assert reached == ["#main", "#scores", "#protocols"]
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#protocols"
    # tables that may scroll sideways take the focus, so that arrows move them
    assert page.eval_on_selector_all(".scroll", "all => all.every(each => each.tabIndex === 0)")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser, report, scheme):
    """Contrast of 4.5 to 1 for text (WCAG 2.1, 1.4.3)."""
    page, _, _ = opened(browser, report, 1400, scheme)

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(", ")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for selector, ground in (
        ("body", "body"),
        (".from", "body"),
        ("nav a", "body"),
        (".banner", ".banner"),
        (".hit", ".hit"),
    ):
        colour = page.eval_on_selector(selector, "of => getComputedStyle(of).color")
        behind = page.eval_on_selector(ground, "of => getComputedStyle(of).backgroundColor")
        lighter, darker = sorted((luminance(colour), luminance(behind)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector
    page.close()
