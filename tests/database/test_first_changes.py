"""The first change of a setting, or the first start, in two processes at the same moment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, text

from contracts.faces.consent import NewPolicy
from contracts.faces.subjects import DEFAULT_THRESHOLD
from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.deletion_clock import DeletionClock
from database.engine import open_engine, writing
from database.faces.face_policy import FacePolicy
from database.faces.face_threshold import FaceThreshold
from database.faces.template_rows import increment_revision
from database.idempotency import IdempotencyKey
from database.installation import adopt, home_id
from database.keys import Keys

PROCESSES = 6


def now() -> datetime:
    return datetime.now(UTC)


def at_once(url: str, act: Callable[[Engine], Any]) -> list[Any]:
    """What each of some processes got; each has connections of its own."""
    barrier = Barrier(PROCESSES)

    def run(_: int) -> Any:
        engine = open_engine(url)
        try:
            barrier.wait(60)
            return act(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(PROCESSES) as pool:
        return list(pool.map(run, range(PROCESSES)))


@pytest.mark.parametrize("what", ["policy", "threshold", "clock"])
def test_the_first_change_of_a_setting_succeeds_for_all(
    url: str, engine: Engine, what: str
) -> None:
    settings = Settings(_env_file=None)

    def act(own: Engine) -> Any:
        match what:
            case "policy":
                return FacePolicy(own, now, settings).set(NewPolicy(retention_days=9))
            case "threshold":
                return FaceThreshold(own, now).set(DEFAULT_THRESHOLD)
        return DeletionClock(own, now).now()

    assert len(at_once(url, act)) == PROCESSES


def test_the_first_changes_of_the_gallery_succeed_for_all(url: str, engine: Engine) -> None:
    """As when several people are erased before anyone was enrolled."""

    def act(own: Engine) -> int:
        with writing(own) as session:
            return increment_revision(session)

    assert len(set(at_once(url, act))) == PROCESSES


def test_processes_that_start_together_agree_on_the_id(
    url: str, engine: Engine, tmp_path: Path
) -> None:
    """As after an upgrade from a release whose databases have no id."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM installation"))
    homes = iter([tmp_path / "home"] * PROCESSES)
    at_once(url, lambda own: adopt(own, next(homes)))
    assert home_id(tmp_path / "home")


def test_a_rotation_that_is_sent_twice_at_once_makes_one_key(url: str, engine: Engine) -> None:
    old = Keys(engine, now).create(NewKey(name="old", scopes=["infer"]), actor=COMMAND)
    key = IdempotencyKey("once", "rotation", "0" * 64)

    def rotate(own: Engine) -> str:
        rotated = Keys(own, now).rotate(old.id, timedelta(0), actor=COMMAND, idempotency=key)
        return rotated.id

    assert len(set(at_once(url, rotate))) == 1
