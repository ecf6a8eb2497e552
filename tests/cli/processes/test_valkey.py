import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import redis

from cli.home import Home
from cli.processes.supervisor import Supervisor
from cli.processes.valkey import SOCKET_PATH_LIMIT, Valkey, embedded, running_url
from contracts.queue.celery import celery_app


@contextmanager
def running(home: Home) -> Iterator[tuple[Valkey, int]]:
    valkey = embedded(home)
    processes = Supervisor(lambda line: None, shutdown_seconds=5)
    processes.start(valkey.program)
    try:
        valkey.wait(60, processes.require_all)
        yield valkey, processes.pids()["valkey"]
    finally:
        processes.stop()
        valkey.remove_socket()


def test_it_listens_on_its_socket_alone_and_evicts_nothing(home: Home) -> None:
    with running(home) as (valkey, pid):
        assert valkey.socket == home.run / "valkey.sock"
        assert valkey.socket.stat().st_mode & 0o777 == 0o700
        listening = [c for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
        assert listening == []
        with redis.Redis.from_url(valkey.url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert not valkey.socket.exists()
    assert not (home.run / "valkey.pid").exists()


def test_queued_work_survives_a_restart(home: Home) -> None:
    with running(home) as (valkey, _), redis.Redis.from_url(valkey.url) as client:
        client.lpush("queue", b"\x00\xff")
    with running(home) as (valkey, _), redis.Redis.from_url(valkey.url) as client:
        assert client.lrange("queue", 0, -1) == [b"\x00\xff"]


def test_a_home_with_a_long_path_has_its_socket_elsewhere(home: Home) -> None:
    deep = Home(home.root / ("long" * 20) / ("er" * 20))
    deep.prepare()
    with running(deep) as (valkey, _):
        folder = valkey.socket.parent
        assert len(os.fsencode(valkey.socket)) <= SOCKET_PATH_LIMIT
        assert folder.stat().st_mode & 0o777 == 0o700
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()
    assert not folder.exists()


def test_a_stale_valkey_is_ended_at_the_next_start(home: Home) -> None:
    stale = embedded(home)
    process = subprocess.Popen(stale.program.command, stdout=subprocess.DEVNULL)
    stale.wait(60, lambda: None)
    with running(home) as (_, pid):
        assert process.wait(60) is not None
        assert pid != process.pid


def test_another_process_with_the_recorded_pid_is_left_alone(home: Home) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        (home.run / "valkey.pid").write_text(str(other.pid))
        embedded(home)
        assert other.poll() is None
        other.kill()


def test_a_home_may_have_any_name(home: Home) -> None:
    """redis and kombu parse the URL, each in its own way."""
    odd = Home(home.root / "a #home? with 100%25 ünï")
    odd.prepare()
    with running(odd) as (valkey, _):
        assert valkey.socket == odd.run / "valkey.sock"
        assert running_url(odd) == valkey.url
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()
        with celery_app(valkey.url).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=60)
