"""A browser that watches the console: whatever it does wrong fails the test."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.flow.installation import Installation

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
# What a browser says about answers that are errors, as when a wrong file is refused.
_EXPECTED = re.compile(r"Failed to load resource|net::ERR_|EventSource")
PAGES = ("classify", "learn", "faces", "create", "jobs", "system")
ALL_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
SEEN_RULES = {"runOnly": ["color-contrast", "target-size", "scrollable-region-focusable"]}
"""Those whose result depends on the size and the colors of the page."""
expect.set_options(timeout=30_000)  # the machine may be busy with other tests
OpenConsole = Callable[..., Page]
Launch = Callable[..., Browser]


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Starts Chromium, as it is installed; Playwright downloads none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:

        def start(*options: str) -> Browser:
            return playwright.chromium.launch(
                executable_path=program, args=[*OPTIONS, *options], chromium_sandbox=False
            )

        yield start


@pytest.fixture(scope="module")
def browser(launch: Launch) -> Iterator[Browser]:
    browser = launch()
    yield browser
    browser.close()


class Watch:
    """Notes requests to other origins, errors of scripts, and refusals by the policy."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.faults: list[str] = []

    def attach(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", self._note)
        page.on("request", self._check)

    def _note(self, message: Any) -> None:
        if message.type in {"error", "warning"} and not _EXPECTED.search(message.text):
            self.faults.append(f"{message.type}: {message.text}")

    def _check(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in {"http", "https", "ws", "wss"}:
            origin = f"{parts.scheme}://{parts.netloc}"
            if origin != self._origin:
                self.faults.append(f"request to {request.url}")


def violations(page: Page, rules: dict[str, list[str]]) -> str:
    """What axe-core finds wrong with a page; the page must have been opened with `bypass_csp`.

    The checker itself writes HTML, which the console's policy forbids.
    """
    results = Axe().run(page, options=rules)
    return str(results.generate_report()) if results.violations_count else ""


@pytest.fixture
def open_console(browser: Browser) -> Iterator[OpenConsole]:
    """Opens a page of a console; fails at the end for what the page did wrong.

    With `clock`, the test says what time it is for the page.
    """
    contexts: list[BrowserContext] = []
    watches: list[Watch] = []

    def begin(
        served: Installation | str,
        name: str,
        *,
        by: Browser | None = None,
        clock: bool = False,
        **options: Any,
    ) -> Page:
        url = served if isinstance(served, str) else served.url
        context = (by or browser).new_context(**{"locale": "en-US", **options})
        contexts.append(context)
        watches.append(Watch(url))
        page = context.new_page()
        page.set_default_timeout(30_000)
        if clock:
            page.clock.install()
        watches[-1].attach(page)
        page.goto(f"{url}/#/{name}")
        return page

    yield begin
    for context in contexts:
        context.close()
    assert [fault for watch in watches for fault in watch.faults] == []


@pytest.fixture
def wrong_file(tmp_path: Path) -> Path:
    """A file that says it is an image."""
    path = tmp_path / "notes.png"
    path.write_text("This is no image.")
    return path
