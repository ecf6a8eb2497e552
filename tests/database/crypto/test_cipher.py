"""A master key is made only while the database needs no other one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contracts.errors import NeedsOperator
from contracts.faces.subjects import NewSubject
from contracts.settings import Settings
from database.crypto.cipher import open_cipher, sealing_key_ids
from database.engine import reading
from database.faces.repositories import FaceRepositories
from tests.database.conftest import Clock

SEALED: dict[str, Callable[[FaceRepositories], object]] = {
    "subject": lambda faces: faces.subjects.create(NewSubject(name="Ada")),
    "token key": lambda faces: faces.token_keys.signing(),
    "hash key": lambda faces: faces.keyed_hash.hexdigest(b"phone"),
}


@pytest.mark.parametrize("what", SEALED)
def test_no_key_is_made_in_the_place_of_one_that_is_missing(
    tmp_path: Path, engine: Engine, clock: Clock, what: str
) -> None:
    settings = Settings(_env_file=None, home=tmp_path / "home")
    faces = FaceRepositories.of(settings, engine, clock)
    SEALED[what](faces)
    with reading(engine) as session:
        assert sealing_key_ids(session) == {faces.cipher.key_id}
    file = settings.face_keys_file
    key = file.rename(tmp_path / "aside")
    without = FaceRepositories.of(settings, engine, clock)
    assert not file.exists()
    with pytest.raises(NeedsOperator, match=r"put back the file secrets/faces\.keys"):
        without.subjects.create(NewSubject(name="Eve"))
    with pytest.raises(NeedsOperator):
        without.token_keys.rotate()
    with pytest.raises(NeedsOperator):
        without.cipher.derive("vector rotation")
    assert not file.exists()
    key.rename(file)
    without.subjects.create(NewSubject(name="Eve"))
    assert without.cipher.key_id == faces.cipher.key_id, "no restart is needed"


def test_settings_that_are_not_encrypted_need_no_key(
    tmp_path: Path, engine: Engine, clock: Clock
) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    faces = FaceRepositories.of(settings, engine, clock)
    faces.threshold.set(faces.threshold.get())
    settings.face_keys_file.unlink()
    assert open_cipher(settings, engine).key_id
