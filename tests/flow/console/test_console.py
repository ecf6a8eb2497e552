"""The console in Debian's Chromium, against the one running installation."""

import zipfile
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.flow.console.conftest import OpenConsole
from tests.flow.installation import Installation
from tests.flow.trainings import color_image

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\u202egnp.exe\u202c",
    "a" * 100,
)
MAX_PAINT_MS = 1000


def opacity(page: Page) -> str:
    return page.locator("canvas.overlay").evaluate("one => one.style.opacity")


def expect_a_heatmap(page: Page) -> None:
    """Waits until at least a thousand pixels of it are drawn."""
    expect(page.locator("canvas.overlay")).to_be_visible()
    page.wait_for_function("""() => {
        const one = document.querySelector("canvas.overlay");
        const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
        return data.filter((value, index) => index % 4 === 3 && value > 0).length > 1000;
    }""")


def test_an_image_is_classified_and_explained(
    running: Installation, open_console: OpenConsole, photos: Path
) -> None:
    page = open_console(running, "classify", permissions=["clipboard-write", "clipboard-read"])
    with page.expect_response("**/v1/heatmap*"):
        page.locator("input[type=file]").first.set_input_files(photos / "cat.png")
    expect(page.get_by_text("What speaks for “")).to_be_visible()
    classes = page.locator(".bars button")
    expect(classes).to_have_count(5)
    assert "cat" in classes.first.inner_text() or "tabby" in classes.first.inner_text()
    expect_a_heatmap(page)

    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_label("Opacity").fill("0.9")
    assert opacity(page) == "0.9"
    page.get_by_label("Colors").select_option("viridis")
    assert requests == []
    with page.expect_response("**/v1/heatmap*") as answer:
        classes.nth(1).click()
    assert "class_index=" in answer.value.url
    expect(page.locator(".bars button").nth(1)).to_have_attribute("aria-pressed", "true")
    with page.expect_response("**/v1/heatmap*method=layer_cam*", timeout=120_000):
        page.get_by_label("Method").select_option("layer_cam")
    controls = page.locator(".card", has=page.get_by_role("heading", name="Why?"))
    layer = controls.get_by_label("Layer")
    chosen = layer.locator("option").nth(1).get_attribute("value") or ""
    with page.expect_response(f"**/v1/heatmap*layer={chosen}*", timeout=120_000) as answer:
        layer.select_option(chosen)
    assert answer.value.ok

    page.get_by_text("Do this in code").click()
    page.get_by_role("button", name="Copy curl").click()
    expect(page.locator(".notices")).to_contain_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl ")
    assert "/v1/classify?model=" in copied


def test_several_images_are_a_gallery_and_a_wrong_file_says_so(
    running: Installation, open_console: OpenConsole, photos: Path, wrong_file: Path
) -> None:
    page = open_console(running, "classify")
    files = [photos / "coffee.png", wrong_file, photos / "cat.png"]
    page.locator("input[type=file]").first.set_input_files(files)
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(3)
    expect(tiles.nth(1)).to_contain_text("not read")
    tiles.nth(1).click()
    expect(page.locator(".problem")).to_contain_text("Send a JPEG")
    page.get_by_label("Order").select_option("unsure")
    expect(tiles.first).to_contain_text("not read")
    page.get_by_role("button", name="Remove all").click()
    expect(page.get_by_role("heading", name="What is in your image?")).to_be_visible()


def test_class_folders_become_a_dataset_and_a_wrong_archive_says_so(
    running: Installation, open_console: OpenConsole, tmp_path: Path
) -> None:
    page = open_console(running, "learn")
    wrong = tmp_path / "notes.zip"
    wrong.write_text("This is no archive.")
    page.locator("input[type=file]").first.set_input_files(wrong)
    expect(page.locator(".notices .problem")).to_contain_text("Pack folders of images")
    folder = tmp_path / "my colors"
    for color in ("red", "blue"):
        (folder / "train" / color).mkdir(parents=True)
        for number in range(3):
            (folder / "train" / color / f"{number}.png").write_bytes(color_image(color, number))
    (folder / "train/red/.hidden.png").write_bytes(b"not meant")
    (folder / "readme.txt").write_text("not in a class")
    (folder / "train/odd").mkdir()
    (folder / "train/odd/alone.png").write_text("This is no image.")
    page.locator("input[webkitdirectory]").set_input_files(folder)
    expect(page.get_by_role("heading", name="my colors")).to_be_visible()
    expect(page.locator(".bars li")).to_have_text(["blue3", "red3"])
    expect(page.locator(".notices")).to_contain_text("odd/alone.png was left out")
    expect(page.locator(".chip").first).to_have_text("training: 6")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".entry", has_text="my colors")).to_have_count(0)


def test_hostile_names_are_text_everywhere(
    running: Installation, open_console: OpenConsole, photos: Path, tmp_path: Path
) -> None:
    hostile = [name.replace("/", "_") for name in HOSTILE]
    archive = tmp_path / "names.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for index, name in enumerate(hostile):
            for number in range(3):
                data = color_image("red", 10 * index + number)
                packed.writestr(f"{name}/{name}{number}.png", data)
            packed.writestr(f"{name}/{name}.txt", "not an image")
    with httpx.Client(base_url=running.url, timeout=60) as client:
        form = {"name": HOSTILE[0]}
        with archive.open("rb") as file:
            sent = client.post("/v1/datasets", files={"archive": ("a.zip", file)}, data=form)
        assert sent.status_code in {201, 202}, sent.text
        people = [client.post("/v1/faces/subjects", json={"name": name}) for name in HOSTILE]
    page = open_console(running, f"learn?dataset={sent.json()['id']}")
    page.on("dialog", lambda dialog: pytest.fail(f"a name was run: {dialog.message}"))
    expect(page.get_by_role("heading", name=HOSTILE[0])).to_be_visible()
    for name in hostile:
        # A class is not named by marks that turn the text around; its files are in the report.
        place = ".report li" if "\u202e" in name else ".bars bdi"
        expect(page.locator(place, has_text=name).first).to_be_attached()
    page.goto(f"{running.url}/#/faces")
    accepted = [name for name, answer in zip(HOSTILE, people, strict=True) if answer.is_success]
    assert set(accepted) >= {name for name in HOSTILE if "\u202e" not in name}
    for name in accepted:
        expect(page.locator(".entry bdi", has_text=name.strip("\u202e\u202c"))).to_be_visible()
    page.goto(f"{running.url}/#/classify")
    photo = (photos / "coffee.png").read_bytes()
    longest = "a" * 251
    page.locator("input[type=file]").first.set_input_files(
        [
            {"name": f"{name}.png", "mimeType": "image/png", "buffer": photo}
            for name in (hostile[1], longest)
        ]
    )
    expect(page.locator(".file bdi", has_text=hostile[1])).to_be_visible()
    page.locator(".tile").nth(1).click()
    expect(page.locator(".file bdi", has_text=longest)).to_be_visible()
    page.get_by_text("Do this in code").click()
    assert page.locator("main script, main img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with httpx.Client(base_url=running.url) as client:
        client.delete(f"/v1/datasets/{sent.json()['id']}")
        for person in people:
            if person.is_success:
                client.delete(f"/v1/faces/subjects/{person.json()['id']}")


def test_a_lost_connection_recovers(
    running: Installation, open_console: OpenConsole, photos: Path
) -> None:
    page = open_console(running, "classify")
    page.locator("input[type=file]").first.set_input_files(photos / "cat.png")
    expect(page.locator(".bars button")).to_have_count(5)
    page.context.set_offline(True)
    page.locator(".bars button").nth(2).click()
    expect(page.locator(".notices")).to_contain_text("The connection to the service is lost")
    page.locator("#pages a[data-page=system]").click()
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    page.context.set_offline(False)
    expect(page.locator(".notices")).to_contain_text("Connected again")
    expect(page.get_by_role("heading", name="Keys")).to_be_visible()  # without a click
    page.go_back()
    page.locator(".bars button").nth(1).click()
    expect(page.get_by_text("What speaks for “")).to_be_visible()


def test_everything_can_be_done_with_the_keyboard(
    running: Installation, open_console: OpenConsole
) -> None:
    page = open_console(running, "classify")
    expect(page.get_by_role("heading", name="What is in your image?")).to_be_visible()
    page.locator("body").press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    reached = set()
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim().slice(0, 20)"))
    assert {"Learn", "System", "Take a photo"} <= reached
    page.locator("#pages a[data-page=jobs]").press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_the_language_can_be_chosen_and_is_kept(
    running: Installation, open_console: OpenConsole
) -> None:
    page = open_console(running, "jobs", locale="zh-CN")
    expect(page.get_by_role("heading", name="任务", exact=True)).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_the_first_paint_is_fast(
    running: Installation, browser: Browser, open_console: OpenConsole
) -> None:
    """The best of some visits without a cache: what the page costs, not what the machine does."""
    paints: list[float] = []
    while len(paints) < 10 and min(paints, default=MAX_PAINT_MS) >= MAX_PAINT_MS:
        page = open_console(running, "classify")
        page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        paints.append(page.evaluate(paint))
    assert min(paints) < MAX_PAINT_MS
