"""Brings weights and sample photos to this machine, with a bar, and tells what it could not.

`opsin up` asks each source once and then leaves it alone, so that a machine without a network
starts in seconds; `opsin weights pull` always tries again.
"""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli.output import CommandError, warn
from contracts.settings import Settings
from models.catalog import CATALOG, Network
from models.weights.catalog import Weights, WeightsMissing
from models.weights.samples import Samples, SamplesMissingError


class Bar:
    """One download's line in a progress display; it appears with the first byte."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Shows `done` bytes of `total`, None where the size is unknown."""
        if self._task is None:
            self._task = self._progress.add_task(self._name, total=total)
            if not self._progress.console.is_terminal:
                self._progress.console.print(f"Fetching {self._name} …", markup=False)
        self._progress.update(self._task, completed=done, total=total)


def progress_display(console: Console) -> Progress:
    """Bytes, speed and the time that remains, a line a file."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of it.

    Attributes:
        networks: Names of the networks of which something can be served.
        faults: One line for each network that is not, or not wholly, here.
        samples_fault: Why the sample photos are not here; None if they are.
    """

    networks: tuple[str, ...]
    faults: tuple[str, ...]
    samples_fault: str | None

    def warn(self, console: Console) -> None:
        """Tells all that is not here."""
        for fault in filter(None, (*self.faults, self.samples_fault)):
            warn(console, fault)

    def require_one(self) -> None:
        """Checks that the service would have anything to do.

        Raises:
            CommandError: No network has weights.
        """
        if not self.networks:
            raise CommandError(
                "No network has weights, so nothing could be served. Connect to a package "
                "registry or the internet once and try again, without OPSIN_OFFLINE; or point "
                "OPSIN_WEIGHTS_DIR to a folder with weight files, whose names are above."
            )


def known_networks(settings: Settings) -> tuple[Network, ...]:
    """The catalog's rows for OPSIN_MODELS.

    Raises:
        CommandError: A name is not in the catalog.
    """
    strangers = [name for name in settings.models if name not in CATALOG]
    if strangers:
        raise CommandError(
            f"OPSIN_MODELS names {', '.join(strangers)}; known are {', '.join(CATALOG)}.",
            exit_code=2,
        )
    return tuple(CATALOG[name] for name in settings.models)


def pull_defaults(settings: Settings, console: Console, *, again: bool) -> Pulled:
    """Brings what OPSIN_MODELS and the README's first request need; skips what is here.

    Args:
        settings: Which networks, and where to keep them.
        console: Shows progress.
        again: Whether to try what could not be had the last time.
    """
    networks = known_networks(settings)
    tried = _Tried(settings.weights_home / ".tried.json")
    weights = Weights.of(settings)
    here: list[str] = []
    faults: list[str] = []
    with progress_display(console) as progress:
        for network in networks:
            fetch = again or network.name not in tried
            fault = _pull_network(weights, network, progress, fetch=fetch)
            if fault is not None:
                faults.append(f"{network.name}: {fault}")
            if _usable(weights, network):
                here.append(network.name)
        with contextlib.suppress(OSError):
            tried.note(network.name for network in networks)
        samples_fault = _pull_samples(settings, progress)
    if not here and not again:
        return pull_defaults(settings, console, again=True)
    return Pulled(tuple(here), tuple(faults), samples_fault)


def _pull_samples(settings: Settings, progress: Progress) -> str | None:
    try:
        Samples.of(settings).pull(Bar(progress, "sample photos"))
    except SamplesMissingError as error:
        return str(error)
    return None


def _pull_network(
    weights: Weights, network: Network, progress: Progress, *, fetch: bool
) -> str | None:
    """The network's weights, or else its base's; why it is not whole, if it is not."""

    def get(name: str) -> None:
        if fetch:
            weights.pull(name, Bar(progress, name))
        else:
            weights.find(name)

    try:
        for name in (network.weights, *network.needs):
            get(name)
    except WeightsMissing as error:
        if network.base_weights is not None:
            with contextlib.suppress(WeightsMissing):
                get(network.base_weights)
                return f"its base is here, but not its classes. {error.detail}"
        return error.detail
    return None


def _usable(weights: Weights, network: Network) -> bool:
    for name in filter(None, (network.weights, network.base_weights)):
        with contextlib.suppress(WeightsMissing):
            for one in (name, *network.needs):
                weights.find(one)
            return True
    return False


class _Tried:
    """The networks whose sources were asked before, kept beside the weights."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._names = frozenset(map(str, json.loads(file.read_text())))
        except (OSError, ValueError, TypeError):
            self._names = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def note(self, names: Iterable[str]) -> None:
        self._names |= frozenset(names)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(sorted(self._names)))
