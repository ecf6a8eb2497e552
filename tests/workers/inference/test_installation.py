"""A worker takes nothing from the Redis of another installation's service."""

from pathlib import Path

import pytest
import redis

from contracts.queue import redis_keys
from database.installation import FILE
from workers.inference.installation import InstallationCheck

OURS, THEIRS = "ins_0123456789", "ins_abcdefghij"


@pytest.mark.parametrize(
    ("home_id", "holder", "may"),
    [
        (OURS, OURS, True),
        (OURS, THEIRS, False),
        (None, THEIRS, False),
        (OURS, None, True),
        (None, None, True),
    ],
    ids=["same", "other home", "empty home", "earlier API", "nothing has an id yet"],
)
def test_it_ends_where_the_ids_differ(
    client: redis.Redis, tmp_path: Path, home_id: str | None, holder: str | None, may: bool
) -> None:
    if home_id is not None:
        (tmp_path / FILE).write_text(home_id)
    if holder is not None:
        client.set(redis_keys.INSTALLATION, holder)
    ended: list[None] = []
    check = InstallationCheck(tmp_path, lambda: ended.append(None))
    for _ in range(2):
        assert check.may_take(client) == check(client) == may
    assert len(ended) == (not may)


def test_a_worker_that_starts_before_the_first_api_is_accepted_once_that_has_the_same_home(
    client: redis.Redis, tmp_path: Path
) -> None:
    ended: list[None] = []
    check = InstallationCheck(tmp_path, lambda: ended.append(None))
    assert check.may_take(client)
    (tmp_path / FILE).write_text(OURS)  # by the API, which then tells Redis
    client.set(redis_keys.INSTALLATION, OURS)
    assert check.may_take(client)
    assert check.home_id() == OURS
    assert not ended


def test_an_api_of_another_home_that_starts_later_sends_it_nothing(
    client: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text(OURS)
    check = InstallationCheck(tmp_path, lambda: None)
    assert check.may_take(client)
    client.set(redis_keys.INSTALLATION, THEIRS)
    assert not check.may_take(client), "with the first task, not with the next heartbeat"


def test_nothing_is_asked_of_redis_for_a_task_while_the_ids_agree(
    client: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text(OURS)
    client.set(redis_keys.INSTALLATION, OURS)
    check = InstallationCheck(tmp_path, lambda: None)
    check(client)
    client.set(redis_keys.INSTALLATION, THEIRS)
    assert check.may_take(client)
    assert not check(client)
    assert not check.may_take(client)
