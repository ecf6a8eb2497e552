"""What happens while PostgreSQL, or a connection to it, has gone silent without a reset."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psutil
import pytest
from sqlalchemy import Engine, text

from contracts.errors import Unavailable
from database import engine as module
from database import migrations
from database.clock import DatabaseClock
from database.engine import allow_statements, open_engine, reading, writing
from database.migrations import upgrade
from database.secure_delete import purge_deleted_rows
from tests.silent_proxy import SilentProxy

BOUND = 1.5
LONGEST = BOUND + 3.5  # and two seconds to connect, the least that libpq allows


@pytest.fixture
def proxy(postgresql: str) -> Iterator[SilentProxy]:
    with SilentProxy(postgresql) as proxy:
        yield proxy


@pytest.fixture
def engine(proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 1)
    monkeypatch.setattr(module, "_REPLY_SECONDS", 0.5)
    monkeypatch.setattr(module, "_IDLE_SECONDS", 4)
    engine = open_engine(proxy.url)
    yield engine
    engine.dispose()


@contextmanager
def stopped(engine: Engine) -> Iterator[None]:
    """The server and all its processes do nothing; the kernel still accepts and acknowledges."""
    with engine.connect() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    server = psutil.Process(backend).parent()
    assert server
    processes = [server, *server.children()]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def fill_pool(engine: Engine) -> None:
    connections = [engine.connect() for _ in range(4)]
    for connection in connections:
        connection.execute(text("SELECT 1"))
        connection.close()


def test_idle_connections_that_went_silent_are_replaced(engine: Engine, proxy: SilentProxy) -> None:
    fill_pool(engine)
    assert proxy.silence() == 4
    with within(LONGEST), reading(engine) as session:
        assert session.scalar(text("SELECT 1")) == 1
    with within(1):  # the others are not tried
        for _ in range(3):
            with reading(engine) as first, reading(engine) as second:
                assert first.scalar(text("SELECT 1")) == second.scalar(text("SELECT 1"))


def statement(engine: Engine, go_silent: Callable[[], object]) -> None:
    with reading(engine) as session:
        session.execute(text("SELECT 1"))
        go_silent()
        session.execute(text("SELECT 1"))


def commit(engine: Engine, go_silent: Callable[[], object]) -> None:
    with writing(engine) as session:
        session.execute(text("SELECT 1"))
        go_silent()


def many(engine: Engine, go_silent: Callable[[], object]) -> None:
    with writing(engine) as session:
        session.execute(text("CREATE TEMPORARY TABLE many (value text) ON COMMIT DROP"))
        go_silent()
        rows = [{"value": "x" * 1000}] * 10_000  # more than the buffers of the kernel hold
        session.execute(text("INSERT INTO many VALUES (:value)"), rows)


@pytest.mark.parametrize("use", [statement, commit, many])
def test_what_waits_for_a_silent_connection_ends(
    engine: Engine, proxy: SilentProxy, use: Callable[[Engine, Callable[[], object]], None]
) -> None:
    with within(LONGEST), pytest.raises(Unavailable):
        use(engine, proxy.silence)
    use(engine, lambda: None)


def test_the_locks_of_a_connection_that_went_silent_are_released(
    engine: Engine, proxy: SilentProxy
) -> None:
    lock = text("SELECT pg_advisory_xact_lock(7)")

    def hold() -> None:
        with writing(engine) as session:
            session.execute(lock)
            proxy.silence()

    with pytest.raises(Unavailable):
        hold()
    with writing(engine) as session:  # the server does not know that its client has given up
        session.execute(text("SET LOCAL lock_timeout = '5s'"))
        session.execute(text("SET LOCAL statement_timeout = '5s'"))
        allow_statements(session.connection(), 5)
        session.execute(lock)


def test_while_the_server_is_stopped_nothing_waits_for_it_without_end(engine: Engine) -> None:
    fill_pool(engine)
    with stopped(engine):
        for _ in range(2):  # the second one has to connect
            with within(LONGEST), pytest.raises(Unavailable), reading(engine) as session:
                session.execute(text("SELECT 1"))
    with reading(engine) as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_a_statement_that_the_server_ends_keeps_its_connection(engine: Engine) -> None:
    with engine.connect() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    with pytest.raises(Unavailable), reading(engine) as session:
        session.execute(text("SELECT pg_sleep(60)"))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) == backend


def test_a_statement_may_be_allowed_longer_until_its_connection_is_returned(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        allow_statements(connection, 10)
        connection.execute(text(f"SELECT pg_sleep({2 * BOUND})"))
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver
        assert driver.reply_seconds == BOUND


def test_an_upgrade_and_a_vacuum_may_take_longer(engine: Engine, postgresql: str) -> None:
    upgrade(postgresql)
    with engine.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": migrations._LOCK})
        waiting = threading.Thread(target=upgrade, args=(postgresql,))
        waiting.start()
        waiting.join(2 * BOUND)
        assert waiting.is_alive()
    waiting.join(30)
    assert not waiting.is_alive()
    assert purge_deleted_rows(engine, rewrite=True)


def test_the_clock_of_the_database_blocks_nobody(engine: Engine, proxy: SilentProxy) -> None:
    seconds = [0.0]
    clock = DatabaseClock(engine, lambda: seconds[0])
    assert clock()
    proxy.silence()
    seconds[0] = 60.0  # it has to be measured again
    asking = threading.Thread(target=clock)
    asking.start()
    time.sleep(0.2)
    with within(0.5):
        assert clock() > datetime(2026, 1, 1, tzinfo=UTC)
    asking.join(LONGEST)
    assert not asking.is_alive()


def test_the_kernel_is_told_too_unless_the_address_says_otherwise(postgresql: str) -> None:
    engine = open_engine(f"{postgresql}?keepalives_idle=3")
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver
        sent = driver.info.get_parameters()
    engine.dispose()
    assert (sent["keepalives_idle"], sent["keepalives_count"]) == ("3", "3")
    assert sent["tcp_user_timeout"] == "10000"
