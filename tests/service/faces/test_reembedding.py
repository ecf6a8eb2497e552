"""Templates of an earlier embedder are recomputed from stored frames."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InternalError
from contracts.faces.consent import NewConsent, NewPolicy
from contracts.faces.subjects import NewSubject, NewTemplate, StoredFrame, embedder_of
from contracts.settings import Settings
from service.faces.reembedding import Reembedding
from tests.service.face_replies import NO_FACE, quality, vector_of
from tests.service.parts import FakeServices, face_services_in, gray_png

OLD, NOW = "face_embedder:0", embedder_of(1)
DIGEST = "sha256:" + "0" * 64
BROKEN = 70  # gray level of a frame that makes a worker fail


@pytest.mark.parametrize("fault", ["lost", "fails"])
def test_frames_that_cannot_be_used_keep_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    fakes = FakeServices(faces=face_services_in(tmp_path, tables=True))
    faces, infer = fakes.faces, fakes.dispatcher.run

    def add(name: str, count: int, level: int) -> str:
        subject: str = faces.subjects.create(NewSubject(name=name, keep_frames=True))["id"]
        frames = [StoredFrame("image/png", gray_png(level) + bytes(n)) for n in range(count)]
        old = [NewTemplate(vector_of(90), quality(), "image", frame) for frame in frames]
        faces.templates.add(subject, old, embedder=OLD)
        return subject

    async def fail(queue: Any, pixels: Any, **more: Any) -> Any:
        if int(pixels[0].mean()) == BROKEN:
            return [InternalError("The worker failed.")]
        return await infer(queue, pixels, **more)

    monkeypatch.setattr(fakes.dispatcher, "run", fail)
    oldest, ada = add("Oldest", 8, BROKEN if fault == "fails" else 40), add("Ada", 1, 40)
    if fault == "lost":
        for file in (tmp_path / "faces" / oldest).iterdir():
            file.unlink()

    async def run() -> None:
        async with fakes.open_services(Settings(_env_file=None)) as services:
            reembedding = Reembedding(services)
            await reembedding.run_once()
            await reembedding.run_once()

    asyncio.run(run())
    assert faces.templates.of_subject(oldest, embedder=NOW) == []
    assert len(faces.templates.of_subject(ada, embedder=NOW)) == 1


def test_stale_templates_are_recomputed(tmp_path: Path) -> None:
    fakes = FakeServices(faces=face_services_in(tmp_path, tables=True))
    faces = fakes.faces
    subject = faces.subjects.create(NewSubject(name="Ada", keep_frames=True))["id"]

    def old(level: int | None) -> NewTemplate:
        frame = None if level is None else StoredFrame("image/png", gray_png(level))
        return NewTemplate(vector_of(90), quality(), "image", frame)

    lost = faces.subjects.create(NewSubject(name="Lost", keep_frames=True))["id"]
    faces.templates.add(lost, [old(40)], embedder=OLD)  # the oldest one, and unreadable
    (file,) = (tmp_path / "faces" / lost).iterdir()
    file.write_bytes(b"\x01\x00" + bytes(40))
    faces.templates.add(subject, [old(40), old(50), old(NO_FACE), old(None)], embedder=OLD)

    async def run() -> None:
        async with fakes.open_services(Settings(_env_file=None)) as services:
            reembedding = Reembedding(services)
            fakes.workers.finds_faces = False
            await reembedding.run_once()
            assert faces.templates.of_subject(subject, embedder=NOW) == []
            fakes.workers.finds_faces = True
            await reembedding.run_once()
            count = len(fakes.dispatcher.asked)
            await reembedding.run_once()
            assert len(fakes.dispatcher.asked) == count  # the unusable one is not tried again

    asyncio.run(run())
    found = faces.templates.of_subject(subject, embedder=NOW)
    vectors = sorted((one.vector for one in found), key=lambda v: v[1])
    assert np.allclose(vectors, [vector_of(40), vector_of(50)], atol=1e-6)
    counts = faces.subjects.get(subject, embedder=NOW).templates
    assert (counts.current, counts.stale) == (2, 2)


def test_nobody_without_a_consent_is_recomputed_where_one_is_required(tmp_path: Path) -> None:
    fakes = FakeServices(faces=face_services_in(tmp_path, tables=True))
    faces, expiring = fakes.faces, datetime.now(UTC) + timedelta(seconds=1)
    consents = {
        "none": None,
        "expired": NewConsent(version="1", text_digest=DIGEST, expires_at=expiring),
        "given": NewConsent(version="1", text_digest=DIGEST),
    }
    people: dict[str, str] = {}
    for name, consent in consents.items():
        new = NewSubject(name=name, keep_frames=True, consent=consent)
        people[name] = faces.subjects.create(new)["id"]
        frames = [StoredFrame("image/png", gray_png(40) + bytes(n)) for n in range(8)]
        old = [NewTemplate(vector_of(90), quality(), "image", frame) for frame in frames]
        faces.templates.add(people[name], old, embedder=OLD)
    faces.repositories.policy.set(NewPolicy(consent_required=True))

    async def run() -> None:
        await asyncio.sleep(1)
        async with fakes.open_services(Settings(_env_file=None)) as services:
            await Reembedding(services).run_once()

    asyncio.run(run())
    renewed = {n: len(faces.templates.of_subject(one, embedder=NOW)) for n, one in people.items()}
    assert renewed == {"none": 0, "expired": 0, "given": 8}
