"""Datasets in the database, where they can be listed and searched.

The rows repeat the listing in the folder of each dataset and are replaced if it has a later
revision. If a process dies between the two writes, writing the listing again repairs the rows.

SQLite has one writer at a time, and logins, audits and heartbeats wait for it. So more than
`_CHUNK_ROWS` rows are written in several transactions. Until the last of them, the revision of a
new dataset is `HIDDEN`, and that of one which existed before is `_INCOMPLETE`; both are less than
any revision of a listing, so that what a killed process leaves is written again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, Text, and_, cast, delete, func, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from contracts.errors import DatasetNotFound, IdempotencyConflict, NotFound, Unavailable
from contracts.pages import Page
from contracts.training.datasets import DatasetFile, DatasetInfo, FileStatus, Listing
from database.engine import batches, reading, writing
from database.idempotency import IdempotencyKey, StoredResponse, lookup, remember
from database.paging import (
    MAX_PAGE_BYTES,
    Reserve,
    decode_number,
    decode_time_and_id,
    encode_cursor,
    length_of,
    read_anyway,
    require_limit,
    rows_within,
    sizes_of,
)
from database.tables import DatasetFileRecord, DatasetRecord

_CHUNK_ROWS = 1000
_PAUSE_SECONDS = 0.03  # between chunks: waiting writers of SQLite try again every 0.1 s at least
HIDDEN = 0
"""The revision of rows that are not complete yet, or about to be deleted."""
_INCOMPLETE = -1


class DatasetRows:
    """The tables of datasets. Every method may raise Unavailable."""

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

    def repair(self, dataset_id: str, revision: int, read: Callable[[], Listing]) -> None:
        """Write what a process did not come to write after its last change of a dataset.

        Args:
            revision: The revision of the dataset's listing.
            read: Reads the listing, if it has to be read.
        """
        if self.revision(dataset_id) >= revision:
            return
        listing = read()
        idempotency, body = None, None
        if answer := listing.answer:
            idempotency = IdempotencyKey(answer.key, answer.scope, answer.digest)
            body = json.loads(answer.body)
        try:
            earlier = self.put(listing, idempotency=idempotency, body=body)
        except IdempotencyConflict:
            earlier = StoredResponse(409, {})
        if earlier is not None:  # the key has another response already
            self.put(listing)

    def _put(
        self, listing: Listing, idempotency: IdempotencyKey | None, body: dict[str, Any] | None
    ) -> StoredResponse | None:
        info, files = listing.info, listing.files
        if len(files) > _CHUNK_ROWS:
            if idempotency and (earlier := self.stored_response(idempotency)):
                return earlier
            self._put_chunks(info, files)
            files = []
        with writing(self._engine) as session:
            if idempotency and (earlier := lookup(session, idempotency, self._clock())):
                return earlier
            if not _write_info(session, info):
                return None
            if files:
                _sync(session, info.id, 0, files)
            _delete_places(session, info.id, DatasetFileRecord.place >= len(listing.files))
            self._remember(session, info, idempotency, body)
        return None

    def _put_chunks(self, info: DatasetInfo, files: Sequence[DatasetFile]) -> None:
        """Write the rows of the files in several transactions, before the revision."""
        with writing(self._engine) as session:
            row = session.get(DatasetRecord, info.id, with_for_update=True)
            if row is not None and row.revision > info.revision:
                return
            if row is None:
                _write_info(session, info, revision=HIDDEN)
            elif row.revision != HIDDEN:
                row.revision = _INCOMPLETE
        for first in range(0, len(files), _CHUNK_ROWS):
            time.sleep(_PAUSE_SECONDS)
            with writing(self._engine) as session:
                _sync(session, info.id, first, files[first : first + _CHUNK_ROWS])

    def change(
        self,
        info: DatasetInfo,
        before: int,
        changed: Mapping[int, DatasetFile],
        publish: Callable[[], None],
        *,
        idempotency: IdempotencyKey | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        """Write a change of a dataset, whose rows were complete.

        Args:
            before: The revision of the rows, which must be those of the listing.
            changed: The files that change, by place.
            publish: Called before the transaction ends: if anything fails before, nothing changes.
            idempotency: As for `put`.
            body: As for `put`.

        Raises:
            Unavailable: The rows are not of that revision.
        """
        places = sorted(changed)
        if len(places) > _CHUNK_ROWS:
            with writing(self._engine) as session:
                _require_revision(session, info.id, {before}).revision = _INCOMPLETE
            for chunk in batches(places, _CHUNK_ROWS):
                time.sleep(_PAUSE_SECONDS)
                with writing(self._engine) as session:
                    _replace(session, info.id, {place: changed[place] for place in chunk})
            before, changed = _INCOMPLETE, {}
        with writing(self._engine) as session:
            _require_revision(session, info.id, {before})
            _write_info(session, info)
            _replace(session, info.id, changed)
            self._remember(session, info, idempotency, body)
            session.flush()
            publish()

    def _remember(
        self,
        session: Session,
        info: DatasetInfo,
        idempotency: IdempotencyKey | None,
        body: dict[str, Any] | None,
    ) -> None:
        if idempotency:
            response = StoredResponse(201, body or info.model_dump(mode="json"))
            remember(session, idempotency, response, self._clock())

    def get(self, dataset_id: str, reserve: Reserve = read_anyway) -> DatasetInfo:
        """One dataset.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        info = DatasetRecord.info
        query = select(length_of(info)).where(DatasetRecord.id == dataset_id)
        with reading(self._engine) as session:
            _find(session, dataset_id)
            reserve(session.scalar(query) or 0)
            found = session.scalar(query.with_only_columns(cast(info, Text)))
        if found is None:
            raise _not_found()
        return DatasetInfo.model_validate_json(found)

    def require(self, dataset_id: str) -> None:
        """Check that a dataset exists, without reading its classes.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        with reading(self._engine) as session:
            _find(session, dataset_id)

    def revision(self, dataset_id: str) -> int:
        """The revision of the rows of a dataset; 0 or less if they are missing or incomplete."""
        query = select(DatasetRecord.revision).where(DatasetRecord.id == dataset_id)
        with reading(self._engine) as session:
            return session.scalar(query) or 0

    def revisions(self) -> dict[str, int]:
        """The revision of every dataset in the database, by id."""
        with reading(self._engine) as session:
            rows = session.execute(select(DatasetRecord.id, DatasetRecord.revision))
            return {row.id: row.revision for row in rows}

    def list(
        self, *, limit: int = 50, cursor: str | None = None, reserve: Reserve = read_anyway
    ) -> Page[DatasetInfo]:
        """A page of datasets, newest first. New ones do not shift the pages.

        It ends early, but not before its first one, where they would have more than
        `MAX_PAGE_BYTES` together: one may have a hundred thousand classes.

        Raises:
            ValidationFailed: The cursor is not valid, or the limit not in 1 to 200.
        """
        require_limit(limit)
        query = (
            select(DatasetRecord)
            .where(DatasetRecord.revision != HIDDEN)
            .order_by(DatasetRecord.created_at.desc(), DatasetRecord.id.desc())
        )
        if cursor is not None:
            created_at, dataset_id = decode_time_and_id(cursor)
            same_time = and_(DatasetRecord.created_at == created_at, DatasetRecord.id < dataset_id)
            query = query.where(or_(DatasetRecord.created_at < created_at, same_time))
        named = query.with_only_columns(DatasetRecord.id, DatasetRecord.created_at)
        row_id, length = DatasetRecord.id, length_of(DatasetRecord.info)
        with reading(self._engine) as session:
            found = session.execute(named.limit(limit + 1)).all()
            ids = [row.id for row in found[:limit]]
            chosen = rows_within(sizes_of(session, ids, row_id, length), MAX_PAGE_BYTES)
            reserve(sum(chosen.values()))
            texts = query.with_only_columns(cast(DatasetRecord.info, Text))
            shown = session.scalars(texts.where(row_id.in_(chosen))).all()
        next_cursor = None
        if len(found) > len(chosen) and shown:
            last = found[len(chosen) - 1]
            next_cursor = encode_cursor(last.created_at.isoformat(), last.id)
        items = [DatasetInfo.model_validate_json(info) for info in shown]
        return Page(items=items, next_cursor=next_cursor)

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

    def hide(self, dataset_id: str) -> None:
        """Hide a dataset that is about to be deleted, if it has a row.

        If the process dies before the folder is gone, the rows are written again.
        """
        with writing(self._engine) as session:
            if (row := session.get(DatasetRecord, dataset_id)) is not None:
                row.revision = HIDDEN

    def delete(self, dataset_id: str) -> None:
        """Delete the rows of a dataset; it is hidden from the start.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        place = DatasetFileRecord.place
        with writing(self._engine) as session:
            _require_row(session, dataset_id).revision = HIDDEN
            last = session.scalar(
                select(func.max(place)).where(DatasetFileRecord.dataset_id == dataset_id)
            )
        for end in range(_CHUNK_ROWS, (last or 0) + 1, _CHUNK_ROWS):
            time.sleep(_PAUSE_SECONDS)
            with writing(self._engine) as session:
                _delete_places(session, dataset_id, place < end)
        with writing(self._engine) as session:
            if (row := session.get(DatasetRecord, dataset_id)) is not None:
                session.delete(row)


def _require_revision(session: Session, dataset_id: str, revisions: set[int]) -> DatasetRecord:
    row = session.get(DatasetRecord, dataset_id, with_for_update=True)
    if row is None or row.revision not in revisions:
        raise Unavailable("The dataset is being changed by another process.", retry_after=2)
    return row


def _write_info(session: Session, info: DatasetInfo, *, revision: int | None = None) -> bool:
    """Write everything about a dataset but its files, unless there is a later revision."""
    row = session.get(DatasetRecord, info.id, with_for_update=True)
    if row is not None and row.revision > info.revision:
        return False
    if row is None:
        row = DatasetRecord(id=info.id)
        session.add(row)
    row.revision = info.revision if revision is None else revision
    row.info = info.model_dump(mode="json")
    row.created_at = info.created_at
    session.flush()
    return True


def _sync(session: Session, dataset_id: str, first: int, files: Sequence[DatasetFile]) -> None:
    """Write the rows of consecutive files; those that are the same remain."""
    table = DatasetFileRecord
    query = select(table.place, table.file).where(
        table.dataset_id == dataset_id, table.place >= first, table.place < first + len(files)
    )
    before = {row.place: row.file for row in session.execute(query)}
    _replace(
        session,
        dataset_id,
        {
            place: file
            for place, file in enumerate(files, first)
            if before.get(place) != file.model_dump(mode="json")
        },
    )


def _replace(session: Session, dataset_id: str, files: Mapping[int, DatasetFile]) -> None:
    """Write the rows of some files."""
    if files:
        _delete_places(session, dataset_id, DatasetFileRecord.place.in_(list(files)))
        rows = [_row(dataset_id, place, file) for place, file in files.items()]
        # Bypasses the session, which is slow for many rows; other writers are waiting.
        session.connection().execute(insert(DatasetFileRecord), rows)


def _delete_places(session: Session, dataset_id: str, which: ColumnElement[bool]) -> None:
    files = DatasetFileRecord
    session.connection().execute(delete(files).where(files.dataset_id == dataset_id, which))


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
    row = _require_row(session, dataset_id)
    if row.revision == HIDDEN:
        raise _not_found()
    return row


def _require_row(session: Session, dataset_id: str) -> DatasetRecord:
    # Without the classes, of which there may be megabytes.
    options = (defer(DatasetRecord.info, raiseload=True),)
    row = None
    if dataset_id.isprintable():
        row = session.get(DatasetRecord, dataset_id, options=options)
    if row is None:
        raise _not_found()
    return row


def _not_found() -> DatasetNotFound:
    return DatasetNotFound("There is no dataset with that id. `GET /v1/datasets` lists all.")
