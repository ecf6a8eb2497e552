"""The processor, the GPU and TensorFlow of this machine."""

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

from cli.checks.check import Check
from cli.checks.packages import REINSTALL
from contracts.settings import Settings
from service.connections.descriptors import needed_files, possible_connections

_DEVICES_SECONDS = 120
_BUSY = 2.0  # processes for each core
_DRIVER = Path("/proc/driver/nvidia/version")
_CUDA = re.compile(r"nvidia[-_](cuda|cudnn)", re.IGNORECASE)
_DRIVER_HELP = "Check the driver with `nvidia-smi`; in a container, start it with `--gpus all`."


def environment(settings: Settings, *, deep: bool) -> Iterator[Check]:
    """Check what computes on this machine."""
    yield _processor(settings)
    yield from busy(settings)
    yield from _open_files(settings)
    yield gpu(os.environ)
    if deep:
        yield _tensorflow()


def _processor(settings: Settings) -> Check:
    threads, cores = settings.worker_threads, os.cpu_count() or 1
    detail = f"{cores} cores, {threads} worker threads"
    if platform.machine() in {"x86_64", "AMD64"} and sys.platform == "linux":
        flags = set(Path("/proc/cpuinfo").read_text().split())
        if "avx" not in flags:
            help_ = "TensorFlow needs AVX: use another machine."
            return Check("processor", "fail", f"{detail}, no AVX", help_)
        have = [flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16") if flag in flags]
        detail += f", {' '.join(have) or 'avx only'}"
    if threads > cores:
        help_ = f"Set OPSIN_WORKER_THREADS={cores}."
        return Check("processor", "warn", f"{detail}: more threads than cores", help_)
    return Check("processor", "ok", detail)


def busy(settings: Settings) -> Iterator[Check]:
    """Warn if long jobs, which yield to everything else, get little of this machine now."""
    load, cores = os.getloadavg()[1], os.cpu_count() or 1  # of five minutes
    if settings.job_niceness and load > _BUSY * cores:
        yield Check(
            "load",
            "warn",
            f"{load:.0f} processes compete for {cores} cores, and long jobs come last "
            f"(OPSIN_JOB_NICENESS={settings.job_niceness}): loading alone may take them minutes",
            "Wait for the other programs, or set OPSIN_JOB_NICENESS=0: then jobs get a fair share.",
        )


def _open_files(settings: Settings) -> Iterator[Check]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    possible = possible_connections(settings.max_connections, hard)
    if possible < settings.max_connections:
        detail = f"{hard:,} at most, which allow for {possible:,} connections"
        help_ = f"Raise `ulimit -Hn` to {needed_files(settings.max_connections)}."
        yield Check("open files", "warn", detail, help_)


def gpu(environment_: Mapping[str, str]) -> Check:
    """Check the GPU by the driver's own tool; TensorFlow would take seconds and report less.

    Args:
        environment_: Shows whether a container should have one.
    """
    tool = shutil.which("nvidia-smi", path=environment_.get("PATH"))
    listing = (
        _output(tool, "--query-gpu=name,driver_version", "--format=csv,noheader") if tool else ""
    )
    if listing is None:
        return Check("gpu", "fail", "the driver does not answer", _DRIVER_HELP)
    if listing.strip():
        return Check("gpu", "ok", "; ".join(listing.splitlines()))
    reason = _expected(environment_)
    if reason:
        return Check("gpu", "fail", f"none is visible, although {reason}", _DRIVER_HELP)
    return Check("gpu", "ok", "none; the processor computes")


def _expected(environment_: Mapping[str, str]) -> str:
    """Why there should be a GPU; empty if nothing indicates one."""
    if environment_.get("NVIDIA_VISIBLE_DEVICES", "void") not in {"", "void", "none"}:
        return "NVIDIA_VISIBLE_DEVICES promises one"
    if environment_.get("CUDA_VISIBLE_DEVICES", "-1") not in {"", "-1"}:
        return "CUDA_VISIBLE_DEVICES names one"
    if _DRIVER.exists():
        return "its driver is loaded"
    if any(_CUDA.match(package.name) for package in distributions()):
        return "CUDA's packages are installed (the `gpu` extra)"
    return ""


def _tensorflow() -> Check:
    program = "import tensorflow as t; print([d.name for d in t.config.list_physical_devices()])"
    devices = _output(sys.executable, "-P", "-c", program)
    if devices is None:
        return Check("tensorflow", "fail", "cannot be loaded", REINSTALL)
    return Check("tensorflow", "ok", devices.strip())


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 (fixed command lines)
            command, capture_output=True, text=True, timeout=_DEVICES_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
