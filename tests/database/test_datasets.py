"""The rows of datasets: pages, filters, revisions and idempotency."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event

from contracts.errors import (
    DatasetNotFound,
    IdempotencyConflict,
    NotFound,
    Unavailable,
    ValidationFailed,
)
from contracts.training.datasets import DatasetFile, DatasetInfo, Listing
from database.datasets import DatasetRows
from database.idempotency import IdempotencyKey
from tests.database.conftest import Clock


@pytest.fixture
def rows(engine: Engine, clock: Clock) -> DatasetRows:
    return DatasetRows(engine, clock)


def listing(dataset_id: str, clock: Clock, *, revision: int = 1, files: int = 0) -> Listing:
    made = [
        DatasetFile(
            id=f"file_{n}",
            path=f"{'ab'[n % 2]}/{n}.png",
            label="ab"[n % 2],
            status="rejected" if n % 3 == 0 else "admitted",
        )
        for n in range(files)
    ]
    info = DatasetInfo(
        id=dataset_id,
        name="pets",
        digest="sha256:0",
        revision=revision,
        classes={},
        splits={"train": 0, "validation": 0, "test": 0},
        trainable=False,
        warnings=[],
        rejected=[],
        created_at=clock(),
    )
    return Listing(info=info, validation=0.15, test=0.15, files=made)


def test_what_needs_no_classes_reads_none(rows: DatasetRows, clock: Clock, engine: Engine) -> None:
    """Requests for a file of a dataset would otherwise read megabytes each."""
    rows.put(listing("ds_1", clock, files=2))
    statements = list[str]()

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    rows.require("ds_1")
    assert len(rows.files("ds_1").items) == 2
    rows.file("ds_1", "file_1")
    assert statements
    assert not [one for one in statements if "data_sets.info" in one]


def test_a_page_of_datasets_of_many_classes_ends_early(
    rows: DatasetRows, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("database.datasets.MAX_PAGE_BYTES", 100_000)
    for number in range(5):
        made = listing(f"ds_{number}", clock)
        made.info.classes |= dict.fromkeys(map(str, range(4000)), 1)
        rows.put(made)
        clock.now += timedelta(seconds=1)
    seen: list[list[str]] = []
    cursor = None
    for _ in range(5):
        page = rows.list(limit=200, cursor=cursor)
        seen.append([info.id for info in page.items])
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [["ds_4", "ds_3"], ["ds_2", "ds_1"], ["ds_0"]]


def test_pages_show_newest_first(rows: DatasetRows, clock: Clock) -> None:
    for number in range(5):
        rows.put(listing(f"ds_{number}", clock))
        clock.now += timedelta(seconds=number % 2)  # some share their moment
    seen: list[str] = []
    cursor = None
    while True:
        page = rows.list(limit=2, cursor=cursor)
        seen += [one.id for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == [f"ds_{number}" for number in range(5)]
    assert seen[0] == "ds_4"


def test_files_by_label_and_status(rows: DatasetRows, clock: Clock) -> None:
    whole = listing("ds_1", clock, files=2500)
    rows.put(whole)
    rows.put(listing("ds_2", clock, files=3))
    first = rows.files("ds_1", limit=200)
    second = rows.files("ds_1", limit=200, cursor=first.next_cursor)
    assert [*first.items, *second.items] == whole.files[:400]
    page = rows.files("ds_1", label="b", status="rejected", limit=200)
    assert {(one.label, one.status) for one in page.items} == {("b", "rejected")}
    assert len(rows.files("ds_2").items) == 3
    assert rows.files("ds_1", label="nonesuch").items == []
    assert rows.file("ds_1", "file_7").path == "b/7.png"
    with pytest.raises(NotFound):
        rows.file("ds_2", "file_7")


def test_only_a_later_revision_replaces_rows(rows: DatasetRows, clock: Clock) -> None:
    rows.put(listing("ds_1", clock, revision=2, files=4))
    rows.put(listing("ds_1", clock, revision=1, files=1))
    assert (rows.get("ds_1").revision, len(rows.files("ds_1").items)) == (2, 4)
    rows.put(listing("ds_1", clock, revision=3, files=6))
    assert rows.revisions() == {"ds_1": 3}
    assert len(rows.files("ds_1").items) == 6


def test_deleted_dataset_has_no_files(rows: DatasetRows, clock: Clock) -> None:
    rows.put(listing("ds_1", clock, files=3))
    rows.delete("ds_1")
    for ask in (rows.get, rows.files, rows.delete):
        with pytest.raises(DatasetNotFound):
            ask("ds_1")
    rows.put(listing("ds_1", clock))
    assert rows.files("ds_1").items == []


def test_key_has_one_response(rows: DatasetRows, clock: Clock) -> None:
    key = IdempotencyKey("k", "dataset", "d")
    assert rows.stored_response(key) is None
    assert rows.put(listing("ds_1", clock), idempotency=key) is None
    again = rows.put(listing("ds_2", clock), idempotency=key)
    assert again is not None
    assert (again.status, again.body["id"]) == (201, "ds_1")
    assert rows.revisions() == {"ds_1": 1}
    with pytest.raises(IdempotencyConflict):
        rows.put(listing("ds_3", clock), idempotency=IdempotencyKey("k", "dataset", "other"))


def test_concurrent_writes_with_one_key_store_one(rows: DatasetRows, clock: Clock) -> None:
    key = IdempotencyKey("k", "dataset", "d")

    def put(number: int) -> object:
        return rows.put(listing(f"ds_{number}", clock, files=20), idempotency=key)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(put, range(6)))
    assert answers.count(None) == 1
    assert len(rows.revisions()) == 1


@pytest.mark.parametrize(
    "cursor", ["", "x", "W10=", "WzFd", "e30=", "Wy0xXQ==", "WyJhIiwgImIiXQ=="]
)
def test_invalid_cursor_is_refused(rows: DatasetRows, clock: Clock, cursor: str) -> None:
    rows.put(listing("ds_1", clock))
    with pytest.raises(ValidationFailed):
        rows.list(cursor=cursor)
    if cursor != "WzFd":  # [1], which is a place among files
        with pytest.raises(ValidationFailed):
            rows.files("ds_1", cursor=cursor)


def test_adding_to_a_large_dataset_writes_only_new_rows(
    rows: DatasetRows, engine: Engine, clock: Clock
) -> None:
    rows.put(listing("ds_1", clock, files=3000))
    written = []

    @event.listens_for(engine, "before_cursor_execute")
    def count(*arguments: Any) -> None:
        _, _, statement, parameters, _, many = arguments
        if statement.startswith(("INSERT INTO data_set_files", "DELETE FROM data_set_files")):
            written.append(len(parameters) if many else 1)

    rows.put(listing("ds_1", clock, files=3002, revision=2))
    assert sum(written) <= 4
    rows.put(listing("ds_1", clock, files=2999, revision=3))
    assert sum(written) <= 8
    found, cursor = [], None
    while True:
        page = rows.files("ds_1", limit=200, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == listing("ds_1", clock, files=2999).files


def test_other_writers_are_not_blocked_by_a_large_dataset(
    rows: DatasetRows, engine: Engine, clock: Clock
) -> None:
    """None of them waits as long as they may, a tenth of the 5 s that the engine allows."""
    many, waits = listing("ds_large", clock, files=8_000), []
    with ThreadPoolExecutor(1) as thread:
        writer = thread.submit(rows.put, many)
        number = 0
        while not writer.done():
            began = time.monotonic()
            rows.put(listing(f"ds_{number}", clock))
            waits.append(time.monotonic() - began)
            number += 1
        writer.result()
    assert len(rows.files("ds_large", limit=200).items) == 200
    assert max(waits) < 4.5, "nobody was refused, nor nearly"


@contextmanager
def rows_by_transaction(engine: Engine) -> Iterator[list[int]]:
    """How many rows of files each transaction has written."""
    counts = [0]

    def begin(_connection: object) -> None:
        counts.append(0)

    def count(_connection: object, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "INTO data_set_files" in statement or "FROM data_set_files" in statement:
            if statement.startswith("INSERT"):
                counts[-1] += len(parameters)
            elif statement.startswith("DELETE"):
                counts[-1] += cursor.rowcount

    event.listen(engine, "begin", begin)
    event.listen(engine, "after_cursor_execute", count)
    yield counts
    event.remove(engine, "begin", begin)
    event.remove(engine, "after_cursor_execute", count)


def test_no_transaction_writes_more_than_a_chunk(
    rows: DatasetRows, engine: Engine, clock: Clock
) -> None:
    big = listing("ds_1", clock, files=4500)
    with rows_by_transaction(engine) as counts:
        rows.put(big)
        assert max(counts) == 1000
        later = listing("ds_1", clock, revision=2, files=4500).info
        changed = {n: big.files[n].model_copy(update={"label": "c"}) for n in range(3000)}
        rows.change(later, 1, changed, lambda: None)
        assert max(counts) <= 2000, "each row is deleted and written again"
        assert rows.get("ds_1").revision == 2
        assert len(rows.files("ds_1", label="c", limit=200).items) == 200
        rows.delete("ds_1")
        assert max(counts) <= 2000
    assert rows.revisions() == {}


def test_a_dataset_is_hidden_until_its_rows_are_complete(
    rows: DatasetRows, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Unavailable("killed", retry_after=1)

    monkeypatch.setattr("database.datasets._sync", stop)
    with pytest.raises(Unavailable):
        rows.put(listing("ds_1", clock, files=4500))
    monkeypatch.undo()
    assert rows.list().items == []
    with pytest.raises(DatasetNotFound):
        rows.get("ds_1")
    assert rows.revision("ds_1") < 1, "so it is written again"
    rows.put(listing("ds_1", clock, files=4500))
    assert rows.get("ds_1").revision == rows.revision("ds_1") == 1


def test_a_change_that_is_not_published_is_not_written(rows: DatasetRows, clock: Clock) -> None:
    first = listing("ds_1", clock, files=3)
    rows.put(first)
    key = IdempotencyKey("k", "images", "d")

    def fail() -> None:
        raise OSError

    changed = {3: first.files[0].model_copy(update={"id": "file_new"})}
    with pytest.raises(OSError):
        rows.change(listing("ds_1", clock, revision=2).info, 1, changed, fail, idempotency=key)
    assert (rows.get("ds_1"), rows.files("ds_1").items) == (first.info, first.files)
    assert rows.stored_response(key) is None
    with pytest.raises(Unavailable):
        rows.change(listing("ds_1", clock, revision=9).info, 8, changed, lambda: None)
