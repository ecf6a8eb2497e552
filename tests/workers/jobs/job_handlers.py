"""Small handlers of jobs for the tests of job workers; they do not import TensorFlow."""

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from contracts.errors import ModelNotReady, NeedsOperator, ValidationFailed
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import Work
from workers.jobs import disk

KINDS = {
    "training": f"{__name__}:count",
    "filters": f"{__name__}:fail",
    "heatmap": f"{__name__}:die",
    "quantize": f"{__name__}:hang",
    "dream": f"{__name__}:echo",
    "dataset_import": f"{__name__}:count",
    "activations": f"{__name__}:count",
    "evaluation": f"{__name__}:count",
    "enrollment": f"{__name__}:echo",
    "style_transfer": "no.such.module:run",
}

MEMORY = dict.fromkeys(KINDS, f"{__name__}:memory")


def memory(work: Work, settings: Settings) -> int:
    return int(work.request.get("memory", 0))


def count(work: Work, settings: Settings) -> dict[str, Any]:
    """Counts to `steps`, with a checkpoint, a metrics row and an artifact at each step."""
    steps, pause = work.request["steps"], work.request["pause"]
    checkpoint = work.folder / "checkpoint.json"
    done = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    for step in range(len(done), steps):
        until = time.monotonic() + pause
        while time.monotonic() < until:
            work.check()
            time.sleep(0.005)
        done.append(step)
        part = checkpoint.with_suffix(".part")
        part.write_text(json.dumps(done))
        part.replace(checkpoint)
        work.metrics({"epoch": step + 1, "phase": "head", "loss": float("nan")})
        work.artifact("preview.png", "image/png", b"step %d" % step)
        work.progress(Progress(fraction=(step + 1) / steps, step=step + 1, steps=steps))
    nice = {"nice": os.nice(0)} if work.request.get("tells_nice") else {}
    return {"done": done, "attempt": work.attempt} | nice


def fill_disk(home: Path, size: int) -> None:
    """There is no room while the file `ballast` exists, whatever else uses the disk."""

    def free(_folder: Path) -> int:
        left = 0 if (home / "ballast").exists() else size
        (home / "looked").touch()
        return left

    (home / "ballast").touch()
    disk._free = free


def fail(work: Work, settings: Settings) -> dict[str, Any]:
    if work.request.get("expected"):
        raise ValidationFailed("There is no such layer. Choose another.")
    if work.request.get("weights"):
        raise ModelNotReady("Pull the weights.")
    if (number := work.request.get("errno")) and work.attempt <= work.request.get("until", 99):
        if ballast := work.request.get("ballast"):
            fill_disk(settings.home, ballast)
        raise OSError(number, os.strerror(number), "/some/path/a-file.jpg")
    if work.request.get("key"):
        raise NeedsOperator("A key is missing.")
    if work.request.get("redis") and work.attempt == 1:
        raise RedisConnectionError("refused")
    if "attempts" in work.request:
        return {"attempt": work.attempt}
    raise RuntimeError("a secret at /some/path")


def _leave_file(work: Work) -> None:
    """As TensorFlow does, which removes its own only if the process ends by itself."""
    Path(tempfile.gettempdir(), work.job_id).touch()


def die(work: Work, settings: Settings) -> dict[str, Any]:
    """Dies without progress, by SIGKILL or the requested signal."""
    _leave_file(work)
    work.progress(Progress(fraction=0))
    os.kill(os.getpid(), work.request.get("signal", signal.SIGKILL))
    return {}


def hang(work: Work, settings: Settings) -> dict[str, Any]:
    """Never checks whether it has to stop."""
    time.sleep(600)
    return {}


def echo(work: Work, settings: Settings) -> dict[str, Any]:
    if work.request.get("raises"):
        raise ValidationFailed("Another image.")
    if work.request.get("hangs"):
        time.sleep(600)
    _leave_file(work)
    return {
        "pid": os.getpid(),
        "text": (work.folder / "image.bin").read_bytes().decode(),
        "nice": os.nice(0),
        "oom_score": Path("/proc/self/oom_score_adj").read_text().strip(),
        "threads": os.environ["TF_NUM_INTRAOP_THREADS"],
    }
