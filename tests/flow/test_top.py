"""`opsin top` beside a real service that is asked while it looks."""

import json
import subprocess
import sys
import threading

import httpx

from tests.flow.installation import ROOT, Installation
from tests.images import encoded, scene


def top(running: Installation, *options: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "cli", "top", "--server", running.url, "--once", *options],
        cwd=ROOT,
        env=running._env,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def test_it_says_what_the_service_does(running: Installation) -> None:
    stopped, image = threading.Event(), encoded(scene(), "PNG")

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=60) as own:
            while not stopped.is_set():
                own.post("/v1/classify?model=squeezenet", content=image)
                own.post("/v1/classify?model=squeezenet", content=b"no image")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        seen = json.loads(top(running, "--json", "--interval", "5"))
        text = top(running)
    finally:
        stopped.set()
        thread.join()
    assert (seen["ready"], seen["release"]) == (True, "0.1.0")
    assert 4.5 < seen["seconds"] < 60
    (row,) = [
        row
        for row in seen["models"]
        if (row["model"], row["operation"]) == ("squeezenet", "classify")
    ]
    assert row["version"] == "1"
    assert row["requests_per_second"] > 0
    # As many good as bad ones, up to the one that is being answered.
    in_time = row["requests_per_second"] * seen["seconds"]
    assert abs(row["failures_per_second"] * seen["seconds"] * 2 - in_time) <= 2
    assert 0 < row["seconds_p50"] <= row["seconds_p95"]
    assert row["batch_images"] >= 1
    assert row["compute_seconds"] > 0
    (worker,) = seen["workers"]
    assert "squeezenet:1" in worker["models"]
    kinds = {process["process"]: process for process in seen["processes"]}
    assert set(kinds) == {"api", "worker"}
    assert kinds["worker"]["id"] == worker["id"]
    assert kinds["api"]["memory_bytes"] > 2**20
    assert kinds["worker"]["cores"] > 0
    assert seen["jobs"]["running"] == []
    assert "squeezenet:1" in text
    assert "classify" in text


def test_json_needs_once(running: Installation) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cli", "top", "--json"],
        cwd=ROOT,
        env=running._env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert "--once" in result.stderr
