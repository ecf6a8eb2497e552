"""Pixels in shared memory, between real processes that are killed."""

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import redis

from contracts.queue import redis_keys
from contracts.queue.heartbeat import WorkerBeat, read_heartbeats
from contracts.queue.redis_keys import QueueName
from tests.flow.conftest import Start
from tests.flow.installation import READY_SECONDS, Installation

QUEUE = QueueName("squeezenet", 1, "classify")


def is_shared(client: redis.Redis) -> bool:
    """Whether every live worker can read the memory of every live API process."""
    names: Any = client.zrange(redis_keys.SHARED_PIXELS, 0, -1)
    held = [set(beat.shared_pixels) for beat in read_heartbeats(client).workers]
    return bool(names and held) and all({name.hex() for name in names} <= one for one in held)


def sizes(client: redis.Redis) -> list[int]:
    """The bytes of each item that waits."""
    raws: Any = client.lrange(QUEUE.key, 0, -1)
    return [len(raw) for raw in raws]


def mapped(process: int) -> bool:
    """Whether a process holds shared pixels, by a mapping or a file descriptor."""
    files = []
    for path in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            files.append(str(path.readlink()))
    return "opsin-pixels" in Path(f"/proc/{process}/maps").read_text() + "".join(files)


def is_ready(installation: Installation) -> bool:
    return httpx.get(f"{installation.url}/readyz", timeout=20).status_code == 200


def classify(installation: Installation, photo: bytes) -> object:
    files = {"image": ("cat.png", photo)}
    headers = {"X-Timeout-Ms": "120000"}
    url = f"{installation.url}/v1/classify"
    answer = httpx.post(url, files=files, headers=headers, timeout=150)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_what_is_killed_loses_no_image_and_leaves_no_memory(start: Start, photos: Path) -> None:
    photo = (photos / "cat.png").read_bytes()
    installation = start(OPSIN_MODELS="squeezenet", OPSIN_PRECISION="float32")
    client = installation.valkey.client()
    installation.wait_until(lambda: is_shared(client), 60)
    expected = classify(installation, photo)

    with ThreadPoolExecutor(4) as pool:
        installation.processes["worker"].send_signal(signal.SIGSTOP)
        asked = [pool.submit(classify, installation, photo) for _ in range(4)]
        installation.wait_until(lambda: len(sizes(client)) >= 3, 60)  # one may have been taken
        assert max(sizes(client)) < 1000
        installation.kill("worker")
        installation.run("worker", "worker")
        assert [one.result() for one in asked] == [expected] * 4

    old = WorkerBeat(id="old", host="h", pid=1, release="0.1", started_at=0, beat_at=0)
    client.sadd(redis_keys.WORKERS, "old")
    client.set(redis_keys.heartbeat_key("old"), old.model_dump_json())
    installation.wait_until(lambda: '"used": false' in installation.log("api"), 60)
    # The worker answers what waits before its next heartbeat says that it is ready.
    installation.wait_until(lambda: is_ready(installation), READY_SECONDS)
    assert classify(installation, photo) == expected

    worker = installation.processes["worker"].pid
    installation.wait_until(lambda: mapped(worker), READY_SECONDS)
    installation.kill("api")
    installation.wait_until(lambda: not mapped(worker), 60)
