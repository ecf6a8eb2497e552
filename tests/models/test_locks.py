import threading
import time
from pathlib import Path

import pytest

from contracts.errors import Unavailable
from models.locks import locked, try_lock
from models.weights.files import FetchError, fetch_lock


def test_one_thread_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    inside: list[int] = []
    counts: list[int] = []

    def work() -> None:
        with fetch_lock(tmp_path / "lock", timeout=20):
            inside.append(1)
            counts.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counts == [1, 1, 1, 1]


def test_the_wait_for_a_lock_ends(tmp_path: Path) -> None:
    with (
        fetch_lock(tmp_path / "lock", timeout=1),
        pytest.raises(FetchError, match="another process"),
        fetch_lock(tmp_path / "lock", timeout=0.2),
    ):
        pass


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), fetch_lock(tmp_path / "lock", timeout=1):
        raise RuntimeError
    with fetch_lock(tmp_path / "lock", timeout=0):
        pass


def test_shared_locks_exclude_only_an_exclusive_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a") as first, path.open("a") as second, path.open("a") as third:
        assert try_lock(first, shared=True)
        assert try_lock(second, shared=True)
        assert not try_lock(third)
    with locked(path, timeout=0):
        pass


def test_a_busy_lock_is_unavailable_unless_another_error_is_given(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(Unavailable),
        locked(tmp_path / "lock", timeout=0),
    ):
        pass
