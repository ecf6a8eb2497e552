"""What the operating system says about this process."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from contracts.metrics.registry import Metrics


def process_reader(metrics: Metrics, home: Path) -> Callable[[], None]:
    """A function that sets the metrics of this process and of the disk of its home."""
    process = psutil.Process()
    started = process.create_time()
    cpu_before = 0.0

    def read() -> None:
        nonlocal cpu_before
        with process.oneshot():
            times = process.cpu_times()
            metrics.set("process_resident_memory_bytes", process.memory_info().rss)
            metrics.set("process_threads", process.num_threads())
        metrics.inc("process_cpu_seconds_total", by=max(0, times.user + times.system - cpu_before))
        cpu_before = max(cpu_before, times.user + times.system)
        metrics.set("process_start_time_seconds", started)
        with suppress(AttributeError, psutil.Error, OSError):  # not on every system
            metrics.set("process_open_fds", process.num_fds())
            metrics.set("process_max_fds", process.rlimit(psutil.RLIMIT_NOFILE)[0])
        with suppress(OSError):
            disk = shutil.disk_usage(home)
            metrics.set("home_free_bytes", disk.free)
            metrics.set("home_bytes", disk.total)

    return read
