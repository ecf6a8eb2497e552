"""A consistent copy of a running home: first the database, then hard links to the files.

The order makes it consistent. Files are written before the row that names them, so everything that
the copied rows name exists when the files are linked, unless it was deleted meanwhile; the snapshot
says what a restore needs to drop such rows. Files newer than the rows do no harm: a dataset without
a row gets one at the next start, a job folder without a row is removed, and a version has no row at
all. But the scratch folder of a job is removed when the job ends, and the copied row may be from
before that: so scratch folders are also linked before the database.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import inspect

from cli.backup.contents import AREAS, DATABASE, DATABASES, SECRETS, DatabaseKind
from cli.backup.databases import dump
from contracts.errors import DatasetNotFound, SubjectNotFound
from contracts.settings import Settings
from database.datasets import HIDDEN, DatasetRows
from database.engine import open_engine
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import erased_ids
from database.faces.subjects import erase
from database.migrations import current, newest
from database.tables import DatasetRecord
from models.datasets.store import DatasetStore
from models.store.hardlinks import link_tree
from models.store.staging import backup_copies
from models.store.store import Store

_NOT_KEPT = ("job_*/lock", "job_*/work/features", "unfinished/*.lock", "unfinished/*/features")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A home at one moment.

    Attributes:
        at: The moment: the database is no older.
        database: The kind of the copied database; None if there was none.
        areas: The folder with each area's files, by its name.
        scratch: An empty folder, removed with the snapshot.
        lost_datasets: Those that the live database names and whose folders are missing, sorted.
        erased: The subjects that were erased meanwhile, sorted.
    """

    at: datetime
    database: DatabaseKind | None
    areas: dict[str, Path]
    scratch: Path
    lost_datasets: list[str]
    erased: list[str]


@contextmanager
def snapshot(settings: Settings, *, secrets: bool) -> Iterator[Snapshot]:
    """Take a snapshot for the time of the block; only the database needs space.

    Args:
        secrets: Whether to include the keys of faces.

    Raises:
        CommandError: The database cannot be copied.
        Unavailable: A model or a dataset was busy for half a minute, or the database does not
            answer.
    """
    store, library = Store(settings.store_home), DatasetStore.of(settings)
    with ExitStack() as stack:
        here = stack.enter_context(backup_copies(settings.jobs_home).folder())
        scratch, areas = here / "scratch", {DATABASE: here / DATABASE}
        for folder in (scratch, areas[DATABASE]):
            folder.mkdir(mode=0o700)
        earlier = here / "earlier"
        link_tree(settings.jobs_home, earlier, skip=_no_scratch)
        named, erased = _named_datasets(settings), erased_ids(settings.home)
        at, database = datetime.now(UTC), dump(settings, areas[DATABASE])
        areas["store"] = stack.enter_context(store.staging())
        for model in store.models():
            store.link_into(model, areas["store"] / model)
        areas["datasets"] = stack.enter_context(library.staging())
        for dataset_id in library.ids():
            try:
                library.link_into(dataset_id, areas["datasets"] / dataset_id)
            except DatasetNotFound:
                continue  # deleted meanwhile
        for name in (*AREAS, *((SECRETS,) if secrets else ())):
            if name not in areas:
                areas[name] = here / name
                link_tree(settings.home / name, areas[name], skip=_is_not_kept)
        _fill(areas["jobs"], earlier)
        # A deletion hides the row, moves the folder away and then deletes the row.
        lost = (named & _named_datasets(settings)).difference(_linked(areas["datasets"]))
        meanwhile = erased_ids(settings.home) - erased
        if database == "sqlite":
            _erase(areas, sorted(meanwhile))
        yield Snapshot(at, database, areas, scratch, sorted(lost), sorted(meanwhile))


def _erase(areas: dict[str, Path], subjects: list[str]) -> None:
    """Erase subjects from the copy, which can be changed; a dump of PostgreSQL cannot."""
    url = f"sqlite:///{areas[DATABASE] / DATABASES['sqlite']}"
    if not subjects or current(url) != newest():
        return  # of an earlier release, so that the restore does it
    engine = open_engine(url)
    try:
        for subject_id in subjects:
            with suppress(SubjectNotFound):
                erase(engine, FaceFiles(areas["faces"]), subject_id, datetime.now(UTC))
    finally:
        engine.dispose()


def _linked(datasets: Path) -> set[str]:
    return {path.name for path in datasets.iterdir()}


def _named_datasets(settings: Settings) -> set[str]:
    """The datasets that the database names, without those that are being deleted."""
    if current(settings.database) is None:
        return set()
    engine = open_engine(settings.database)
    try:
        if not inspect(engine).has_table(DatasetRecord.__tablename__):
            return set()  # of an earlier release
        revisions = DatasetRows(engine, lambda: datetime.now(UTC)).revisions()
        return {one for one, revision in revisions.items() if revision != HIDDEN}
    finally:
        engine.dispose()


def _is_not_kept(inside: Path) -> bool:
    """Whether a file of a job or training is left out: locks, and features, written in place."""
    return any(map(inside.match, _NOT_KEPT))


def _no_scratch(inside: Path) -> bool:
    return _is_not_kept(inside) or inside.match("job_*/artifacts")


def _fill(jobs: Path, earlier: Path) -> None:
    """Add files that were removed since; of those replaced since, the later one is complete."""
    for folder, _, names in os.walk(earlier):
        into = jobs / Path(folder).relative_to(earlier)
        for name in names:
            if not (into / name).exists():
                into.mkdir(parents=True, exist_ok=True)
                Path(folder, name).rename(into / name)
