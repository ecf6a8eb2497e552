"""The table of jobs on a phone: what each is about, and nothing outside the screen."""

from playwright.sync_api import Route, expect

from contracts.jobs import Progress
from contracts.settings import Settings
from tests.flow.console.conftest import OpenConsole
from tests.service.conftest import listening
from tests.service.parts import FakeServices

PHONE = {"width": 390, "height": 844}


def test_a_running_job_is_named_by_its_model_and_fits_a_phone(open_console: OpenConsole) -> None:
    fakes = FakeServices()
    half = Progress(fraction=0.5, phase="head")
    fakes.jobs.put("job_1", kind="training", state="running", progress=half, about="pets")
    fakes.jobs.put("job_2", kind="training", about="digits", queue_position=1)
    with listening(Settings(_env_file=None), fakes) as url:
        page = open_console(url, "jobs", viewport=PHONE)
        row = page.locator("tr", has_text="job_1")
        expect(row).to_contain_text("pets")
        expect(page.locator("tr", has_text="job_2")).to_contain_text("digits")
        lines = [row.get_by_text(text, exact=True) for text in ("Training", "pets", "job_1")]
        tops = [(line.bounding_box() or {})["y"] for line in lines]
        assert tops == sorted(set(tops))  # one below the other
        expect(row.get_by_text("50%")).to_be_visible()  # as the command line writes it
        box = row.get_by_role("button", name="Cancel: Training").bounding_box() or {}
        assert box["x"] + box["width"] <= PHONE["width"]


def test_the_list_of_trainings_follows_the_one_that_is_shown(open_console: OpenConsole) -> None:
    fakes = FakeServices()
    fakes.jobs.put("job_1", kind="training", about="pets", queue_position=1)

    def begin(route: Route) -> None:
        """The training begins after the list was read."""
        fakes.jobs.put("job_1", kind="training", state="running", about="pets")
        route.continue_()

    with listening(Settings(_env_file=None), fakes) as url:
        page = open_console(url, "jobs")
        page.route("**/v1/datasets?*", lambda route: route.fulfill(json={"items": []}))
        page.route("**/v1/jobs/job_1", begin)
        page.goto(f"{url}/#/learn")
        expect(page.get_by_role("button", name="pets")).to_contain_text("running")
