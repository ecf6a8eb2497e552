import threading
import time
from pathlib import Path

import pytest

from models.weights.files import FetchError
from models.weights.lock import exclusive


def test_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with exclusive(tmp_path / "lock", timeout=20):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1, 1, 1, 1]


def test_the_wait_has_an_end(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "lock", timeout=1),
        pytest.raises(FetchError, match="another process"),
        exclusive(tmp_path / "lock", timeout=0.2),
    ):
        pass


def test_it_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path / "lock", timeout=1):
        raise RuntimeError
    with exclusive(tmp_path / "lock", timeout=0):
        pass
