"""What other pages, other people and impatient ones can do to a person who uses the console."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from playwright.sync_api import FilePayload, Page, Route, expect

from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from tests.flow.console.conftest import OpenConsole
from tests.flow.console.world import SCRIPT, archive, empty_services
from tests.service.conftest import listening
from tests.service.parts import FakeServices, gray_png
from tests.valkey import RealValkey

BOOTSTRAP = "a-key-of-sixteen-or-more"
NEW_KEY = '{"name": "stolen", "scopes": ["admin"]}'
ATTACKS = """async address => {
    const send = (path, options) =>
        fetch(address + path, {credentials: "include", ...options}).then(one => one.type, () => "");
    const plain = {method: "POST", mode: "no-cors", body: NEW_KEY};
    const form = new FormData();
    form.append("name", "stolen");
    return [
        await send("/v1/keys", plain),
        await send("/v1/keys", {...plain, headers: {"Content-Type": "text/plain"}}),
        await send("/v1/keys", {method: "POST", body: NEW_KEY,
            headers: {"Content-Type": "application/json"}}),
        await send("/v1/datasets", {method: "POST", mode: "no-cors", body: form}),
        await send("/v1/session", {method: "DELETE"}),
        await send("/v1/keys", {}),
    ];
}""".replace("NEW_KEY", f"'{NEW_KEY}'")


@pytest.fixture
def fakes(valkey: RealValkey, tmp_path: Path) -> FakeServices:
    return empty_services(tmp_path, valkey.url)


@pytest.fixture
def keyed(fakes: FakeServices, tmp_path: Path) -> Iterator[str]:
    settings = Settings(_env_file=None, api_key=BOOTSTRAP, home=tmp_path)
    with listening(settings, fakes) as address:
        yield address


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of another site on this machine."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>another site</title><p>Win a prize!</p>")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def sign_in(page: Page, key: str = BOOTSTRAP) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def show_image(page: Page, name: str) -> None:
    file: FilePayload = {"name": name, "mimeType": "image/png", "buffer": gray_png(33)}
    page.locator("input[type=file]").first.set_input_files(files=[file])
    expect(page.locator(".bars button").first).to_have_text("class 33")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_another_site_can_neither_act_nor_look(
    keyed: str, fakes: FakeServices, open_console: OpenConsole, elsewhere: int, host: str
) -> None:
    """Also one at another port of the same host, to which browsers send cookies all the same."""
    page = open_console(keyed, "classify")
    sign_in(page)
    other = page.context.new_page()  # in the same browser, but not watched
    other.goto(f"http://{host}:{elsewhere}/")
    assert set(other.evaluate(ATTACKS, keyed)) <= {"", "opaque"}
    assert other.evaluate(
        """address => new Promise(resolve => {
            const frame = document.createElement("iframe");
            frame.src = address;
            frame.onload = () => resolve(frame.contentDocument === null);
            document.body.append(frame);
        })""",
        keyed,
    )
    frame = other.frames[-1]
    assert "Opsin" not in frame.content()  # Chromium shows an error page in its place
    assert [one.name for one in fakes.keys.list(limit=10, cursor=None).items] == []
    with httpx.Client(base_url=keyed, headers={"X-API-Key": BOOTSTRAP}) as client:
        assert client.get("/v1/datasets").json()["items"] == []
    page.locator("#pages a[data-page=system]").click()
    expect(page.get_by_role("heading", name="Keys")).to_be_visible()  # still signed in


def test_a_session_that_an_attacker_prepared_is_not_taken_over(
    keyed: str, open_console: OpenConsole
) -> None:
    page = open_console(keyed, "classify")
    prepared = "p" * 43
    page.context.add_cookies([{"name": "opsin_session", "value": prepared, "url": keyed}])
    page.reload()
    sign_in(page)
    [session] = [one for one in page.context.cookies() if one["name"] == "opsin_session"]
    assert session["value"] != prepared
    stale = {"Cookie": f"opsin_session={prepared}"}
    assert httpx.get(f"{keyed}/v1/session", headers=stale).status_code == 401


def test_who_signs_out_leaves_nothing_behind(
    keyed: str, fakes: FakeServices, open_console: OpenConsole
) -> None:
    page = open_console(keyed, "classify")
    sign_in(page)
    show_image(page, "private.png")
    second = page.context.new_page()
    second.goto(f"{keyed}/#/jobs")
    expect(second.get_by_text("No jobs")).to_be_visible()
    page.locator("#pages a[data-page=system]").click()
    page.get_by_text("Create a key").first.click()
    page.get_by_label("Name").fill("mine")
    page.get_by_role("button", name="Create a key").click()
    secret = page.locator(".secret").inner_text()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    assert secret not in page.content()
    expect(second.get_by_role("heading", name="Sign in")).to_be_visible()  # in every tab
    page.go_back()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    other = fakes.keys.create(NewKey(name="other", scopes=["infer"]), actor=COMMAND).key or ""
    sign_in(page, other)
    expect(page.get_by_role("heading", name="What is in your image?")).to_be_visible()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])")
    assert secret not in kept
    assert other not in kept


def test_another_person_sees_nothing_of_a_session_that_ended(
    keyed: str, fakes: FakeServices, valkey: RealValkey, open_console: OpenConsole
) -> None:
    page = open_console(keyed, "classify")
    sign_in(page)
    show_image(page, "private.png")
    page.context.clear_cookies()  # as when the session has ended
    page.locator(".bars button").nth(1).click()
    expect(page.get_by_text("The session has ended. Sign in again.").first).to_be_visible()
    other = fakes.keys.create(NewKey(name="other", scopes=["infer"]), actor=COMMAND).key or ""
    sign_in(page, other)
    expect(page.get_by_role("heading", name="What is in your image?")).to_be_visible()
    assert "private.png" not in page.content()


@pytest.fixture
def open_service(fakes: FakeServices, tmp_path: Path) -> Iterator[str]:
    with listening(Settings(_env_file=None, home=tmp_path), fakes) as address:
        yield address


def upload(url: str) -> str:
    with httpx.Client(base_url=url, timeout=60) as client:
        files = {"archive": ("names.zip", archive())}
        made = client.post("/v1/datasets", files=files, data={"name": SCRIPT})
    return str(made.json()["id"])


def test_a_double_click_begins_one_thing(
    open_service: str, fakes: FakeServices, open_console: OpenConsole
) -> None:
    dataset = upload(open_service)
    page = open_console(open_service, f"learn?dataset={dataset}")
    page.get_by_label("Network", exact=True).select_option("cnn_small")
    page.get_by_role("button", name="Start training").dblclick()
    expect(page.locator(".state.queued").first).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("main .state.cancelled")).to_be_visible()
    created: list[Route] = []

    def create(route: Route) -> None:  # the weights of a style transfer are not here
        created.append(route)
        job = fakes.jobs.put(f"job_style{len(created)}", kind="style_transfer")
        route.fulfill(status=202, json=job.model_dump(mode="json"))

    page.route("**/v1/style_transfers", create)
    page.goto(f"{open_service}/#/create")
    for place in (0, 1):
        image: FilePayload = {
            "name": "a.png",
            "mimeType": "image/png",
            "buffer": gray_png(20 + place),
        }
        page.locator("input[type=file]").nth(place).set_input_files(files=[image])
    page.get_by_role("button", name="Create", exact=True).dblclick()
    expect(page.locator("main .state.queued")).to_be_visible()
    page.goto(f"{open_service}/#/faces")
    page.get_by_label("Name", exact=True).fill("Ada")
    page.get_by_label("The person has agreed").check()
    page.get_by_role("button", name="Add a person").dblclick()
    expect(page.locator(".entry")).to_have_count(1)
    page.goto(f"{open_service}/#/learn?dataset={dataset}")
    page.get_by_role("button", name="Delete").dblclick()
    page.get_by_role("dialog").get_by_role("button", name="Delete").dblclick()
    expect(page.locator(".entry", has_text=SCRIPT)).to_have_count(0)
    expect(page.locator(".notice.bad")).to_have_count(0)
    assert [kind for kind, _, _ in fakes.jobs.worked] == ["training"]
    assert len(created) == 1


def test_an_upload_goes_on_after_a_lost_connection(
    open_service: str, open_console: OpenConsole, tmp_path: Path
) -> None:
    """An answer that was lost is no reason to add images twice."""
    page = open_console(open_service, "learn")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/datasets", hold)
    packed = tmp_path / "names.zip"
    packed.write_bytes(archive())
    bar = page.get_by_role("progressbar", name="Uploading")

    page.locator("input[type=file]").first.set_input_files(packed)
    expect(bar).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(bar).to_have_count(0)

    page.locator("input[type=file]").first.set_input_files(packed)
    expect(bar).to_be_visible()
    held[-1].fetch()  # the service has it, but its answer does not arrive
    held[-1].abort("connectionreset")
    expect(page.locator(".notices")).to_contain_text("Connected again")
    while len(held) < 3:  # the test's own timeout ends this
        page.wait_for_timeout(50)
    keys = [one.request.headers.get("idempotency-key") for one in held[1:]]
    assert keys[0] is not None
    assert keys[0] == keys[1]
    held[-1].continue_()
    expect(page.get_by_role("heading", name="names")).to_be_visible()
    assert len(httpx.get(f"{open_service}/v1/datasets").json()["items"]) == 1


def test_what_was_deleted_meanwhile_is_said_and_goes_away(
    open_service: str, open_console: OpenConsole
) -> None:
    dataset = upload(open_service)
    page = open_console(open_service, f"learn?dataset={dataset}")
    page.get_by_label("Network", exact=True).select_option("cnn_small")
    assert httpx.delete(f"{open_service}/v1/datasets/{dataset}").is_success
    page.get_by_role("button", name="Start training").click()
    expect(page.locator(".notice.bad")).to_contain_text("dataset")
    page.reload()
    expect(page.locator(".problem")).to_contain_text("dataset")


def test_a_version_that_was_deleted_meanwhile_leaves_the_list(
    open_service: str, open_console: OpenConsole
) -> None:
    page = open_console(open_service, "jobs")
    versions = [1, 2]
    model = {"name": "pets", "network": "cnn_small", "aliases": {"champion": 2}, "classes": 2}

    def answer(route: Route) -> None:
        number = route.request.url.rsplit("/", 1)[-1]
        body = {"model": "pets", "version": int(number)} if number.isdigit() else model
        route.fulfill(json={**body, "versions": list(versions), "created_at": "2026-11-29"})

    page.route("**/v1/models/pets", answer)
    page.route("**/v1/models/pets/versions/*", answer)
    page.goto(f"{open_service}/#/learn?model=pets")
    rows = page.locator("table.stacked tbody tr")
    expect(rows).to_have_count(2)
    versions.remove(1)
    page.get_by_label("Download version 1").select_option("labels")  # answered by the service
    expect(page.locator(".notice.bad")).to_contain_text("no model")
    expect(rows).to_have_count(1)


def test_a_link_cannot_show_a_version_as_a_dataset(
    open_service: str, open_console: OpenConsole
) -> None:
    page = open_console(open_service, "jobs")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{open_service}/#/learn?dataset=../models/squeezenet/versions/1")
    expect(page.locator(".problem")).to_be_visible()
    assert f"{open_service}/v1/datasets/..%2Fmodels%2Fsqueezenet%2Fversions%2F1" in asked
    assert not [url for url in asked if "/v1/models/squeezenet/" in url]
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
