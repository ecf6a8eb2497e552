"""An unfinished erasure is resumed by a repeated request and by the periodic run."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError
from sqlalchemy import event

from contracts.errors import (
    DiskUnusable,
    JobNotFound,
    SubjectNotFound,
    Unavailable,
    VersionInUse,
)
from contracts.faces.subjects import NewEvent, NewSubject, NewTemplate, StoredFrame
from contracts.inference.manifest import Provenance
from contracts.jobs import JobKind
from contracts.keys import Scope
from contracts.queue import redis_keys
from contracts.settings import Settings
from database.faces.privacy.erased_ids import add_erased, erased_ids
from database.installation import FILE, home_id
from database.jobs.jobs import Jobs
from models.store.staging import backup_copies
from models.store.store import Store
from service.dependencies import Services
from service.faces.privacy.erasure import erase, resume
from tests.database.jobs.listing import listed
from tests.models.drafts import DRAFT, write_files
from tests.service.face_replies import quality, vector_of
from tests.service.parts import FakeServices, face_services_in
from tests.valkey import RealValkey

SETTINGS = Settings(_env_file=None)


@pytest.fixture
def fakes(tmp_path: Path, valkey: RealValkey) -> FakeServices:
    return FakeServices(faces=face_services_in(tmp_path, redis_url=valkey.url, tables=True))


@pytest.fixture
def ada(fakes: FakeServices) -> str:
    """A subject with a template, a frame, and a version that was trained on it."""
    faces = fakes.faces
    subject = str(faces.subjects.create(NewSubject(name="Ada", keep_frames=True))["id"])
    new = NewTemplate(vector_of(40), quality(), "image", StoredFrame("image/png", b"frame"))
    faces.templates.add(subject, [new], embedder="face_embedder:1")
    publish(fakes.store, subject)
    return subject


def publish(store: Store, *subjects: str) -> None:
    with store.staging() as folder:
        write_files(folder)
        provenance = Provenance(spec={"subjects": list(subjects)})
        store.publish("door", folder, DRAFT.model_copy(update={"provenance": provenance}))


def test_the_jobs_of_deleted_versions_are_deleted_too(fakes: FakeServices, ada: str) -> None:
    """Their results name the subject, and their files show what the version has learned."""
    publish(fakes.store, "sub_of_somebody_else")
    table = Jobs(fakes.faces.engine, lambda: datetime.now(UTC), fakes.files)

    def make(kind: JobKind, request: dict[str, object]) -> str:
        job_id = table.create(kind, request, limit=9, scopes=("infer", "faces")).job.id
        fakes.files.store_artifact(job_id, "filters.png", b"a face")
        return job_id

    made = make("filters", {"model": "door", "version": 1})
    kept = make("filters", {"model": "door", "version": 2})
    trained = make("training", {"model": "door", "subjects": [ada]})
    fakes.jobs = table  # type: ignore[assignment]
    serve(fakes, lambda services: erase(services, ada))
    assert {job.id for job in listed(table).items} == {kept}
    assert {path.name for path in fakes.files.root.iterdir()} == {kept}
    late = make("filters", {"model": "door", "version": 1, "label": ada})
    serve(fakes, resume)
    with pytest.raises(JobNotFound):
        table.get(late)
    assert trained != kept
    assert made != kept


def test_jobs_of_deleted_versions_of_people_are_deleted_with_anybody(
    fakes: FakeServices, ada: str
) -> None:
    """Of whom such a version was is not known any more, as when it was deleted before."""
    publish(fakes.store, "sub_of_somebody_else")
    table = Jobs(fakes.faces.engine, lambda: datetime.now(UTC), fakes.files)
    fakes.jobs = table  # type: ignore[assignment]
    (fakes.files.root.parent / FILE).write_text(home_id(fakes.faces.job_files.root.parent) or "")

    def make(model: str, version: int, *scopes: Scope, **request: int) -> str:
        sent = {"model": model, "version": version} | request
        return table.create("embed", sent, limit=9, scopes=("infer", *scopes)).job.id

    kept = {
        make("door", 2, "faces"),
        make("pets", 3),  # of an ordinary model
        make("face_embedder", 4, "faces"),  # published: it knows nobody
    }
    serve(fakes, lambda services: erase(services, ada))
    late = {make("door", 1, "faces"), make("door", 2, "faces", against=1)}
    assert {job.id for job in listed(table).items} == kept | late
    serve(fakes, resume)
    assert {job.id for job in listed(table).items} == kept


def outcome(fakes: FakeServices, subject_id: str) -> str:
    return fakes.faces.events.list(subject_id=subject_id).items[0].outcome


def serve(fakes: FakeServices, work: Any) -> Any:
    async def run() -> Any:
        async with fakes.open_services(SETTINGS) as services:
            return await work(services)

    return asyncio.run(run())


def test_the_record_stays_if_a_version_cannot_be_deleted(
    fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise VersionInUse("an alias was set")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", refuse)
        with pytest.raises(VersionInUse):
            serve(fakes, lambda services: erase(services, ada))
    assert fakes.faces.subjects.get(ada).files == 1
    erased = serve(fakes, lambda services: erase(services, ada)).erased
    assert (erased.templates, erased.files, len(erased.models)) == (1, 1, 1)
    assert outcome(fakes, ada) == "erased"
    assert fakes.store.versions("door") == []


def test_a_repeated_request_finishes_a_failed_erasure(
    fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(type(fakes.faces.search), "refresh", fail)
        with pytest.raises(OSError, match="disk"):
            serve(fakes, lambda services: erase(services, ada))
    assert outcome(fakes, ada) == "erasing"
    publish(fakes.store, ada)
    erased = serve(fakes, lambda services: erase(services, ada)).erased
    assert (erased.templates, [one.version for one in erased.models]) == (0, [2])
    assert outcome(fakes, ada) == "erased"
    with pytest.raises(SubjectNotFound):
        serve(fakes, lambda services: erase(services, ada))


def test_an_erasure_whose_frames_stay_on_the_disk_has_not_ended(
    fakes: FakeServices, ada: str, tmp_path: Path
) -> None:
    folder = fakes.faces.frames._files.root / ada
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)  # which is not followed
    with pytest.raises(DiskUnusable, match="cannot be deleted"):
        serve(fakes, lambda services: erase(services, ada))
    assert ada in erased_ids(folder.parent.parent)
    serve(fakes, resume)
    assert outcome(fakes, ada) == "erasing"
    folder.unlink()
    elsewhere.rename(folder)
    serve(fakes, resume)
    assert (outcome(fakes, ada), folder.exists()) == ("erased", False)


@pytest.mark.parametrize("kind", ["enrollment", "filters"])
def test_an_erasure_whose_job_files_stay_on_the_disk_has_not_ended(
    fakes: FakeServices, ada: str, tmp_path: Path, kind: JobKind
) -> None:
    fakes.files = fakes.faces.job_files
    table = Jobs(fakes.faces.engine, lambda: datetime.now(UTC), fakes.files)
    fakes.jobs = table  # type: ignore[assignment]
    request = {"subject_id": ada} if kind == "enrollment" else {"model": "door", "version": 1}
    job_id = table.create(kind, request, limit=9, scopes=("faces",)).job.id
    fakes.files.store_inputs(job_id, {"image-000": b"a face"})
    folder = fakes.files.root / job_id
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)  # which is not followed
    for _ in range(2):
        with pytest.raises(DiskUnusable, match="cannot be deleted"):
            serve(fakes, lambda services: erase(services, ada))
    serve(fakes, resume)
    assert outcome(fakes, ada) == "erasing"
    with pytest.raises(SubjectNotFound):
        fakes.faces.subjects.get(ada)
    folder.unlink()
    elsewhere.rename(folder)
    serve(fakes, resume)
    assert (outcome(fakes, ada), folder.exists()) == ("erased", False)
    with pytest.raises(JobNotFound):
        table.get(job_id)


def test_an_erasure_has_not_ended_while_a_version_may_be_of_the_person(
    fakes: FakeServices, ada: str
) -> None:
    manifest = fakes.store.path("door", 1) / "manifest.json"
    aside = manifest.rename(manifest.with_suffix(".aside"))
    manifest.symlink_to(manifest.name)  # too many levels of symbolic links
    for _ in range(2):
        with pytest.raises(Unavailable, match="at the moment"):
            serve(fakes, lambda services: erase(services, ada))
    serve(fakes, resume)
    assert outcome(fakes, ada) == "erasing"
    manifest.unlink()
    aside.rename(manifest)
    serve(fakes, resume)
    assert (outcome(fakes, ada), fakes.store.versions("door")) == ("erased", [])


@pytest.mark.parametrize("content", [None, b"{"])
def test_a_version_whose_manifest_is_lost_or_damaged_lets_erasures_end(
    fakes: FakeServices, ada: str, content: bytes | None
) -> None:
    publish(fakes.store, "sub_of_somebody_else")
    manifest = fakes.store.path("door", 2) / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    serve(fakes, lambda services: erase(services, ada))
    assert outcome(fakes, ada) == "erased"


def test_the_periodic_run_finishes_an_erasure_of_a_killed_process(
    fakes: FakeServices, ada: str, valkey: RealValkey
) -> None:
    fakes.faces.subjects.erase(ada)  # nothing else
    publish(fakes.store, "sub_of_another_database")
    with redis.Redis.from_url(valkey.url) as client:
        client.lpush(redis_keys.recent_clips(ada), b"hashes")
        client.lpush(redis_keys.recent_clips(ada, "enroll"), b"hashes")
        serve(fakes, resume)
        assert client.keys(f"*{ada}*") == []
    assert fakes.store.versions("door") == [2]
    assert outcome(fakes, ada) == "erased"


def test_the_periodic_run_deletes_what_was_written_later(fakes: FakeServices, ada: str) -> None:
    async def work(services: Services) -> None:
        await erase(services, ada)
        publish(fakes.store, ada)
        await resume(services)

    serve(fakes, work)
    assert fakes.store.versions("door") == []
    fakes.faces.events.record(NewEvent("login", "match", ada, device="d", content=b"c"))
    assert fakes.faces.events.list(subject_id=ada).items[0].digest is None


def test_an_erasure_has_not_ended_while_the_home_is_missing(
    fakes: FakeServices, ada: str, tmp_path: Path
) -> None:
    """A version trained on the person, or a frame, may be on the disk that is not mounted."""
    aside = (tmp_path / FILE).rename(tmp_path / "aside")
    serve(fakes, lambda services: erase(services, ada))
    assert fakes.faces.erasures.unfinished_among([ada]) == {ada}
    aside.rename(tmp_path / FILE)
    serve(fakes, resume)
    assert fakes.faces.erasures.unfinished_among([ada]) == set()


def test_without_redis_an_erasure_stays_unfinished(tmp_path: Path) -> None:
    fakes = FakeServices(faces=face_services_in(tmp_path, tables=True))
    subject = str(fakes.faces.subjects.create(NewSubject(name="Ada"))["id"])
    serve(fakes, lambda services: erase(services, subject))
    serve(fakes, resume)
    assert outcome(fakes, subject) == "erasing"


def test_simultaneous_erasures_are_all_removed_from_the_redis_log(
    fakes: FakeServices, valkey: RealValkey
) -> None:
    marks = [f"MARK{number}".encode() * 4 for number in range(3)]
    with redis.Redis.from_url(valkey.url) as client:
        noise = np.random.default_rng(1).bytes(4_000_000)
        client.set("noise", noise)  # so that rewriting takes a moment
        create = fakes.faces.subjects.create
        ids = [str(create(NewSubject(name="p"))["id"]) for _ in marks]
        for one, mark in zip(ids, marks, strict=True):
            client.lpush(redis_keys.recent_clips(one), mark)

        async def work(services: Services) -> None:
            await asyncio.gather(*(erase(services, one) for one in ids))

        serve(fakes, work)
        left = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            left = valkey.log_content()
            if not any(mark in left for mark in marks):
                break
            time.sleep(0.1)
    assert not any(mark in left for mark in marks)
    assert {outcome(fakes, one) for one in ids} == {"erased"}


def test_a_file_of_redis_that_takes_long_is_left_to_the_periodic_run(
    fakes: FakeServices, ada: str, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.faces.privacy.erasure._REDIS_SECONDS", 0.2)
    with redis.Redis.from_url(valkey.url) as client:
        client.mset({f"key {number}": b"value" for number in range(100)})
        client.config_set("rdb-key-save-delay", 10_000)  # microseconds
        try:
            serve(fakes, lambda services: erase(services, ada))
            assert outcome(fakes, ada) == "erasing"
            serve(fakes, resume)
        finally:
            client.config_set("rdb-key-save-delay", 0)
    assert outcome(fakes, ada) == "erased"


@pytest.mark.parametrize(
    "error", [ResponseError("unknown command 'BGREWRITEAOF'"), NoPermissionError("not permitted")]
)
def test_a_redis_that_does_not_offer_a_rewrite_lets_erasures_end(
    fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch, error: ResponseError
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    assert fakes.faces.redis is not None
    monkeypatch.setattr(fakes.faces.redis, "bgrewriteaof", refuse)
    serve(fakes, lambda services: erase(services, ada))
    assert outcome(fakes, ada) == "erased"


def test_the_repetition_of_an_erasure_that_left_nothing_writes_nothing(
    fakes: FakeServices, ada: str
) -> None:
    """In SQLite, there is one writer at a time, and there may be hundreds of them."""
    fakes.jobs = Jobs(fakes.faces.engine, lambda: datetime.now(UTC), fakes.files)  # type: ignore[assignment]
    serve(fakes, lambda services: erase(services, ada))
    assert outcome(fakes, ada) == "erased"
    begun: list[str] = []

    @event.listens_for(fakes.faces.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("BEGIN"):
            begun.append(statement)

    serve(fakes, resume)
    assert begun
    assert set(begun) == {"BEGIN"}


def test_an_erasure_is_unfinished_while_the_database_holds_deleted_rows(
    fakes: FakeServices, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("service.faces.context.purge_deleted_rows", lambda *_, **__: False)
        serve(fakes, lambda services: erase(services, ada))
        assert outcome(fakes, ada) == "erasing"
    serve(fakes, resume)
    assert outcome(fakes, ada) == "erased"


def test_an_erasure_is_unfinished_while_a_backup_has_a_copy(fakes: FakeServices, ada: str) -> None:
    with backup_copies(fakes.faces.job_files.root).folder():
        serve(fakes, lambda services: erase(services, ada))
        assert outcome(fakes, ada) == "erasing"
    serve(fakes, resume)
    assert outcome(fakes, ada) == "erased"


@pytest.mark.parametrize("has_lock", [True, False])
def test_an_erasure_removes_the_copy_of_a_killed_backup(
    fakes: FakeServices, ada: str, has_lock: bool
) -> None:
    left = fakes.faces.job_files.root / ".staging" / "killed"
    (left / "jobs").mkdir(parents=True)
    if has_lock:  # a release before kept folders without
        left.with_suffix(".lock").touch()  # nobody holds it
    serve(fakes, lambda services: erase(services, ada))
    assert not left.exists()
    assert outcome(fakes, ada) == "erased"


def test_a_damaged_model_keeps_no_other_erasure_from_being_resumed(
    fakes: FakeServices, ada: str
) -> None:
    """That of Ada, whose model comes first, cannot end."""
    bob = "sub_zzzzzzzzzzzzzzzzzzzz"
    publish(fakes.store, bob)
    with fakes.store.staging() as folder:
        write_files(folder)
        origin = Provenance(spec={"subjects": ["sub_AAAAAAAAAAAAAAAAAAAA"]})
        draft = DRAFT.model_copy(update={"provenance": origin})
        folder_of_broken = fakes.store.path("broken", fakes.store.publish("broken", folder, draft))
    (folder_of_broken.parent / "aliases.json").write_text("{")
    add_erased(fakes.faces.job_files.root.parent, [bob, "sub_AAAAAAAAAAAAAAAAAAAA"])
    serve(fakes, resume)
    assert (fakes.store.versions("door"), fakes.store.versions("broken")) == ([1], [1])
    assert fakes.faces.subjects.get(ada).id == ada


def test_a_list_of_erased_people_that_cannot_be_read_keeps_no_erasure_from_being_resumed(
    fakes: FakeServices, ada: str
) -> None:
    serve(fakes, lambda services: erase(services, ada))
    publish(fakes.store, ada)
    (listed := fakes.faces.job_files.root.parent / "erased-subjects").unlink()
    listed.mkdir()
    serve(fakes, resume)
    assert fakes.store.versions("door") == []
