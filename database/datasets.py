"""Datasets in the database, where they can be listed and searched.

The rows repeat the listing in the folder of each dataset and are replaced if it has a later
revision. If a process dies between the two writes, writing the listing again repairs the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, and_, delete, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.errors import DatasetNotFound, NotFound
from contracts.pages import Page
from contracts.training.datasets import DatasetFile, DatasetInfo, FileStatus, Listing
from database.engine import batches, reading, writing
from database.idempotency import IdempotencyKey, StoredResponse, lookup, remember
from database.paging import decode_number, decode_time_and_id, encode_cursor, require_limit
from database.tables import DatasetFileRecord, DatasetRecord

_CHUNK_ROWS = 1000


class DatasetRows:
    """The tables of datasets. Every method is a transaction that may raise Unavailable."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def stored_response(self, idempotency: IdempotencyKey) -> StoredResponse | None:
        """The response to the first request with that key, if there was one.

        Raises:
            IdempotencyConflict: The key was used for another request.
        """
        with reading(self._engine) as session:
            return lookup(session, idempotency, self._clock())

    def put(
        self,
        listing: Listing,
        *,
        idempotency: IdempotencyKey | None = None,
        body: dict[str, Any] | None = None,
    ) -> StoredResponse | None:
        """Write a listing, unless the database has a later revision of it.

        Args:
            idempotency: The Idempotency-Key of the request.
            body: The body of the response to that request; by default the listing's `info`.

        Returns:
            The response to an earlier request with that key, if one has been stored in the
            meantime. Then nothing was written, and the caller has to remove what it has made.

        Raises:
            IdempotencyConflict: The key was used for another request.
        """
        try:
            return self._put(listing, idempotency, body)
        except IntegrityError:
            # Another process wrote the same dataset or key between our read and our write.
            return self._put(listing, idempotency, body)

    def _put(
        self, listing: Listing, idempotency: IdempotencyKey | None, body: dict[str, Any] | None
    ) -> StoredResponse | None:
        changes = self._changes(listing)
        with writing(self._engine) as session:
            if idempotency and (earlier := lookup(session, idempotency, self._clock())):
                return earlier
            if _revision(session, listing.info.id) != changes.revision:
                changes = _all_rows(listing)  # another process wrote it in the meantime
            _write(session, listing.info, changes)
            if idempotency:
                response = StoredResponse(201, body or listing.info.model_dump(mode="json"))
                remember(session, idempotency, response, self._clock())
        return None

    def _changes(self, listing: Listing) -> "_Changes":
        """The rows that have to be written, determined before the database is locked.

        When an image is added to a large dataset, nearly all rows remain the same.
        """
        table = DatasetFileRecord
        known = select(table.place, table.file).where(table.dataset_id == listing.info.id)
        with reading(self._engine) as session:
            revision = _revision(session, listing.info.id)
            if revision is None:
                return _all_rows(listing)
            before = {row.place: row.file for row in session.execute(known)}
        rows = _rows(listing)
        changed = [row for row in rows if before.get(row["place"]) != row["file"]]
        stale = [row["place"] for row in changed if row["place"] in before]
        stale += [place for place in before if place >= len(rows)]
        return _Changes(revision, stale, changed)

    def get(self, dataset_id: str) -> DatasetInfo:
        """One dataset.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        with reading(self._engine) as session:
            return _info(_find(session, dataset_id))

    def revisions(self) -> dict[str, int]:
        """The revision of every dataset in the database, by id."""
        with reading(self._engine) as session:
            rows = session.execute(select(DatasetRecord.id, DatasetRecord.revision))
            return {row.id: row.revision for row in rows}

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[DatasetInfo]:
        """A page of datasets, newest first. New ones do not shift the pages.

        Raises:
            ValidationFailed: The cursor is not valid, or the limit not in 1 to 200.
        """
        require_limit(limit)
        query = select(DatasetRecord).order_by(
            DatasetRecord.created_at.desc(), DatasetRecord.id.desc()
        )
        if cursor is not None:
            created_at, dataset_id = decode_time_and_id(cursor)
            same_time = and_(DatasetRecord.created_at == created_at, DatasetRecord.id < dataset_id)
            query = query.where(or_(DatasetRecord.created_at < created_at, same_time))
        with reading(self._engine) as session:
            rows = session.scalars(query.limit(limit + 1)).all()
        shown = rows[:limit]
        next_cursor = None
        if len(rows) > limit:
            next_cursor = encode_cursor(shown[-1].created_at.isoformat(), shown[-1].id)
        return Page(items=[_info(row) for row in shown], next_cursor=next_cursor)

    def files(
        self,
        dataset_id: str,
        *,
        label: str | None = None,
        status: FileStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[DatasetFile]:
        """A page of the files of a dataset, in the order of the upload.

        Raises:
            DatasetNotFound: There is no such dataset.
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
            query = query.where(row.place > decode_number(cursor))
        with reading(self._engine) as session:
            _find(session, dataset_id)
            rows = session.scalars(query.limit(limit + 1)).all()
        shown = rows[:limit]
        next_cursor = encode_cursor(shown[-1].place) if len(rows) > limit else None
        items = [DatasetFile.model_validate(record.file) for record in shown]
        return Page(items=items, next_cursor=next_cursor)

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
        """Delete the rows of a dataset.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        with writing(self._engine) as session:
            session.delete(_find(session, dataset_id))


@dataclass(frozen=True, slots=True)
class _Changes:
    """The changes that turn the rows of a dataset into those of a listing.

    Attributes:
        revision: The revision of the rows that were compared; None if there were none.
        stale: Places of rows to delete first; None deletes all rows.
        rows: Rows to insert.
    """

    revision: int | None
    stale: list[int] | None
    rows: list[dict[str, Any]]


def _all_rows(listing: Listing) -> _Changes:
    return _Changes(None, None, _rows(listing))


def _rows(listing: Listing) -> list[dict[str, Any]]:
    return [_row(listing.info.id, place, file) for place, file in enumerate(listing.files)]


def _revision(session: Session, dataset_id: str) -> int | None:
    return session.scalar(select(DatasetRecord.revision).where(DatasetRecord.id == dataset_id))


def _write(session: Session, info: DatasetInfo, changes: _Changes) -> None:
    row = session.get(DatasetRecord, info.id, with_for_update=True)
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
    in_dataset = files.dataset_id == info.id
    # Bypasses the session, which is slow for many rows; other writers are waiting.
    connection = session.connection()
    if changes.stale is None:
        connection.execute(delete(files).where(in_dataset))
    for places in batches(changes.stale or [], _CHUNK_ROWS):
        connection.execute(delete(files).where(in_dataset, files.place.in_(places)))
    for rows in batches(changes.rows, _CHUNK_ROWS):
        connection.execute(insert(files), rows)


def _row(dataset_id: str, place: int, file: DatasetFile) -> dict[str, Any]:
    return {
        "data_set_id": dataset_id,
        "place": place,
        "file_id": file.id,
        "label": file.label,
        "status": file.status,
        "file": file.model_dump(mode="json"),
    }


def _find(session: Session, dataset_id: str) -> DatasetRecord:
    row = session.get(DatasetRecord, dataset_id) if dataset_id.isprintable() else None
    if row is None:
        raise DatasetNotFound("There is no dataset with that id. `GET /v1/datasets` lists all.")
    return row


def _info(row: DatasetRecord) -> DatasetInfo:
    return DatasetInfo.model_validate(row.info)
