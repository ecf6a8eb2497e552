"""kill -9 of all that a training needs: one version, the figures of an undisturbed run, no litter.

Over HTTP, with a job worker and its children as in production.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.flow.learning import begin, colors, ended, installation, job, train, uploaded
from tests.flow.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 8
KILLS = 20
FIELDS = {"epochs": {"scratch": 12}, "early_stopping_patience": None, "promote": "always"}


@pytest.fixture
def house(fetched: Path, tmp_path: Path) -> Iterator[Running]:
    """The API and a job worker."""
    env = {"OPSIN_CHECKPOINT_SECONDS": "0"}
    running = installation(tmp_path / "home", fetched / "weights", None, env)
    try:
        begin(running, "api")
        begin(running, "jobs")
        yield running
    finally:
        running.close()


@pytest.fixture
def client(house: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.url, timeout=60) as client:
        yield client


def children(job_id: str) -> list[psutil.Process]:
    """The processes that work on a job."""
    found = []
    for process in psutil.process_iter():
        try:
            if job_id in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def figures(done: dict[str, Any]) -> dict[str, Any]:
    """What must be equal."""
    assert done["state"] == "succeeded", done
    result = done["result"]
    same = ("metrics", "per_class", "confusion_matrix", "best_epochs", "curves", "most_wrong")
    return {name: result[name] for name in same}


def check_clean(house: Running, job_ids: set[str]) -> None:
    """Nothing is left of the work but what it made."""
    until = time.monotonic() + 20
    while list((house.home / "jobs").glob("*/work")) and time.monotonic() < until:
        time.sleep(0.1)
    jobs = house.home / "jobs"
    assert {path.name for path in jobs.iterdir()} == job_ids
    assert {path.name for path in jobs.glob("*/*")} == {"artifacts"}
    assert not [path for path in jobs.rglob(".*") if path.is_file()]
    assert not list((house.home / "store").rglob("*.tmp"))
    staging = house.home / "store" / ".staging"
    assert [path.name for path in staging.glob("*") if path.is_dir()] == []
    assert not [one for made in job_ids for one in children(made)]


def versions(client: httpx.Client, model: str) -> list[int]:
    """As the API tells, which looks at the store twice a second."""
    until = time.monotonic() + 20
    while (answer := client.get(f"/v1/models/{model}")).status_code != 200:
        assert time.monotonic() < until, answer.text
        time.sleep(0.1)
    listed: list[int] = answer.json()["versions"]
    return listed


def calm(client: httpx.Client) -> tuple[str, dict[str, Any], float]:
    """The dataset, an undisturbed training of it, and how long that took."""
    dataset = uploaded(client, colors(30)).json()["id"]
    began = time.monotonic()
    done = ended(client, train(client, dataset, model="calm", **FIELDS)["id"], 300)
    figures(done)
    return dataset, done, time.monotonic() - began


def test_a_child_killed_twenty_times(house: Running, client: httpx.Client) -> None:
    """At random moments: while it imports, learns, exports, reports or publishes.

    A training is let go after five kills; twenty come together over as many as it takes.
    """
    chance = random.Random(SEED)
    dataset, undisturbed, usual = calm(client)
    made = {undisturbed["id"]}
    hits, attempts = 0, []
    while hits < KILLS:
        model = f"killed-{len(attempts)}"
        job_id = train(client, dataset, model=model, **FIELDS)["id"]
        made.add(job_id)
        for _ in range(min(5, KILLS - hits)):
            time.sleep(chance.uniform(0.1, 1.0) * usual)
            for child in children(job_id):
                child.kill()
                hits += 1
        done = ended(client, job_id, 300)
        assert figures(done) == figures(undisturbed)
        assert versions(client, model) == [1]
        attempts.append(done["attempt"])
    assert sum(attempts) >= hits
    check_clean(house, made)


@pytest.mark.parametrize("name", ["api", "jobs", "valkey"])
def test_a_killed_process_around_it(house: Running, client: httpx.Client, name: str) -> None:
    """The API, the worker's parent, or Valkey: killed as it learns, and started again."""
    dataset, undisturbed, usual = calm(client)
    job_id = train(client, dataset, model="killed", **FIELDS)["id"]
    until = time.monotonic() + 20 * usual
    while not job(client, job_id)["metrics"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    if name == "valkey":
        house.valkey.kill()
    else:
        house.kill(name)
    time.sleep(1)
    if name == "valkey":
        house.valkey.start()
    else:
        begin(house, name)
    done = ended(client, job_id, 300)
    assert figures(done) == figures(undisturbed)
    assert versions(client, "killed") == [1]
    assert done["attempt"] == (2 if name == "jobs" else 1)
    check_clean(house, {undisturbed["id"], job_id})
