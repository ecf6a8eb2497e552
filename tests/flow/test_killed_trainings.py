"""kill -9 of everything a training needs: one version, undisturbed figures, no leftover files.

Over HTTP, with a job worker and its child processes as in production.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.flow.installation import Installation
from tests.flow.trainings import (
    color_archive,
    fetch_job,
    start_process,
    submit_training,
    training_installation,
    upload_dataset,
    wait_for_job,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 8
KILLS = 20
FIELDS = {"epochs": {"scratch": 12}, "early_stopping_patience": None, "promote": "always"}


@pytest.fixture
def installation(fetched: Path, tmp_path: Path) -> Iterator[Installation]:
    """An installation with the API and a job worker."""
    env = {"OPSIN_CHECKPOINT_SECONDS": "0"}
    running = training_installation(tmp_path / "home", fetched / "weights", None, env)
    try:
        start_process(running, "api")
        start_process(running, "jobs")
        yield running
    finally:
        running.close()


@pytest.fixture
def client(installation: Installation) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=installation.url, timeout=60) as client:
        yield client


def children(job_id: str) -> list[psutil.Process]:
    """The processes that run a job."""
    processes = []
    for process in psutil.process_iter():
        try:
            if job_id in process.cmdline():
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def comparable(done: dict[str, Any]) -> dict[str, Any]:
    """The parts of a result that must be equal."""
    assert done["state"] == "succeeded", done
    result = done["result"]
    names = ("metrics", "per_class", "confusion_matrix", "best_epochs", "curves", "most_wrong")
    return {name: result[name] for name in names}


def check_clean(installation: Installation, job_ids: set[str]) -> None:
    """Check that nothing is left of the jobs but their artifacts."""
    until = time.monotonic() + 20
    while list((installation.home / "jobs").glob("*/work")) and time.monotonic() < until:
        time.sleep(0.1)
    jobs = installation.home / "jobs"
    assert {path.name for path in jobs.iterdir()} == job_ids
    assert {path.name for path in jobs.glob("*/*")} == {"artifacts"}
    assert not [path for path in jobs.rglob(".*") if path.is_file()]
    assert not list((installation.home / "store").rglob("*.tmp"))
    staging = installation.home / "store" / ".staging"
    assert [path.name for path in staging.glob("*") if path.is_dir()] == []
    assert not [process for job_id in job_ids for process in children(job_id)]


def versions(client: httpx.Client, model: str) -> list[int]:
    """The versions that the API lists, which reads the store twice a second."""
    until = time.monotonic() + 20
    while (answer := client.get(f"/v1/models/{model}")).status_code != 200:
        assert time.monotonic() < until, answer.text
        time.sleep(0.1)
    listed: list[int] = answer.json()["versions"]
    return listed


def undisturbed_training(client: httpx.Client) -> tuple[str, dict[str, Any], float]:
    """A dataset, an undisturbed training on it, and its duration in seconds."""
    dataset = upload_dataset(client, color_archive(30)).json()["id"]
    start = time.monotonic()
    done = wait_for_job(client, submit_training(client, dataset, model="calm", **FIELDS)["id"], 300)
    comparable(done)
    return dataset, done, time.monotonic() - start


def test_a_child_killed_twenty_times_changes_nothing(
    installation: Installation, client: httpx.Client
) -> None:
    """Kills at random moments: during import, training, export, report or publishing.

    A training is left alone after five kills; there are as many trainings as twenty kills take.
    """
    chance = random.Random(SEED)
    dataset, undisturbed, usual = undisturbed_training(client)
    job_ids = {undisturbed["id"]}
    kills, attempts = 0, []
    while kills < KILLS:
        model = f"killed-{len(attempts)}"
        job_id = submit_training(client, dataset, model=model, **FIELDS)["id"]
        job_ids.add(job_id)
        for _ in range(min(5, KILLS - kills)):
            time.sleep(chance.uniform(0.1, 1.0) * usual)
            for child in children(job_id):
                child.kill()
                kills += 1
        done = wait_for_job(client, job_id, 300)
        assert comparable(done) == comparable(undisturbed)
        assert versions(client, model) == [1]
        attempts.append(done["attempt"])
    assert sum(attempts) >= kills
    check_clean(installation, job_ids)


@pytest.mark.parametrize("name", ["api", "jobs", "valkey"])
def test_killing_another_process_changes_nothing(
    installation: Installation, client: httpx.Client, name: str
) -> None:
    """The API, the job worker or Valkey is killed during the training and started again."""
    dataset, undisturbed, usual = undisturbed_training(client)
    job_id = submit_training(client, dataset, model="killed", **FIELDS)["id"]
    until = time.monotonic() + 20 * usual
    while not fetch_job(client, job_id)["metrics"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    if name == "valkey":
        installation.valkey.kill()
    else:
        installation.kill(name)
    time.sleep(1)
    if name == "valkey":
        installation.valkey.start()
    else:
        start_process(installation, name)
    done = wait_for_job(client, job_id, 300)
    assert comparable(done) == comparable(undisturbed)
    assert versions(client, "killed") == [1]
    assert done["attempt"] == (2 if name == "jobs" else 1)
    check_clean(installation, {undisturbed["id"], job_id})
