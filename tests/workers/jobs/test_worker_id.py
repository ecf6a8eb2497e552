"""Whether another job worker of this machine is dead."""

import os
import subprocess
import sys

import psutil
import pytest

from workers.jobs.worker_id import is_dead, new_worker_id


def test_a_living_worker_stays_alive_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, created = new_worker_id(), psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _self: created + 7)
    assert not is_dead(ours)


def test_a_process_that_ended_or_has_only_the_number_is_dead() -> None:
    ours = new_worker_id()
    machine, number, started, token = ours.split(".")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_dead(f"{machine}.{child.pid}.{started}.{token}")
    assert is_dead(f"{machine}.{number}.t1.{token}")
    assert not is_dead(f"another.{number}.t1.{token}")


def test_an_id_of_the_release_before_is_understood() -> None:
    machine, number, _, token = new_worker_id().split(".")
    started = int(psutil.Process(os.getpid()).create_time() * 100)
    assert not is_dead(f"{machine}.{number}.{started}.{token}")
    assert is_dead(f"{machine}.{number}.{started - 500}.{token}")
