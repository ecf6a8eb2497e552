"""Python and the installed packages, compared with the allowed and the tested versions."""

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.checks.check import Check

REINSTALL = "Run `make setup` again, or `pip install -e .[worker]`."
_PYTHONS = ((3, 11), (3, 14))
_PINS = Path(__file__).resolve().parents[2] / "requirements"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)(?:\s*;\s*(.+?))?\s*\\?$")
_SHOWN = 5


def packages(pins: Path = _PINS) -> Iterator[Check]:
    """Check the interpreter and the installed packages.

    Args:
        pins: The folder of `api.txt` and `worker.txt`; a wheel does not have it.
    """
    yield _python()
    yield _required()
    if (pins / "worker.txt").is_file():
        yield _pinned(pins)


def _python() -> Check:
    lowest, above = _PYTHONS
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if lowest <= sys.version_info[:2] < above:
        return Check("python", "ok", text)
    return Check("python", "fail", text, "Opsin needs Python 3.11, 3.12 or 3.13.")


def _required() -> Check:
    """Compare the installed versions with those that pyproject.toml allows."""
    try:
        required = [Requirement(line) for line in requires("opsin") or ()]
    except PackageNotFoundError:
        return Check("packages", "warn", "Opsin itself is not installed here", REINSTALL)
    api = [package for package in required if package.marker is None]
    worker = [package for package in required if "worker" in str(package.marker)]
    api_faults = [fault for package in api if (fault := _fault(package))]
    worker_faults = [fault for package in worker if (fault := _fault(package))]
    if api_faults:
        return Check("packages", "fail", "; ".join(api_faults), REINSTALL)
    if worker_faults:
        detail = f"the API can run here, a worker cannot: {'; '.join(worker_faults)}"
        return Check("packages", "warn", detail, REINSTALL)
    engine = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras"))
    return Check("packages", "ok", f"{len(api) + len(worker)} as required, {engine}")


def _fault(requirement: Requirement) -> str:
    """What is wrong with an installed package; empty if nothing is."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    fits = requirement.specifier.contains(installed, prereleases=True)
    return "" if fits else f"{requirement.name} {installed} is not {requirement.specifier}"


def _pinned(pins: Path) -> Check:
    """Compare the installed versions with those that the tests ran with."""
    pinned = pins_of(pins / "worker.txt") | pins_of(pins / "api.txt")
    others, count = [], 0
    for name, tested in sorted(pinned.items()):
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # required packages are checked by `_required`
        count += 1
        if installed != tested:
            others.append(f"{name} {installed} is not {tested}")
    if not others:
        return Check("pins", "ok", f"{count} packages have exactly the tested versions")
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return Check("pins", "warn", "; ".join(others[:_SHOWN]) + more, "Run `make setup` again.")


def pins_of(file: Path) -> dict[str, str]:
    """Name and version of every package that a file pins for this platform."""
    pins: dict[str, str] = {}
    for line in file.read_text().splitlines():
        pin = _PIN.match(line)
        if pin is None:
            continue
        text = f"{pin[1]}=={pin[2]}" + (f"; {pin[3]}" if pin[3] else "")
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[canonicalize_name(requirement.name)] = pin[2]
    return pins
