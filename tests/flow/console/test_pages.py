"""What each page shows: nothing yet, or something with the worst names, on any screen."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, expect

from contracts.settings import Settings
from tests.flow.console.conftest import ALL_RULES, PAGES, SEEN_RULES, OpenConsole, violations
from tests.flow.console.world import (
    CALIBRATION,
    FAILED,
    HOSTILE,
    IMAGE,
    LONG,
    LONGEST_FILE,
    RUNNING,
    SCRIPT,
    TRAINING,
    empty_services,
    filled_service,
)
from tests.service.conftest import listening
from tests.service.parts import gray_png
from tests.valkey import RealValkey

# A mark that turns text around ends with the name that it is part of.
TURNING = """() => [...document.querySelectorAll("main *")].filter(one => one.tagName !== "BDI"
    && [...one.childNodes].some(node => node.nodeType === 3 && /\u202e/.test(node.data)))
    .map(one => one.outerHTML)"""
FITS = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def world(valkey_server: RealValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_service(tmp_path_factory.mktemp("world"), valkey_server.url) as (url, _):
        yield url


def open_all(page: Page) -> None:
    """Everything that can be seen on a page."""
    expect(page.get_by_text("Loading …")).to_have_count(0)
    page.locator("main details").evaluate_all("all => all.forEach(one => { one.open = true; })")


def image(name: str) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": gray_png(33)}


def everything(url: str, page: Page) -> Iterator[str]:
    """Goes from one thing that the console shows to the next; yields its name."""
    page.locator("input[type=file]").first.set_input_files(files=[image(LONGEST_FILE)])
    expect(page.locator("canvas.overlay:not(.waiting)")).to_be_attached()
    open_all(page)
    yield "an answer"
    for name in PAGES:
        page.goto(f"{url}/#/{name}")
        open_all(page)
        yield name
    page.goto(f"{url}/#/learn?job={TRAINING}")
    page.locator(".cell.wrong").first.click()
    expect(page.locator(".mistakes img").first).to_be_visible()
    open_all(page)
    yield "a training"
    page.goto(f"{url}/#/learn")
    page.locator(".entry").first.click()
    expect(page.locator(".report .thumbnail").first).to_be_visible()
    open_all(page)
    yield "a dataset"
    page.goto(f"{url}/#/faces")
    page.locator(".entry").first.click()
    open_all(page)
    yield "a person"
    page.get_by_role("button", name="Erase").click()
    yield "a question"
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()


def test_a_page_says_what_it_is_for_while_it_is_empty(
    valkey: RealValkey, tmp_path: Path, open_console: OpenConsole
) -> None:
    fakes = empty_services(tmp_path, valkey.url)
    fakes.workers.workers = ()
    with listening(Settings(_env_file=None, home=tmp_path), fakes) as url:
        page = open_console(url, "classify")
        for name, text in (
            ("classify", "What is in your image?"),
            ("learn", "Teach it something new"),
            ("faces", "Nobody is enrolled yet"),
            ("create", "Watch it take shape"),
            ("jobs", "No jobs"),
            ("system", "No worker is running"),
        ):
            page.goto(f"{url}/#/{name}")
            expect(page.get_by_text(text)).to_be_visible()


@pytest.mark.parametrize(
    ("width", "scheme", "rules"),
    [
        (1440, "light", ALL_RULES),
        (390, "dark", SEEN_RULES),
        pytest.param(390, "light", ALL_RULES, marks=pytest.mark.slow),
        pytest.param(1440, "dark", ALL_RULES, marks=pytest.mark.slow),
    ],
)
def test_everything_is_accessible_and_fits(
    world: str, open_console: OpenConsole, width: int, scheme: str, rules: dict[str, list[str]]
) -> None:
    """Also enlarged, as far as 400 % of a window of 1280 pixels; and the worst names are text."""
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    page = open_console(world, "classify", bypass_csp=True, **options)
    page.on("dialog", lambda dialog: pytest.fail(f"a name was run: {dialog.message}"))
    seen = ""
    for name in everything(world, page):
        assert violations(page, rules) == "", name
        seen += page.locator("body").inner_text()
        assert page.locator("main script, main img[src=x]").count() == 0, name
        assert page.evaluate(TURNING) == [], name
        for narrow in (width, 640, 320):
            page.set_viewport_size({"width": narrow, "height": 450})
            assert page.evaluate(FITS), f"{name} at {narrow}"
        page.set_viewport_size({"width": width, "height": 900})
    assert all(name in seen for name in HOSTILE)


def test_jobs_are_filtered_and_counted(world: str, open_console: OpenConsole) -> None:
    page = open_console(world, "jobs")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(4)
    expect(page.locator("tr", has_text=FAILED)).to_contain_text(f"It broke: {IMAGE}")
    running = page.locator("tr", has_text=RUNNING)
    expect(running).to_contain_text("50%")
    expect(running).to_contain_text("2 min 5 s left")
    for title, text in (
        ("Trainings", "1 running, 2 waiting"),
        ("Images", "5 waiting"),
        ("Workers", "1 for images, 1 for jobs; CPU"),
    ):
        card = page.locator(".stat", has=page.get_by_role("heading", name=title, exact=True))
        expect(card).to_contain_text(text)
    page.get_by_label("State").select_option("succeeded")
    expect(rows).to_have_count(2)
    page.get_by_label("Kind").select_option("calibration")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(CALIBRATION)
    page.get_by_label("State").select_option("queued")
    expect(page.get_by_text("No jobs")).to_be_visible()


def test_the_system_page_says_why_a_model_is_unavailable(
    world: str, open_console: OpenConsole
) -> None:
    page = open_console(world, "system")
    row = page.locator("tr", has=page.get_by_text("vgg16", exact=True))
    expect(row).to_contain_text("unavailable")
    expect(row).to_contain_text("`opsin weights pull vgg16` fetches the weights.")
    expect(page.locator("tr", has_text="here · 1")).to_contain_text("CPU")
    for link in page.locator("main li a").all():
        assert page.request.get(str(link.evaluate("one => one.href"))).status < 500
    expect(page.get_by_role("link", name="Metrics for Prometheus")).to_be_visible()


def test_a_calibration_is_a_curve(world: str, open_console: OpenConsole) -> None:
    page = open_console(world, "faces")
    page.get_by_text("Threshold and calibration").click()
    expect(page.locator(".chart polyline")).to_have_count(2)
    expect(page.locator(".legend")).to_have_text("FMRFNMR")


def test_what_was_left_out_is_shown(world: str, open_console: OpenConsole) -> None:
    page = open_console(world, "learn")
    page.locator(".entry", has_text=SCRIPT).first.click()
    refused = page.locator(".report li")
    copy = refused.filter(has_text="copy.png")
    expect(copy).to_contain_text("duplicate")
    for one in (copy, refused.filter(has_text="gnp.exe")):
        expect(one.locator("img")).to_be_visible()
        expect(one.locator("img")).to_have_js_property("naturalWidth", 160)
    broken = refused.filter(has_text="not_an_image")
    expect(broken.locator("img")).to_have_count(0)


def test_a_page_keeps_its_place(world: str, open_console: OpenConsole) -> None:
    """By the back button, a reload, and the keyboard when a list is drawn anew."""
    page = open_console(world, "learn")
    entry = page.locator(".entry", has_text="pets")
    entry.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Confusion matrix")).to_be_visible()
    expect(entry).to_be_focused()
    page.locator("#pages a[data-page=jobs]").click()
    expect(page.locator("tbody tr")).to_have_count(4)
    page.go_back()
    expect(page.get_by_role("heading", name="Confusion matrix")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Confusion matrix")).to_be_visible()


def test_nothing_moves_for_who_wants_no_motion(world: str, open_console: OpenConsole) -> None:
    page = open_console(world, f"learn?job={TRAINING}", reduced_motion="reduce")
    expect(page.get_by_role("heading", name="Confusion matrix")).to_be_visible()
    page.evaluate("""() => {
        window.smooth = 0;
        const scroll = Element.prototype.scrollIntoView;
        Element.prototype.scrollIntoView = function (how) {
            if (how?.behavior === "smooth") window.smooth += 1;
            scroll.call(this, how);
        };
    }""")
    page.locator(".cell.wrong").first.click()
    expect(page.locator(".mistakes img").first).to_be_visible()
    assert page.evaluate("window.smooth + document.getAnimations().length") == 0
    assert LONG in page.locator("main").inner_text()
