"""Python and the installed packages, against what this release allows and what was tested."""

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
    """Looks at the interpreter and at what is installed.

    Args:
        pins: The folder of `api.txt` and `worker.txt`; a wheel comes without it.
    """
    yield _python()
    yield _required()
    if (pins / "worker.txt").is_file():
        yield _pinned(pins)


def _python() -> Check:
    least, beyond = _PYTHONS
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if least <= sys.version_info[:2] < beyond:
        return Check("python", "ok", found)
    return Check("python", "fail", found, "Opsin needs Python 3.11, 3.12 or 3.13.")


def _required() -> Check:
    """The installed versions against those that pyproject.toml allows."""
    try:
        wanted = [Requirement(line) for line in requires("opsin") or ()]
    except PackageNotFoundError:
        return Check("packages", "warn", "Opsin itself is not installed here", REINSTALL)
    api = [one for one in wanted if one.marker is None]
    worker = [one for one in wanted if "worker" in str(one.marker)]
    faults = [fault for one in api if (fault := _fault(one))]
    lacks = [fault for one in worker if (fault := _fault(one))]
    if faults:
        return Check("packages", "fail", "; ".join(faults), REINSTALL)
    if lacks:
        detail = f"the API can run here, a worker cannot: {'; '.join(lacks)}"
        return Check("packages", "warn", detail, REINSTALL)
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


def _pinned(pins: Path) -> Check:
    """The installed versions against those that the tests ran with."""
    pinned = pins_of(pins / "worker.txt") | pins_of(pins / "api.txt")
    strays, here = [], 0
    for name, wanted in sorted(pinned.items()):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # what must be there, the line above tells
        here += 1
        if found != wanted:
            strays.append(f"{name} {found} is not {wanted}")
    if not strays:
        return Check("pins", "ok", f"{here} packages are the very ones that were tested")
    more = f" and {len(strays) - _SHOWN} more" if len(strays) > _SHOWN else ""
    return Check("pins", "warn", "; ".join(strays[:_SHOWN]) + more, "Run `make setup` again.")


def pins_of(file: Path) -> dict[str, str]:
    """Name and version of every package that a file pins for this platform."""
    found: dict[str, str] = {}
    for line in file.read_text().splitlines():
        pin = _PIN.match(line)
        if pin is None:
            continue
        text = f"{pin[1]}=={pin[2]}" + (f"; {pin[3]}" if pin[3] else "")
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            found[canonicalize_name(requirement.name)] = pin[2]
    return found
