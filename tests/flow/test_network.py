"""At run time nobody is talked to but whom the settings name."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.flow.learning import COLORS, colors, ended, picture, train, uploaded
from tests.flow.running import READY_SECONDS, Running

# Imported by every Python that has its folder on the path, before anything else is.
GUARD = """
import os, sys

def _note(event, args):
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
sys.addaudithook(_note)
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
    fetched_home: Path, imported: Path, tmp_path: Path, guard: dict[str, str]
) -> Iterator[Running]:
    env = guard | {
        "OPSIN_MODELS": "efficientnet_lite0",
        "OPSIN_OFFLINE": "0",
        "OPSIN_JOB_NICENESS": "0",
        "OPSIN_MIN_FREE_DISK_BYTES": "0",
    }
    running = Running(tmp_path / "home", fetched_home / "weights", env, store=imported)
    try:
        running.start()
        running.run("jobs", "worker --jobs")
        yield running
    finally:
        running.close()


def test_the_guard_sees_what_leaves_the_machine(guard: dict[str, str]) -> None:
    # An address for documentation (RFC 5737), which nobody has.
    program = (
        "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 9))"
    )
    subprocess.run([sys.executable, "-c", program], env=os.environ | guard, check=True)
    assert "socket.connect 192.0.2.1" in Path(guard["GUARD_LOG"]).read_text()


@pytest.mark.slow
def test_serving_explaining_and_learning_talk_to_nobody(
    guarded: Running, guard: dict[str, str]
) -> None:
    with httpx.Client(base_url=guarded.url, timeout=120) as client:
        photo = {"image": ("red.png", picture("red", 1))}
        patient = {"X-Timeout-Ms": "110000"}  # TensorFlow is read for the heatmap
        for path in ("/v1/classify", "/v1/embed", "/v1/heatmap"):
            assert client.post(path, files=photo, headers=patient).status_code == 200
        dataset = uploaded(client, colors(10)).json()["id"]
        job = train(client, dataset, epochs={"scratch": 1})
        assert ended(client, job["id"], READY_SECONDS)["state"] == "succeeded"
        assert client.get("/v1/system").status_code == 200
    assert COLORS
    log = Path(guard["GUARD_LOG"])
    pids = set(log.with_name(log.name + ".runs").read_text().split())
    assert len(pids) >= 4, "API, worker, job worker and the training's process are watched"
    assert not log.exists() or log.read_text() == ""
