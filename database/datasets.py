"""Datasets, to be listed and searched. The listing in each one's folder is the truth.

A row repeats a listing and is replaced when that has a later revision, so whatever was cut short
between the two is put right by putting the listing here again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Engine, and_, delete, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.errors import DatasetNotFound, NotFound
from contracts.pages import Page
from contracts.training.datasets import DatasetFile, DatasetInfo, FileStatus, Listing
from database.engine import reading, writing
from database.idempotency import Answer, IdempotencyKey, lookup, remember
from database.paging import bad_cursor, cursor_of, moment_and_id, place_of, require_limit
from database.tables import DatasetFileRecord, DatasetRecord

T = TypeVar("T")

_ROWS_AT_ONCE = 1000


class DatasetRows:
    """The tables of datasets. Every method is one transaction; Unavailable without one."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def answered(self, asked: IdempotencyKey) -> Answer | None:
        """What the first request with that key was answered, if there was one.

        Raises:
            IdempotencyConflict: It was another request.
        """
        with reading(self._engine) as session:
            return lookup(session, asked, self._clock())

    def put(
        self,
        listing: Listing,
        *,
        asked: IdempotencyKey | None = None,
        answer: dict[str, Any] | None = None,
    ) -> Answer | None:
        """Write what a listing says, unless a later revision of it is here.

        Args:
            listing: All of it.
            asked: The Idempotency-Key of the request that made it.
            answer: What is answered to that request; the listing's `info` if left out.

        Returns:
            The answer to an earlier request with that key, which came in between: then nothing
            was written, and what was made is to be removed again. None as a rule.

        Raises:
            IdempotencyConflict: As `answered`.
        """
        try:
            return self._put(listing, asked, answer)
        except IntegrityError:
            # Another process wrote the same dataset or key between our look and our write.
            return self._put(listing, asked, answer)

    def _put(
        self, listing: Listing, asked: IdempotencyKey | None, answer: dict[str, Any] | None
    ) -> Answer | None:
        changes = self._changes(listing)
        with writing(self._engine) as session:
            if asked and (earlier := lookup(session, asked, self._clock())):
                return earlier
            if _revision(session, listing.info.id) != changes.revision:
                changes = _whole(listing)  # another wrote it meanwhile
            _replace(session, listing.info, changes)
            if asked:
                body = answer or listing.info.model_dump(mode="json")
                remember(session, asked, Answer(201, body), self._clock())
        return None

    def _changes(self, listing: Listing) -> "_Changes":
        """What has to be written; found out before anybody is kept from writing.

        Nearly all of a large dataset is as it was when a picture is added to it.
        """
        table = DatasetFileRecord
        known = select(table.place, table.file).where(table.dataset_id == listing.info.id)
        with reading(self._engine) as session:
            revision = _revision(session, listing.info.id)
            if revision is None:
                return replace(_whole(listing), revision=None)
            before = {row.place: row.file for row in session.execute(known)}
        rows = _rows(listing)
        changed = [one for one in rows if before.get(one["place"]) != one["file"]]
        stale = [one["place"] for one in changed if one["place"] in before]
        stale += [place for place in before if place >= len(rows)]
        return _Changes(revision, stale, changed)

    def get(self, dataset_id: str) -> DatasetInfo:
        """One dataset.

        Raises:
            DatasetNotFound: There is none of that id.
        """
        with reading(self._engine) as session:
            return _info(_find(session, dataset_id))

    def revisions(self) -> dict[str, int]:
        """Every dataset that is known here, and its revision."""
        with reading(self._engine) as session:
            rows = session.execute(select(DatasetRecord.id, DatasetRecord.revision))
            return {row.id: row.revision for row in rows}

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[DatasetInfo]:
        """Some datasets, newest first. Ones made meanwhile do not shift the pages.

        Raises:
            ValidationFailed: The cursor is none of ours, or the limit not in 1 to 200.
        """
        require_limit(limit)
        query = select(DatasetRecord).order_by(
            DatasetRecord.created_at.desc(), DatasetRecord.id.desc()
        )
        if cursor is not None:
            made, dataset_id = moment_and_id(cursor)
            same_time = and_(DatasetRecord.created_at == made, DatasetRecord.id < dataset_id)
            query = query.where(or_(DatasetRecord.created_at < made, same_time))
        with reading(self._engine) as session:
            rows = session.scalars(query.limit(limit + 1)).all()
        shown = rows[:limit]
        following = None
        if len(rows) > limit:
            following = cursor_of(shown[-1].created_at.isoformat(), shown[-1].id)
        return Page(items=[_info(row) for row in shown], next_cursor=following)

    def files(
        self,
        dataset_id: str,
        *,
        label: str | None = None,
        status: FileStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[DatasetFile]:
        """Some files of a dataset, in the order in which they were sent.

        Raises:
            DatasetNotFound: There is none of that id.
            ValidationFailed: As `list`.
        """
        require_limit(limit)
        row = DatasetFileRecord
        query = select(row).where(row.dataset_id == dataset_id).order_by(row.place)
        if label is not None:
            query = query.where(row.label == label)
        if status is not None:
            query = query.where(row.status == status)
        if cursor is not None:
            query = query.where(row.place > _place_in_files(cursor))
        with reading(self._engine) as session:
            _find(session, dataset_id)
            rows = session.scalars(query.limit(limit + 1)).all()
        shown = rows[:limit]
        following = cursor_of(shown[-1].place) if len(rows) > limit else None
        items = [DatasetFile.model_validate(one.file) for one in shown]
        return Page(items=items, next_cursor=following)

    def file(self, dataset_id: str, file_id: str) -> DatasetFile:
        """One file of a dataset.

        Raises:
            DatasetNotFound: There is no such dataset.
            NotFound: It has no such file.
        """
        query = select(DatasetFileRecord).where(
            DatasetFileRecord.dataset_id == dataset_id, DatasetFileRecord.file_id == file_id
        )
        with reading(self._engine) as session:
            _find(session, dataset_id)
            row = session.scalars(query.limit(1)).first()
        if row is None:
            raise NotFound("The dataset has no such file; `…/files` lists all.")
        return DatasetFile.model_validate(row.file)

    def delete(self, dataset_id: str) -> None:
        """Forget a dataset.

        Raises:
            DatasetNotFound: There is none of that id.
        """
        with writing(self._engine) as session:
            session.delete(_find(session, dataset_id))


@dataclass(frozen=True, slots=True)
class _Changes:
    """What turns the rows of a dataset into those of a listing.

    Attributes:
        revision: Of the rows that it was found by; None if there were none.
        stale: Places whose rows go first; None: all of them.
        rows: To be inserted.
    """

    revision: int | None
    stale: list[int] | None
    rows: list[dict[str, Any]]


def _whole(listing: Listing) -> _Changes:
    return _Changes(None, None, _rows(listing))


def _rows(listing: Listing) -> list[dict[str, Any]]:
    return [_row(listing.info.id, at, one) for at, one in enumerate(listing.files)]


def _revision(session: Session, dataset_id: str) -> int | None:
    return session.scalar(select(DatasetRecord.revision).where(DatasetRecord.id == dataset_id))


def _replace(session: Session, info: DatasetInfo, changes: _Changes) -> None:
    row = session.get(DatasetRecord, info.id)
    if row is not None and row.revision > info.revision:
        return
    if row is None:
        row = DatasetRecord(id=info.id)
        session.add(row)
    row.revision = info.revision
    row.info = info.model_dump(mode="json")
    row.created_at = info.created_at
    session.flush()
    files = DatasetFileRecord
    mine = files.dataset_id == info.id
    # Past the session, which would look at every row: others wait for as long as this takes.
    connection = session.connection()
    if changes.stale is None:
        connection.execute(delete(files).where(mine))
    for some in _in_parts(changes.stale or []):
        connection.execute(delete(files).where(mine, files.place.in_(some)))
    for rows in _in_parts(changes.rows):
        connection.execute(insert(files), list(rows))


def _in_parts(all_: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(all_), _ROWS_AT_ONCE):
        yield all_[start : start + _ROWS_AT_ONCE]


def _row(dataset_id: str, place: int, one: DatasetFile) -> dict[str, Any]:
    return {
        "data_set_id": dataset_id,
        "place": place,
        "file_id": one.id,
        "label": one.label,
        "status": one.status,
        "file": one.model_dump(mode="json"),
    }


def _find(session: Session, dataset_id: str) -> DatasetRecord:
    row = session.get(DatasetRecord, dataset_id) if dataset_id.isprintable() else None
    if row is None:
        raise DatasetNotFound("There is no dataset of that id. `GET /v1/datasets` lists all.")
    return row


def _info(row: DatasetRecord) -> DatasetInfo:
    return DatasetInfo.model_validate(row.info)


def _place_in_files(cursor: str) -> int:
    (place,) = place_of(cursor, 1)
    if not isinstance(place, int) or not 0 <= place < 2**31:
        raise bad_cursor()
    return place
