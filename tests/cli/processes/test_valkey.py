import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from cli.home import Home
from cli.processes import append_only
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


def rewritten(home: Home) -> Path:
    """The append-only file of a Valkey that has run: `before` in its base, `a` and `b` in it."""
    with running(home) as (valkey, _), redis.Redis.from_url(valkey.url) as client:
        client.set("before", 1)
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.01)
        client.set("a", 1)
        client.set("b", b"*" + bytes(1000))
    (file,) = (home.valkey / "appendonlydir").glob("*.incr.aof")
    return file


def keys_of(home: Home) -> set[bytes]:
    with running(home) as (valkey, _), redis.Redis.from_url(valkey.url) as client:
        return set(client.keys())


@pytest.mark.parametrize("has_room", [True, False])
def test_a_hole_in_its_file_costs_no_start(
    home: Home, monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    """A full disk leaves zeros in it, behind which Valkey went on."""
    file = rewritten(home)
    content = file.read_bytes()
    at = content.index(b"*3\r\n$3\r\nset\r\n$1\r\nb".replace(b"set", b"SET"))
    file.write_bytes(content[:at] + bytes(5000) + content[at:] + bytes(7))
    if not has_room:
        monkeypatch.setattr("cli.processes.append_only._without", lambda *_: False)
    assert keys_of(home) == ({b"before", b"a", b"b"} if has_room else {b"before", b"a"})
    if has_room:
        assert file.read_bytes().startswith(content)
    assert append_only.mend(home.valkey) is None


@pytest.mark.parametrize("garbage", [b"garbage", b"*1\r\n$3\r\nab"])
def test_what_is_behind_other_damage_is_left_out(home: Home, garbage: bytes) -> None:
    file = rewritten(home)
    content = file.read_bytes()
    at = content.index(b"*3\r\n$3\r\nSET\r\n$1\r\nb")
    file.write_bytes(content[:at] + garbage + content[at:])
    assert keys_of(home) == {b"before", b"a"}


def test_a_file_that_ends_within_a_command_is_left_to_valkey(home: Home) -> None:
    file = rewritten(home)
    content = file.read_bytes()
    for cut in (1, 3, 500, 1010, len(content) - 1):
        file.write_bytes(content[:-cut])
        assert append_only.mend(home.valkey) is None
    file.write_bytes(content[:-500])
    assert keys_of(home) == {b"before", b"a"}
