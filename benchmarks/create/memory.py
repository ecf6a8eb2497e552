"""Peak memory of style transfers and dreams by size, beside the estimate that is checked before.

    python -m benchmarks.create.memory style 256 512 1024
    python -m benchmarks.create.memory fast 1024 4096
    python -m benchmarks.create.memory dream 1024 4096

Each size runs in a process of its own, as jobs do; what counts is the most that was resident.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.create.sheets import SheetWork
from contracts.create.requests import CONTENT_FILE, IMAGE_FILE, DreamRequest, style_file
from contracts.settings import Settings
from models.create.memory import style_bytes, tiled_bytes
from models.create.style.weights import available_network
from models.weights.catalog import Weights

_UNLIMITED_MB = 1_000_000


def peak_bytes(kind: str, side: int, options: dict[str, Any]) -> int:
    """The most memory that a job of that kind and size had at once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.create.memory", kind, str(side), "--child"]
    child = subprocess.run(
        [*command, "--options", json.dumps(options)], check=True, capture_output=True, text=True
    )
    return int(child.stdout.split()[-1])


def estimate(kind: str, side: int, settings: Settings, options: dict[str, Any]) -> int:
    """What is checked before such a job is queued."""
    if kind != "style":
        tile = DreamRequest.model_validate(options).tile_size if kind == "dream" else 0
        return tiled_bytes((side, side), tile)
    network = available_network(Weights.of(settings), options.get("network"))
    return style_bytes((side, side), network)


def _steps(side: int) -> dict[str, Any]:
    """As few as a job of that size has that computes in the faster way, which takes more memory."""
    from models.create.style.objective import COMPILED_PIXELS

    count = max(3, -(-COMPILED_PIXELS // side**2))
    return {"iterations": count, "preview_every": 1, "pyramid": False}


def _run(kind: str, side: int, options: dict[str, Any]) -> None:
    """A few steps at full size; prints the peak."""
    settings = Settings().model_copy(update={"training_memory_mb": _UNLIMITED_MB})
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file in (CONTENT_FILE, IMAGE_FILE, style_file(0)):
            Image.fromarray(noise).save(folder / file, "BMP")
        request: dict[str, Any] = {"size": side}
        if kind == "dream":
            from models.create.dream_job import run

            request |= {"iterations": 1, "octaves": 1, "preview_every": 1}
        else:
            from models.create.style.job import run

            request |= {"styles": 1}
            request |= {"method": "fast"} if kind == "fast" else _steps(side)
        request |= options
        run(SheetWork(request, folder), settings)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    # Not `getrusage`, whose maximum is also that of the process that started this one.
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def main() -> None:
    """A line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["style", "fast", "dream"])
    parser.add_argument("sides", type=int, nargs="+")
    parser.add_argument("--options", type=json.loads, default={}, help="of the request, as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for side in arguments.sides:
        if arguments.child:
            _run(arguments.kind, side, arguments.options)
            continue
        measured = peak_bytes(arguments.kind, side, arguments.options)
        estimated = estimate(arguments.kind, side, Settings(), arguments.options)
        print(
            f"{arguments.kind:6} {side:5} px  {measured / 1e9:6.2f} GB  estimate "
            f"{estimated / 1e9:6.2f} GB ({estimated / measured:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
