"""Takes screenshots of the console of a running service.

    scripts/screenshots http://127.0.0.1:8000              the images of README and docs
    scripts/screenshots http://127.0.0.1:8000 --all shots   every page, both sizes and themes

Chromium has to be installed. The service should have sample photos, a
finished training and some jobs; the images show what is there.
"""

import argparse
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parents[3] / "docs" / "images"
WIDTHS = (390, 1440)
SCHEMES = ("light", "dark")
MAX_BYTES = 150_000
WAIT = 60_000


def first(page: Page, path: str) -> dict[str, Any] | None:
    """The first item of a list of the API."""
    items = page.request.get(f"{page.url.partition('#')[0]}{path}").json()["items"]
    return items[0] if items else None


def go(page: Page, place: str, shown: str) -> None:
    page.goto(f"{page.url.partition('#')[0]}#/{place}")
    page.locator(shown).first.wait_for(timeout=WAIT)
    page.wait_for_load_state("networkidle", timeout=WAIT)


def classify(page: Page) -> None:
    """A photo with its predictions and heatmap."""
    page.locator(".sample").nth(1).click()
    page.locator("canvas.overlay:not(.waiting)").wait_for(timeout=WAIT)


def gallery(page: Page) -> None:
    """Several photos, and everything that can be opened."""
    for place in range(3):
        page.locator(".sample").nth(place).click()
        page.locator("canvas.overlay:not(.waiting)").wait_for(timeout=WAIT)
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")


def training(page: Page) -> None:
    """The result of a training."""
    if job := first(page, "v1/jobs?kind=training&state=succeeded"):
        go(page, f"learn?job={job['id']}", ".confusion")
        page.wait_for_timeout(3000)  # for the heatmaps of the mistakes


def dataset(page: Page) -> None:
    if found := first(page, "v1/datasets"):
        go(page, f"learn?dataset={found['id']}", ".bars")


def versions(page: Page) -> None:
    if job := first(page, "v1/jobs?kind=training&state=succeeded"):
        go(page, f"learn?model={job['result']['model']}", "table")


def person(page: Page) -> None:
    if page.locator(".entry").count():
        page.locator(".entry").first.click()
        page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")


def creation(page: Page) -> None:
    if job := first(page, "v1/jobs?kind=style_transfer&state=succeeded"):
        go(page, f"create?job={job['id']}", "img.after[src]")


VIEWS: dict[str, tuple[str, Callable[[Page], None]]] = {
    "classify": ("classify", classify),
    "gallery": ("classify", gallery),
    "training": ("learn", training),
    "dataset": ("learn", dataset),
    "versions": ("learn", versions),
    "faces": ("faces", person),
    "create": ("create", creation),
    "jobs": ("jobs", lambda _: None),
    "system": ("system", lambda _: None),
}
"""What is photographed: on which page, and what is done there."""


def visit(browser: Browser, url: str, name: str, width: int, scheme: str, language: str) -> Page:
    """A page that has settled."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        locale=language,
        device_scale_factor=1,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{url}/#/{name}")
    page.locator("main .page, main form").first.wait_for(timeout=WAIT)
    page.wait_for_load_state("networkidle", timeout=WAIT)
    # Not every machine has a font for the other language's name.
    page.locator("#tools [lang]").evaluate("one => { one.hidden = true; }")
    return page


def write(data: bytes, path: Path) -> None:
    """As WebP, as good as its size permits."""
    with Image.open(io.BytesIO(data)) as image:
        for quality in (90, 80, 70, 55):
            image.convert("RGB").save(path, "WEBP", quality=quality, method=6)
            if path.stat().st_size < MAX_BYTES:
                return


def take_all(browser: Browser, url: str, folder: Path, language: str, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        place, act = VIEWS[name]
        for width in WIDTHS:
            for scheme in SCHEMES:
                page = visit(browser, url, place, width, scheme, language)
                act(page)
                page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
                if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    sys.stderr.write(f"{name} is wider than {width} pixels\n")
                page.context.close()


def take_best(browser: Browser, url: str) -> None:
    for name, scheme, height in (("classify", "light", 800), ("training", "dark", 1240)):
        place, act = VIEWS[name]
        page = visit(browser, url, place, 1280, scheme, "en-US")
        page.set_viewport_size({"width": 1280, "height": height})
        act(page)
        page.evaluate("scrollTo(0, 0)")
        write(page.screenshot(), IMAGES / f"console-{place}.webp")
        page.context.close()
    page = visit(browser, url, "classify", 390, "dark", "en-US")
    page.set_viewport_size({"width": 390, "height": 844})
    classify(page)
    page.evaluate("scrollTo(0, 0)")
    write(page.screenshot(), IMAGES / "console-phone.webp")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    parser.add_argument("--language", default="en-US")
    parser.add_argument("--pages", nargs="*", default=list(VIEWS))
    options = parser.parse_args()
    program = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if program is None:
        parser.error("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        url = options.url.rstrip("/")
        if options.all:
            take_all(browser, url, options.all, options.language, options.pages)
        else:
            take_best(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
