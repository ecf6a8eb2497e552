"""Style transfers and dreams over HTTP, with Valkey, a job worker and its child processes."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from tests.conftest import SHARED
from tests.flow.installation import Installation
from tests.flow.trainings import fetch_job, start_process, training_installation, wait_for_job
from tests.images import scene

pytestmark = pytest.mark.shared

STYLE = {"network": "squeezenet", "size": "96", "iterations": "200", "preview_every": "5"}
DREAM = {"model": "squeezenet", "octaves": "2", "iterations": "60", "preview_every": "5"}
REQUESTS = {
    "/v1/style_transfers": STYLE,
    "/v1/dreams": DREAM | {"size": "96"},
}


@pytest.fixture(scope="module")
def installation(
    shared: Path, fetched: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation with the API and a job worker; it serves no model."""
    env = {"OPSIN_WEIGHTS_DIR": str(SHARED / "weights"), "OPSIN_PRECISION": "float32"}
    home = tmp_path_factory.mktemp("creations") / "home"
    running = training_installation(home, fetched / "weights", None, env)
    try:
        for name in ("api", "jobs"):
            start_process(running, name)
        yield running
    finally:
        running.close()


@pytest.fixture
def client(installation: Installation) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=installation.url, timeout=60) as client:
        yield client


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def submit(client: httpx.Client, path: str, **form: str) -> dict[str, Any]:
    photo, other = png(scene(120, 80)), png(scene(64, 64).rotate(90))
    files = {"image": photo} if path.endswith("dreams") else {"content": photo, "style": other}
    answer = client.post(path, files=files, data=REQUESTS[path] | form)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def artifact(client: httpx.Client, job_id: str, name: str) -> httpx.Response:
    return client.get(f"/v1/jobs/{job_id}/artifacts/{name}")


def pixels(client: httpx.Client, job_id: str, name: str) -> npt.NDArray[np.uint8]:
    answer = artifact(client, job_id, name)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def wait_for_steps(client: httpx.Client, job_id: str, steps: int) -> dict[str, Any]:
    """The job once it has reported that many steps and a preview."""
    until = time.monotonic() + 180
    while True:
        job = fetch_job(client, job_id)
        assert job["state"] in {"queued", "running"}, job
        if len(job["metrics"]) >= steps and job["artifacts"]:
            return job
        assert time.monotonic() < until, job
        time.sleep(0.05)


def kill_children(job_id: str) -> int:
    """Kill -9 of the processes that run a job; how many they were."""
    killed = 0
    for process in psutil.process_iter():
        try:
            if job_id in process.cmdline():
                process.kill()
                killed += 1
        except psutil.Error:
            continue
    return killed


@pytest.mark.parametrize("path", REQUESTS)
def test_cancelled_job_keeps_its_latest_preview(client: httpx.Client, path: str) -> None:
    job_id = submit(client, path, iterations="1000")["id"]
    running = wait_for_steps(client, job_id, 6)
    until = time.monotonic() + 120
    while running["progress"]["eta_seconds"] is None:  # until the pace is known
        assert time.monotonic() < until, running
        time.sleep(0.1)
        running = wait_for_steps(client, job_id, 6)
    assert running["progress"]["eta_seconds"] > 0
    row = running["metrics"][-1]
    names = {"score"} if path.endswith("dreams") else {"loss", "content", "style", "tv"}
    assert names <= set(row)
    assert all(np.isfinite(row[name]) for name in names)
    first = artifact(client, job_id, "preview.png").content
    until = time.monotonic() + 120
    while artifact(client, job_id, "preview.png").content == first:  # one in a few seconds
        assert time.monotonic() < until, fetch_job(client, job_id)
        time.sleep(0.1)
    client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    done = wait_for_job(client, job_id, 60)
    assert done["state"] == "cancelled"
    assert pixels(client, job_id, "preview.png").shape[2] == 3
    assert artifact(client, job_id, "result.png").status_code == 404


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", REQUESTS)
def test_killed_processes_change_nothing(
    installation: Installation, client: httpx.Client, path: str
) -> None:
    """Kill -9 of the job's process, then of the job worker, in the middle of a run."""
    calm = wait_for_job(client, submit(client, path)["id"], 400)
    assert calm["state"] == "succeeded", calm
    job_id = submit(client, path)["id"]
    wait_for_steps(client, job_id, 40)
    assert kill_children(job_id)
    wait_for_steps(client, job_id, 80)
    installation.kill("jobs")
    kill_children(job_id)
    start_process(installation, "jobs")
    done = wait_for_job(client, job_id, 400)
    assert done["state"] == "succeeded", done
    assert done["attempt"] == 3
    assert len(done["metrics"]) == len(calm["metrics"])
    np.testing.assert_array_equal(
        pixels(client, job_id, "result.png"), pixels(client, calm["id"], "result.png")
    )


def test_time_limit_ends_with_a_result(client: httpx.Client) -> None:
    """`max_seconds` is a deadline: what there is by then is the result, at its full size."""
    path = "/v1/style_transfers"
    job_id = submit(client, path, iterations="10000", max_seconds="2")["id"]
    done = wait_for_job(client, job_id, 120)
    assert done["state"] == "succeeded", done
    assert done["result"]["ended_by"] == "max_seconds"
    assert pixels(client, job_id, "result.png").shape == (64, 96, 3)
