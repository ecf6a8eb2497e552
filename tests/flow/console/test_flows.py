"""What takes long in the console: learning, faces before a camera, jobs, and a restart."""

import io
import re
import signal
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from contracts.faces.faces import FACE_MODEL
from contracts.faces.liveness import Action
from contracts.queue.messages import Pixels
from tests.conftest import SHARED
from tests.flow.conftest import Networks
from tests.flow.console.conftest import Launch, OpenConsole
from tests.flow.installation import READY_SECONDS, Installation
from tests.flow.trainings import (
    color_archive,
    start_process,
    submit_training,
    training_installation,
    upload_dataset,
    wait_for_job,
)
from tests.models.faces.rendering import Puppet, performance

pytestmark = [pytest.mark.shared, pytest.mark.slow, pytest.mark.timeout(900)]
LONG = 400_000  # milliseconds
FPS = 15
LEAD, TAIL = 9.0, 5.0  # seconds in which the puppet looks at the camera before and after acting


@pytest.fixture(scope="module")
def console(
    shared: Path, fetched: Path, networks: Networks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """One installation with all processes, for every test of this file."""
    env = {
        "OPSIN_WEIGHTS_DIR": str(SHARED / "weights"),
        "OPSIN_MODELS": f"squeezenet,{FACE_MODEL}",
    }
    home = tmp_path_factory.mktemp("console") / "home"
    running = training_installation(
        home, fetched / "weights", networks("squeezenet", FACE_MODEL), env
    )
    try:
        for name in ("api", "jobs"):
            start_process(running, name)
        running.run("worker", "worker")
        running.wait_until_ready()
        running.wait_until(running.is_settled, READY_SECONDS)
        yield running
    finally:
        running.close()


@pytest.fixture
def client(console: Installation) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=console.url, timeout=60) as client:
        yield client


def mnist(shared: Path) -> bytes:
    """The subset, with a file that is no image."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted((shared / "data/mnist").rglob("*.png")):
            archive.write(path, path.relative_to(shared / "data/mnist"))
        archive.writestr("train/0/notes.txt", "this is no digit")
    return packed.getvalue()


def test_digits_are_learned_promoted_compared_and_rolled_back(
    console: Installation,
    client: httpx.Client,
    open_console: OpenConsole,
    shared: Path,
    tmp_path: Path,
) -> None:
    page = open_console(console, "learn")
    expect(page.get_by_role("heading", name="Teach it something new")).to_be_visible()
    archive = tmp_path / "digits.zip"
    archive.write_bytes(mnist(shared))
    page.locator("input[type=file]").first.set_input_files(archive)
    expect(page.locator(".report li")).to_contain_text("notes.txt", timeout=LONG)
    page.get_by_label("Network", exact=True).select_option("cnn_mnist")
    page.get_by_label("Epochs", exact=True).fill("4")
    page.get_by_label("Serve it afterwards").select_option("never")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator(".charts svg.chart")).to_have_count(2, timeout=LONG)
    expect(page.locator(".state.succeeded").first).to_be_visible(timeout=LONG)
    look_at_the_matrix(page)

    page.get_by_role("button", name="Versions").click()
    page.get_by_role("button", name="Make version 1 the champion").click()
    expect(page.locator(".notices")).to_contain_text("Version 1 is now the champion.")
    page.get_by_role("link", name="Try it").click()
    digit = min((shared / "data/mnist/test/7").iterdir())
    expect(page.get_by_label("Model", exact=True)).to_have_value("digits")
    page.locator("input[type=file]").first.set_input_files(digit)
    expect(page.locator(".bars button").first).to_have_text("7", timeout=LONG)

    page.goto(f"{console.url}/#/learn?job={first_training(client)}")
    wrong = page.locator(
        "section", has=page.get_by_role("heading", name="The most confident mistakes")
    )
    expect(wrong.locator("canvas.overlay").first).to_be_visible(timeout=LONG)

    [dataset] = client.get("/v1/datasets").json()["items"]
    fields = {"network": "cnn_mnist", "model": "digits", "epochs": {"scratch": 1}}
    job = submit_training(client, dataset["id"], promote="always", seed=3, **fields)
    assert wait_for_job(client, job["id"], 300)["state"] == "succeeded"
    compare_and_roll_back(page, console, dataset["id"])


def first_training(client: httpx.Client) -> str:
    return str(client.get("/v1/jobs", params={"kind": "training"}).json()["items"][-1]["id"])


def look_at_the_matrix(page: Page) -> None:
    """Each cell shows as many pictures as it counts, all of them of its two classes."""
    cells = page.locator(".confusion .cell.wrong").filter(has_text="1")
    count = int(cells.first.inner_text())
    name = cells.first.get_attribute("title") or ""
    label, predicted = name.split("“")[1].split("”")[0], name.split("“")[2].split("”")[0]
    cells.first.click()
    shown = page.locator("section", has_text="Confusion matrix").locator(".mistakes > li")
    expect(shown).to_have_count(min(count, 24))
    for number in range(min(count, 24)):
        expect(shown.nth(number)).to_contain_text(f"It said {predicted}")
        expect(shown.nth(number)).to_contain_text(f"It is {label}")
        expect(shown.nth(number).locator("img")).to_be_visible()


def compare_and_roll_back(page: Page, console: Installation, dataset: str) -> None:
    page.goto(f"{console.url}/#/learn")
    page.locator(".entry", has_text="2 versions").click()
    page.get_by_label("Measure both on a dataset").select_option(dataset)
    page.get_by_role("button", name="Measure").click()
    expect(page.get_by_text("McNemar's test")).to_be_visible(timeout=LONG)
    button = page.get_by_role("button", name="Make version 1 the champion")
    expect(button).to_have_text("Roll back")
    button.click()
    expect(page.locator(".notices")).to_contain_text("Version 1 is now the champion.")
    with page.expect_download() as download:
        page.get_by_label("Download version 1").select_option("labels")
    assert download.value.path().read_bytes()


def test_a_job_is_cancelled(
    console: Installation, client: httpx.Client, open_console: OpenConsole
) -> None:
    dataset = upload_dataset(client, color_archive()).json()["id"]
    job = submit_training(client, dataset, model="endless", epochs={"scratch": 1000})
    page = open_console(console, "jobs")
    row = page.locator("tr", has_text=job["id"])
    expect(row.locator(".state.running")).to_be_visible(timeout=LONG)
    row.get_by_role("button", name="Cancel").click()
    expect(row.locator(".state.cancelled")).to_be_visible(timeout=LONG)
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_an_open_page_outlives_a_restart_of_the_service(
    console: Installation, client: httpx.Client, open_console: OpenConsole
) -> None:
    dataset = upload_dataset(client, color_archive(21)).json()["id"]
    job = submit_training(client, dataset, model="steady", epochs={"scratch": 60})
    page = open_console(console, f"learn?job={job['id']}")
    expect(page.locator(".charts svg.chart")).to_have_count(2, timeout=LONG)
    console.kill("api", signal.SIGTERM)
    page.locator("#pages a[data-page=system]").click()
    expect(page.locator(".notices")).to_contain_text("The connection to the service is lost")
    page.go_back()
    start_process(console, "api")
    expect(page.locator(".notices")).to_contain_text("Connected again", timeout=LONG)
    expect(page.locator(".charts svg.chart")).to_have_count(2, timeout=LONG)
    expect(page.locator(".state.succeeded").first).to_be_visible(timeout=LONG)
    expect(page.get_by_role("heading", name="Confusion matrix")).to_be_visible()


def film(puppet: Puppet, actions: Sequence[Action], seed: int, path: Path) -> Path:
    """What the camera shows, uncompressed as Chromium wants it; it starts over at the end.

    With another seed the person sits elsewhere, as people do when they come back: a puppet holds
    so still that otherwise two films would be one recording to the service.
    """
    still = {"fps": FPS, "seed": seed}
    parts = [
        list(performance(puppet, (), **still)) * round(LEAD / 0.8),
        list(performance(puppet, actions, **still)),
        list(performance(puppet, (), fps=FPS, seed=seed + 1)) * round(TAIL / 0.8),
    ]
    with path.open("wb") as file:
        for count, frame in enumerate(frame for part in parts for frame in part):
            height, width = (side - side % 2 for side in frame.shape[:2])
            if not count:
                file.write(b"YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420\n" % (width, height, FPS))
            even = seated(frame[:height, :width], seed)
            file.write(b"FRAME\n" + cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path


def seated(frame: Pixels, place: int) -> Pixels:
    """The frame of a person who sits a little to the side, by the number of the place."""
    height, width = frame.shape[:2]
    shift = np.array([[1, 0, 0.07 * width * (place % 3 - 1)], [0, 1, 0.04 * height * (place % 2)]])
    return cv2.warpAffine(frame, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)


def give(page: Page, challenge: dict[str, Any]) -> None:
    """Answer the page's request for a challenge."""
    page.route("**/v1/faces/challenges", lambda route: route.fulfill(status=201, json=challenge))


def test_the_camera_page_says_what_is_wrong_with_a_frame(
    console: Installation, client: httpx.Client, open_console: OpenConsole
) -> None:
    bob = client.post("/v1/faces/subjects", json={"name": "Bob"}).json()
    page = open_console(console, "faces", permissions=["camera"])
    expect(page.locator(".entry", has_text="Bob")).to_contain_text("no consent on record")
    page.locator(".entry", has_text="Bob").click()
    page.get_by_role("button", name="Enroll with the camera").click()
    expect(page.locator(".feedback")).to_have_text("No face can be seen.", timeout=LONG)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("video")).to_have_count(0)
    client.delete(f"/v1/faces/subjects/{bob['id']}")


def test_a_person_enrolls_and_logs_in_before_the_camera(
    console: Installation,
    client: httpx.Client,
    open_console: OpenConsole,
    launch: Launch,
    puppets: list[Puppet],
    tmp_path: Path,
) -> None:
    page = open_console(console, "faces")
    page.get_by_label("Name", exact=True).fill("Ada")
    page.get_by_label("The person has agreed").check()
    page.get_by_role("button", name="Add a person").click()
    expect(page.locator(".entry", has_text="Ada")).to_contain_text("consent given")
    [ada] = client.get("/v1/faces/subjects").json()["items"]
    for place, purpose, button, answer in (
        (0, "enroll", "Enroll with the camera", "added"),
        (1, "login", "Try a login", "Welcome, Ada."),
    ):
        wanted = {"purpose": purpose, "subject_id": ada["id"]}
        challenge = client.post("/v1/faces/challenges", json=wanted).json()
        camera = film(puppets[0], challenge["actions"], place, tmp_path / f"{purpose}.y4m")
        browser = launch(f"--use-file-for-fake-video-capture={camera}")
        try:
            page = open_console(console, "faces", by=browser, permissions=["camera"])
            # The film was made for this challenge, so the page gets the same one.
            give(page, challenge)
            page.locator(".entry", has_text="Ada").click()
            page.get_by_role("button", name=button).click()
            expect(page.get_by_text("Put your face into the oval")).to_be_visible()
            # By the film's own time: a busy machine may need long for the steps until here.
            page.wait_for_function(
                "start => document.querySelector('video')?.currentTime >= start", arg=LEAD - 2.5
            )
            page.get_by_role("button", name="Start", exact=True).click()
            expect(page.locator(".prompt[data-action=neutral]")).to_be_visible()
            expect(page.locator(".good-box")).to_contain_text(answer, timeout=LONG)
        finally:
            browser.close()
    page = open_console(console, "faces")
    page.locator(".entry", has_text="Ada").click()
    page.get_by_role("button", name="Erase").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase").click()
    expect(page.locator(".notices")).to_contain_text("Erased:")
    assert client.get(f"/v1/faces/subjects/{ada['id']}").status_code == 404


def test_a_network_is_looked_into(
    console: Installation, open_console: OpenConsole, photos: Path
) -> None:
    page = open_console(console, "classify")
    page.locator("input[type=file]").first.set_input_files(photos / "cat.png")
    page.get_by_text("Look inside").click()
    inside = page.locator("details", has=page.get_by_text("Look inside"))
    layer = inside.get_by_label("Layer")
    layer.select_option(layer.locator("option").nth(2).get_attribute("value"))
    for button, name in (
        ("Feature maps", "The strongest"),
        ("Filters", "The patterns that excite"),
    ):
        inside.get_by_role("button", name=button).click()
        shown = inside.get_by_role("img", name=name)
        expect(shown).to_be_visible(timeout=LONG)
        expect(shown).not_to_have_js_property("naturalWidth", 0)  # it was loaded


def test_a_photo_is_painted_in_a_style(
    console: Installation, open_console: OpenConsole, photos: Path
) -> None:
    page = open_console(console, "create")
    for place, name in enumerate(("cat.png", "coffee.png")):
        page.locator("input[type=file]").nth(place).set_input_files(photos / name)
    page.get_by_label("Iterations").fill("4")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.locator(".compare img.after")).to_be_visible(timeout=LONG)
    expect(page.locator("main .state.succeeded")).to_be_visible(timeout=LONG)
    page.locator("#pages a[data-page=jobs]").click()
    page.get_by_role("link", name="Style transfer").first.click()
    expect(page.locator("img.after")).to_be_visible()  # also after the page was left


def test_a_dream_grows_before_the_eyes(
    console: Installation, client: httpx.Client, open_console: OpenConsole, tmp_path: Path
) -> None:
    small = tmp_path / "small.png"
    Image.effect_noise((96, 96), 80).convert("RGB").save(small)
    page = open_console(console, "create")
    page.get_by_role("button", name="Dream").click()
    page.locator("input[type=file]").first.set_input_files(small)
    page.get_by_label("Octaves").fill("1")
    page.get_by_label("Iterations").fill("3")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.locator(".compare img.after")).to_be_visible(timeout=LONG)
    expect(page.locator(".state.succeeded")).to_be_visible(timeout=LONG)
    page.get_by_label("Before and after").fill("30")
    expect(page.locator(".compare")).to_have_attribute("style", re.compile("--cut: ?30%"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the image").click()
    Image.open(download.value.path()).verify()
