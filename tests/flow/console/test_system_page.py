"""The page System says what a network without its classifier can still do."""

from playwright.sync_api import Route, expect

from contracts.settings import Settings
from tests.flow.console.conftest import OpenConsole
from tests.service.conftest import listening
from tests.service.parts import FakeServices


def without_classifier(route: Route) -> None:
    """The answer of a service that has the base of VGG16 only, and nothing of SqueezeNet."""
    system = route.fetch().json()
    system["models"] = system["models"][:2]
    base, missing = system["models"]
    parts = {"state": "unavailable", "reason": "The weights are not here."}
    base |= parts | {"name": "vgg16", "operations": ["embed", "explain", "study"]}
    missing |= parts | {"name": "squeezenet", "operations": []}
    system["workers"][0]["models"] = [
        {"name": "vgg16", "version": 1, "state": "unavailable"},
        {"name": "squeezenet", "version": None, "state": "unavailable"},
    ]
    route.fulfill(json=system)


def test_a_base_without_its_classifier_is_partly_ready(open_console: OpenConsole) -> None:
    fakes = FakeServices()
    fakes.with_keys()
    with listening(Settings(_env_file=None), fakes) as url:
        page = open_console(url, "jobs")
        page.route("**/v1/system", without_classifier)
        page.goto(f"{url}/#/system")
        row = page.locator("tr", has=page.locator("strong", has_text="vgg16"))
        expect(row).to_contain_text("partly: embed, explain")
        row = page.locator("tr", has=page.locator("strong", has_text="squeezenet"))
        expect(row).to_contain_text("unavailable")
        worker = page.locator("tr", has_text="Images")
        expect(worker).to_contain_text("vgg16:1")
        expect(worker).not_to_contain_text("squeezenet")
