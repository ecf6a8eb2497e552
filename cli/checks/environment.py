"""Python, packages, data home, weights and chips of this machine."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from cli.checks.check import Check
from cli.failure import CommandError
from cli.pulling import known_networks
from contracts.settings import Settings
from models.catalog import Network
from models.weights import Weights, WeightsMissing

_PYTHONS = ((3, 11), (3, 14))
_LOW_DISK_BYTES = 2 * 1024**3
_DEVICES_SECONDS = 120
_REINSTALL = "Run `make setup` again, or `pip install -e .[worker]`."


def environment(settings: Settings, *, deep: bool) -> Iterator[Check]:
    """Looks at what is there before anything runs."""
    yield _python()
    yield _packages()
    yield _home(settings.home)
    yield _disk(settings.home)
    try:
        networks = known_networks(settings)
    except CommandError as error:
        yield Check("models", "fail", error.message)
    else:
        for network in networks:
            yield _weights(Weights.of(settings), network)
    yield _processor(settings)
    yield _gpu()
    if deep:
        yield _tensorflow()


def _python() -> Check:
    least, beyond = _PYTHONS
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if least <= sys.version_info[:2] < beyond:
        return Check("python", "ok", found)
    return Check("python", "fail", found, "Opsin needs Python 3.11, 3.12 or 3.13.")


def _packages() -> Check:
    """The installed versions against those that pyproject.toml allows."""
    try:
        wanted = [Requirement(line) for line in requires("opsin") or ()]
    except PackageNotFoundError:
        return Check("packages", "warn", "Opsin itself is not installed here", _REINSTALL)
    api = [one for one in wanted if one.marker is None]
    worker = [one for one in wanted if "worker" in str(one.marker)]
    faults = [fault for one in api if (fault := _fault(one))]
    lacks = [fault for one in worker if (fault := _fault(one))]
    if faults:
        return Check("packages", "fail", "; ".join(faults), _REINSTALL)
    if lacks:
        detail = f"the API can run here, a worker cannot: {'; '.join(lacks)}"
        return Check("packages", "warn", detail, _REINSTALL)
    engine = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras"))
    return Check("packages", "ok", f"{len(api) + len(worker)} as required, {engine}")


def _fault(requirement: Requirement) -> str:
    """What is wrong with an installed package; empty if nothing is."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    fits = requirement.specifier.contains(found, prereleases=True)
    return "" if fits else f"{requirement.name} {found} is not {requirement.specifier}"


def _home(home: Path) -> Check:
    nearest = home if home.exists() else next(one for one in home.parents if one.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Check("data home", "fail", f"{home} cannot be written to", "Set OPSIN_HOME.")
    if nearest != home:
        return Check("data home", "ok", f"{home} (not made yet)")
    mode = home.stat().st_mode & 0o777
    if mode & 0o077:
        help_ = f"chmod 700 {home} (`opsin up` does it)."
        return Check("data home", "warn", f"{home} is open to others (mode {mode:o})", help_)
    return Check("data home", "ok", str(home))


def _disk(home: Path) -> Check:
    nearest = home if home.exists() else next(one for one in home.parents if one.exists())
    free = shutil.disk_usage(nearest).free
    found = f"{free / 1024**3:.1f} GiB free"
    if free < _LOW_DISK_BYTES:
        return Check("disk", "warn", found, "Weights, logs and data sets need room.")
    return Check("disk", "ok", found)


def _weights(weights: Weights, network: Network) -> Check:
    name = f"weights {network.name}"
    try:
        for other in network.needs:
            weights.find(other)
        return Check(name, "ok", weights.find(network.weights).source)
    except WeightsMissing as missing:
        if network.base_weights is None:
            return Check(name, "warn", missing.detail)
        try:
            base = weights.find(network.base_weights)
        except WeightsMissing:
            return Check(name, "warn", missing.detail)
    return Check(name, "warn", f"only the base ({base.source}): it embeds, it cannot classify")


def _processor(settings: Settings) -> Check:
    threads, cores = settings.worker_threads, os.cpu_count() or 1
    detail = f"{cores} cores, {threads} worker threads"
    if platform.machine() in {"x86_64", "AMD64"} and sys.platform == "linux":
        flags = set(Path("/proc/cpuinfo").read_text().split())
        if "avx" not in flags:
            return Check("processor", "fail", f"{detail}, no AVX", "TensorFlow needs AVX.")
        have = [flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16") if flag in flags]
        detail += f", {' '.join(have) or 'avx only'}"
    if threads > cores:
        help_ = "Lower OPSIN_WORKER_THREADS."
        return Check("processor", "warn", f"{detail}: more threads than cores", help_)
    return Check("processor", "ok", detail)


def _gpu() -> Check:
    """By the driver's own tool; TensorFlow would take seconds to say less."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("gpu", "ok", "none; the processor does the work")
    listing = _output(tool, "--query-gpu=name,driver_version", "--format=csv,noheader")
    if listing is None:
        help_ = "Check the driver with `nvidia-smi`."
        return Check("gpu", "warn", "the driver does not answer", help_)
    return Check("gpu", "ok", "; ".join(listing.splitlines()))


def _tensorflow() -> Check:
    program = "import tensorflow as t; print([d.name for d in t.config.list_physical_devices()])"
    devices = _output(sys.executable, "-P", "-c", program)
    if devices is None:
        return Check("tensorflow", "fail", "cannot be loaded", _REINSTALL)
    return Check("tensorflow", "ok", devices.strip())


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 (fixed command lines)
            command, capture_output=True, text=True, timeout=_DEVICES_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
