"""Describes the machine and its load."""

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16"}
_FLAGS |= {"amx_bf16": "AMX-BF16", "amx_int8": "AMX-INT8"}


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """Processor, memory, system and date."""
    info = _cpuinfo()
    flags = info.get("flags", "").split()
    return {
        "processor": info.get("model name", platform.processor() or "unknown"),
        "cores": str(cores()),
        "extensions": ", ".join(name for flag, name in _FLAGS.items() if flag in flags) or "none",
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def others_load(seconds: float = 2.0) -> float:
    """Mean number of cores in use while this process sleeps."""
    before = psutil.cpu_times()
    time.sleep(seconds)
    after = psutil.cpu_times()
    busy = sum(after) - sum(before) - (after.idle - before.idle)
    busy -= getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0)
    return max(0.0, busy / seconds)


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    rows = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in rows}
