"""A running home, held fast: the database first, then the files, all as they are right now.

The order is what makes it consistent. Files are written before the row that names them, so
whatever the copied rows name is there when the files are held. What is newer than the rows does no
harm: a dataset without a row gets one at the next start, a job's folder without a row is swept,
and a version belongs to no row at all. What goes is the scratch of a job that ends, and the
copied row may be from before that end: so scratch is held before the database too.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.backup.contents import AREAS, DATABASE, SECRETS, DatabaseKind
from cli.backup.databases import dump
from contracts.errors import DatasetNotFound
from contracts.settings import Settings
from models.datasets.library import Library
from models.store.hardlinks import link_tree
from models.store.staging import Staging
from models.store.store import Store

_MADE_ANEW = ("job_*/lock", "job_*/work/features", "unfinished/*.lock", "unfinished/*/features")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A home at one moment.

    Attributes:
        database: What the copied database is; None where there was none.
        areas: Where each area's files are now, by its name.
        scratch: An empty folder of one's own, gone with the snapshot.
    """

    database: DatabaseKind | None
    areas: dict[str, Path]
    scratch: Path


@contextmanager
def snapshot(settings: Settings, *, secrets: bool) -> Iterator[Snapshot]:
    """Hold the home fast while the block runs; it takes no room but the database's.

    Args:
        settings: Whose home.
        secrets: Whether the keys of the faces belong to it.

    Raises:
        CommandError: The database cannot be copied.
        Unavailable: A model or a dataset was busy for half a minute.
    """
    store, library = Store(settings.store_home), Library.of(settings)
    with ExitStack() as stack:
        here = stack.enter_context(Staging(settings.jobs_home / ".staging").folder())
        scratch, areas = here / "scratch", {DATABASE: here / DATABASE}
        for folder in (scratch, areas[DATABASE]):
            folder.mkdir(mode=0o700)
        earlier = here / "earlier"
        link_tree(settings.jobs_home, earlier, _no_scratch)
        database = dump(settings, areas[DATABASE])
        areas["store"] = stack.enter_context(store.staging())
        for model in store.models():
            store.freeze(model, areas["store"] / model)
        areas["datasets"] = stack.enter_context(library.staging())
        for dataset_id in library.ids():
            try:
                library.freeze(dataset_id, areas["datasets"] / dataset_id)
            except DatasetNotFound:
                continue  # deleted this very moment
        for name in (*AREAS, *((SECRETS,) if secrets else ())):
            if name not in areas:
                areas[name] = here / name
                link_tree(settings.home / name, areas[name], _made_anew)
        _fill(areas["jobs"], earlier)
        yield Snapshot(database, areas, scratch)


def _made_anew(inside: Path) -> bool:
    """What of a job or of a training is not kept: locks, and features, written in place."""
    return any(map(inside.match, _MADE_ANEW))


def _no_scratch(inside: Path) -> bool:
    return _made_anew(inside) or inside.match("job_*/artifacts")


def _fill(jobs: Path, earlier: Path) -> None:
    """Add what has gone since; of what was replaced since, the later is the whole one."""
    for folder, _, names in os.walk(earlier):
        into = jobs / Path(folder).relative_to(earlier)
        for name in names:
            if not (into / name).exists():
                into.mkdir(parents=True, exist_ok=True)
                Path(folder, name).rename(into / name)
