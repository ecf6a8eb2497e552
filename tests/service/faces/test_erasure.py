"""An erasure that fails half-way is gone on with, by a second request and by the rounds."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from contracts.errors import SubjectNotFound, VersionInUse
from contracts.faces.subjects import Frame, NewEvent, NewSubject, NewTemplate
from contracts.inference.manifest import Provenance
from contracts.queue import redis_keys
from contracts.settings import Settings
from models.store.store import Store
from service.dependencies import Services
from service.faces.erasure import erase, resume
from tests.models.drafts import DRAFT, write_files
from tests.service.face_lane import quality, vector_of
from tests.service.parts import House, desk_in
from tests.valkey import RealValkey

SETTINGS = Settings(_env_file=None)


@pytest.fixture
def house(tmp_path: Path, valkey: RealValkey) -> House:
    return House(faces=desk_in(tmp_path, redis_url=valkey.url, tables=True))


@pytest.fixture
def ada(house: House) -> str:
    """Somebody with a template, a frame, and a version that was trained on it."""
    kept = house.faces.kept
    subject = str(kept.subjects.create(NewSubject(name="Ada", keep_frames=True))["id"])
    new = NewTemplate(vector_of(40), quality(), "image", Frame("image/png", b"frame"))
    kept.templates.add(subject, [new], embedder="face_embedder:1")
    publish(house.store, subject)
    return subject


def publish(store: Store, *subjects: str) -> None:
    with store.staging() as folder:
        write_files(folder)
        provenance = Provenance(spec={"subjects": list(subjects)})
        store.publish("door", folder, DRAFT.model_copy(update={"provenance": provenance}))


def outcome(house: House, subject_id: str) -> str:
    return house.faces.kept.events.list(subject_id=subject_id).items[0].outcome


def serve(house: House, work: Any) -> Any:
    async def run() -> Any:
        async with house.opening(SETTINGS) as services:
            return await work(services)

    return asyncio.run(run())


def test_a_version_that_cannot_go_keeps_the_record(
    house: House, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise VersionInUse("an alias was set")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", refuse)
        with pytest.raises(VersionInUse):
            serve(house, lambda services: erase(services, ada))
    assert house.faces.kept.subjects.get(ada).files == 1
    told = serve(house, lambda services: erase(services, ada)).erased
    assert (told.templates, told.files, len(told.models)) == (1, 1, 1)
    assert outcome(house, ada) == "erased"
    assert house.store.versions("door") == []


def test_what_failed_after_the_record_is_done_by_the_same_request_again(
    house: House, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(type(house.faces.search), "forget", fail)
        with pytest.raises(OSError, match="disk"):
            serve(house, lambda services: erase(services, ada))
    assert outcome(house, ada) == "erasing"
    publish(house.store, ada)
    told = serve(house, lambda services: erase(services, ada)).erased
    assert (told.templates, [one.version for one in told.models]) == (0, [2])
    assert outcome(house, ada) == "erased"
    with pytest.raises(SubjectNotFound):
        serve(house, lambda services: erase(services, ada))


def test_the_rounds_finish_what_a_killed_process_left(
    house: House, ada: str, valkey: RealValkey
) -> None:
    house.faces.kept.subjects.erase(ada)  # and no more
    publish(house.store, "sub_of_another_database")
    with redis.Redis.from_url(valkey.url) as seen:
        seen.lpush(redis_keys.clips_seen(ada), b"looks")
        serve(house, resume)
        assert seen.keys(f"*{ada}*") == []
    assert house.store.versions("door") == [2]
    assert outcome(house, ada) == "erased"


def test_the_rounds_sweep_what_was_written_after(house: House, ada: str) -> None:
    async def work(services: Services) -> None:
        await erase(services, ada)
        publish(house.store, ada)
        await resume(services)

    serve(house, work)
    assert house.store.versions("door") == []
    house.faces.kept.events.record(NewEvent("login", "match", ada, device="d", content=b"c"))
    assert house.faces.kept.events.list(subject_id=ada).items[0].digest is None


def test_without_redis_it_stays_unfinished(tmp_path: Path) -> None:
    house = House(faces=desk_in(tmp_path, tables=True))
    subject = str(house.faces.kept.subjects.create(NewSubject(name="Ada"))["id"])
    serve(house, lambda services: erase(services, subject))
    serve(house, resume)
    assert outcome(house, subject) == "erasing"


def test_erasures_at_once_all_leave_the_log(house: House, valkey: RealValkey) -> None:
    marks = [f"MARK{at}".encode() * 4 for at in range(3)]
    with redis.Redis.from_url(valkey.url) as seen:
        noise = np.random.default_rng(1).bytes(4_000_000)
        seen.set("noise", noise)  # so that a rewriting takes a moment
        create = house.faces.kept.subjects.create
        ids = [str(create(NewSubject(name="p"))["id"]) for _ in marks]
        for one, mark in zip(ids, marks, strict=True):
            seen.lpush(redis_keys.clips_seen(one), mark)

        async def work(services: Services) -> None:
            await asyncio.gather(*(erase(services, one) for one in ids))

        serve(house, work)
        log, left = valkey.socket.parent / "appendonlydir", b""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            left = b"".join(path.read_bytes() for path in log.iterdir())
            if not any(mark in left for mark in marks):
                break
            time.sleep(0.1)
    assert not any(mark in left for mark in marks)
    assert {outcome(house, one) for one in ids} == {"erased"}
