"""Templates of an earlier embedder become ones of the present, where their frames were kept."""

import asyncio
from pathlib import Path

import numpy as np

from contracts.faces.subjects import Frame, NewSubject, NewTemplate, embedder_of
from contracts.settings import Settings
from service.faces.reembedding import Renewal, renew_if_possible
from tests.service.face_lane import NOBODY, quality, vector_of
from tests.service.parts import House, desk_in, picture

OLD, NOW = "face_embedder:0", embedder_of(1)


def test_frames_are_embedded_anew(tmp_path: Path) -> None:
    house = House(faces=desk_in(tmp_path, tables=True))
    kept = house.faces.kept
    subject = kept.subjects.create(NewSubject(name="Ada", keep_frames=True))["id"]

    def old(level: int | None) -> NewTemplate:
        frame = None if level is None else Frame("image/png", picture(level))
        return NewTemplate(vector_of(90), quality(), "image", frame)

    lost = kept.subjects.create(NewSubject(name="Lost", keep_frames=True))["id"]
    kept.templates.add(lost, [old(40)], embedder=OLD)  # the oldest of all, and it cannot be opened
    (file,) = (tmp_path / "faces" / lost).iterdir()
    file.write_bytes(b"\x01\x00" + bytes(40))
    kept.templates.add(subject, [old(40), old(50), old(NOBODY), old(None)], embedder=OLD)

    async def rounds() -> None:
        async with house.opening(Settings(_env_file=None)) as services:
            renewal = Renewal(services)
            house.presence.finds_faces = False
            await renew_if_possible(renewal)
            assert kept.templates.of(subject, embedder=NOW) == []
            house.presence.finds_faces = True
            await renew_if_possible(renewal)
            asked = len(house.dispatch.asked)
            await renew_if_possible(renewal)
            assert len(house.dispatch.asked) == asked  # the hopeless one is not tried again

    asyncio.run(rounds())
    found = kept.templates.of(subject, embedder=NOW)
    vectors = sorted((one.vector for one in found), key=lambda v: v[1])
    assert np.allclose(vectors, [vector_of(40), vector_of(50)], atol=1e-6)
    counts = kept.subjects.get(subject, embedder=NOW).templates
    assert (counts.current, counts.stale) == (2, 2)
