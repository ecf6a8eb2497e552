"""How images reach the page Classify, and what can be done with an answer; without a worker."""

import base64
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from contracts.settings import Settings
from tests.flow.console.conftest import OpenConsole
from tests.flow.console.world import LONGEST_FILE
from tests.service.conftest import listening
from tests.service.parts import FakeServices, gray_png

NAMES = (
    "plain.png",
    "it's.png",
    'two "words"; c,d.png',
    "$(touch run).png",
    "猫\u202e.png",
    LONGEST_FILE,
)
GIVE = """(zone, [name, data, event]) => {
    const bytes = Uint8Array.from(atob(data), one => one.charCodeAt(0));
    const given = new DataTransfer();
    given.items.add(new File([bytes], name, {type: "image/png"}));
    const options = {bubbles: true, cancelable: true, dataTransfer: given, clipboardData: given};
    const kind = event === "paste" ? ClipboardEvent : DragEvent;
    zone.dispatchEvent(new kind(event, options));
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API with a sample photo; the brightness of an image is its class."""
    home = tmp_path_factory.mktemp("home")
    (home / "samples").mkdir()
    (home / "samples/cat.png").write_bytes(gray_png(200))
    with listening(Settings(_env_file=None, home=home), FakeServices()) as address:
        yield address


def give(page: Page, event: str, name: str, brightness: int) -> None:
    data = base64.b64encode(gray_png(brightness)).decode()
    page.locator(".drop").first.evaluate(GIVE, [name, data, event])


def test_an_image_is_dropped_pasted_photographed_or_a_sample(
    url: str, open_console: OpenConsole
) -> None:
    page = open_console(url, "classify", permissions=["camera"])
    best, tiles = page.locator(".bars button").first, page.locator(".tile")
    page.get_by_role("button", name="Sample: cat").click()
    expect(best).to_have_text("class 200")
    give(page, "drop", "dropped.png", 50)
    expect(best).to_have_text("class 50")
    give(page, "paste", "pasted.png", 60)
    expect(best).to_have_text("class 60")
    expect(tiles).to_have_count(3)
    page.get_by_role("button", name="Take a photo").click()
    expect(page.locator("video")).to_be_visible()
    page.wait_for_function("document.querySelector('video').videoWidth > 0")
    page.get_by_role("button", name="Take it").click()
    expect(tiles).to_have_count(4)
    expect(page.locator(".file")).to_have_text("camera.jpg")
    expect(page.locator("video")).to_have_count(0)


def test_a_gallery_is_used_with_the_keyboard(url: str, open_console: OpenConsole) -> None:
    page = open_console(url, "classify")
    for brightness in (10, 20, 30):
        give(page, "drop", f"{brightness}.png", brightness)
    tiles, classes = page.locator(".tile"), page.locator(".bars button")
    expect(tiles).to_have_count(3)
    expect(classes.first).to_have_text("class 30")
    tiles.nth(1).focus()
    page.keyboard.press("Enter")
    expect(classes.first).to_have_text("class 20")
    expect(tiles.nth(1)).to_be_focused()
    classes.nth(1).focus()
    with page.expect_response("**/v1/heatmap*class_index=21*"):
        page.keyboard.press("Space")
    expect(classes.nth(1)).to_be_focused()
    expect(classes.nth(1)).to_have_attribute("aria-pressed", "true")


def test_feature_maps_are_shown(url: str, open_console: OpenConsole) -> None:
    page = open_console(url, "classify")
    give(page, "drop", "a.png", 10)
    expect(page.locator(".bars button").first).to_have_text("class 10")
    page.get_by_text("Look inside").click()
    page.get_by_role("button", name="Feature maps").click()
    maps = page.get_by_role("img", name="The strongest feature maps")
    expect(maps).to_be_visible()
    expect(maps).not_to_have_js_property("naturalWidth", 0)  # it was loaded


def test_what_is_copied_runs(url: str, open_console: OpenConsole, tmp_path: Path) -> None:
    """In a shell and in Python, and does nothing but that, whatever the file is called."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    page = open_console(url, "classify", permissions=["clipboard-write", "clipboard-read"])
    for name in NAMES:
        (tmp_path / name).write_bytes(gray_png(77))
        give(page, "drop", name, 77)
        expect(page.locator(".file")).to_have_text(name)
        if name == NAMES[0]:
            page.get_by_text("Do this in code").click()  # and it stays open
        for language, program in (("curl", ["sh"]), ("Python", [sys.executable])):
            page.evaluate("navigator.clipboard.writeText('')")
            page.get_by_role("button", name=f"Copy {language}").click()
            page.wait_for_function("navigator.clipboard.readText()")
            text = page.evaluate("navigator.clipboard.readText()")
            done = run([*program, "-c", text], tmp_path)
            assert "class 77" in done.stdout, f"{text}\n{done.stderr}"
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_key_is_not_copied_but_named(url: str, open_console: OpenConsole) -> None:
    page = open_console(url, "classify")
    page.wait_for_selector("html[data-needs-key=false]")  # the page knows who asks
    page.evaluate("document.documentElement.dataset.needsKey = 'true'")
    give(page, "drop", "a.png", 5)
    page.get_by_text("Do this in code").click()
    curl, python = page.locator("pre").all_inner_texts()
    assert '-H "X-API-Key: $OPSIN_API_KEY"' in curl
    assert 'os.environ["OPSIN_API_KEY"]' in python
    assert httpx.get(url).is_success
