"""At run time, Opsin connects only to the addresses in its settings."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.flow.conftest import Networks
from tests.flow.installation import READY_SECONDS, Installation
from tests.flow.trainings import (
    color_archive,
    color_image,
    submit_training,
    upload_dataset,
    wait_for_job,
)

# Every Python process with this folder on its path imports it before anything else.
GUARD = """
import os, sys

def _record(event, args):
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    if host in ("", "localhost", "::1", "0.0.0.0") or host.startswith("127."):
        return
    with open(os.environ["GUARD_LOG"], "a") as log:
        log.write(f"{event} {host} {' '.join(sys.argv[:3])}\\n")

open(os.environ["GUARD_LOG"] + ".runs", "a").write(f"{os.getpid()}\\n")
sys.addaudithook(_record)
"""


@pytest.fixture
def guard(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "guard"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(GUARD)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "GUARD_LOG": str(tmp_path / "connections")}


@pytest.fixture
def guarded(
    fetched_home: Path, networks: Networks, tmp_path: Path, guard: dict[str, str]
) -> Iterator[Installation]:
    env = guard | {
        "OPSIN_MODELS": "efficientnet_lite0",
        "OPSIN_OFFLINE": "0",
        "OPSIN_JOB_NICENESS": "0",
        "OPSIN_MIN_FREE_DISK_BYTES": "0",
    }
    running = Installation(
        tmp_path / "home", fetched_home / "weights", env, store=networks("efficientnet_lite0")
    )
    try:
        running.start()
        running.run("jobs", "worker --jobs")
        yield running
    finally:
        running.close()


def test_the_guard_records_outgoing_connections(guard: dict[str, str]) -> None:
    # An address reserved for documentation (RFC 5737).
    program = (
        "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 9))"
    )
    subprocess.run([sys.executable, "-c", program], env=os.environ | guard, check=True)
    assert "socket.connect 192.0.2.1" in Path(guard["GUARD_LOG"]).read_text()


@pytest.mark.slow
def test_serving_explaining_and_training_connect_to_no_other_address(
    guarded: Installation, guard: dict[str, str]
) -> None:
    with httpx.Client(base_url=guarded.url, timeout=120) as client:
        photo = {"image": ("red.png", color_image("red", 1))}
        headers = {"X-Timeout-Ms": "110000"}  # the heatmap loads TensorFlow
        for path in ("/v1/classify", "/v1/embed", "/v1/heatmap"):
            assert client.post(path, files=photo, headers=headers).status_code == 200
        dataset = upload_dataset(client, color_archive(10)).json()["id"]
        job = submit_training(client, dataset, epochs={"scratch": 1})
        assert wait_for_job(client, job["id"], READY_SECONDS)["state"] == "succeeded"
        assert client.get("/v1/system").status_code == 200
    log = Path(guard["GUARD_LOG"])
    pids = set(log.with_name(log.name + ".runs").read_text().split())
    assert len(pids) >= 4, "API, worker, job worker and the training's process are watched"
    assert not log.exists() or log.read_text() == ""
