"""What must hold before a service starts; `opsin doctor` checks the same."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cli.home import Home
from cli.output import CommandError, as_command_error
from contracts.settings import Settings
from models.catalog import CATALOG, Network

if TYPE_CHECKING:
    from sqlalchemy import Engine


@contextmanager
def using_home(settings: Settings) -> Iterator[None]:
    """Keep a restore away while this process uses the home, and refuse a half-restored one.

    Whatever changes the home or its database does so in here: a change of what a restore is about
    to replace would be lost, although it was acknowledged. Copies of people that a killed backup or
    restore has left are removed.

    Raises:
        CommandError: It is being restored, or a restore was interrupted.
    """
    from cli.backup.placing import discard, require_whole  # SQLAlchemy
    from contracts.errors import Unavailable
    from models.store.staging import backup_copies

    with Home(settings.home).shared():
        require_whole(settings.home)
        with suppress(OSError, Unavailable):  # such as a home that is only read
            discard(settings.home)  # none is unpacking, which holds the home alone
            backup_copies(settings.jobs_home).sweep()
        yield


@contextmanager
def open_database(settings: Settings) -> "Iterator[Engine]":
    """The migrated database, for a command that works on it; see `using_home`.

    Raises:
        CommandError: It belongs to another home, or does not answer; the home is being restored.
    """
    from database.engine import open_engine  # SQLAlchemy

    with as_command_error(), using_home(settings):
        migrate(settings)
        engine = open_engine(settings.database)
        try:
            yield engine
        finally:
            engine.dispose()


def migrate(settings: Settings, *, is_start: bool = False, is_restored: bool = False) -> None:
    """Create or upgrade the database's tables; does nothing if they are current.

    Args:
        is_start: Whether the service starts; see `database.installation.adopt`.
        is_restored: As for `database.installation.adopt`.

    Raises:
        CommandError: The database belongs to another home, or to a later release; nothing was
            changed in either.
    """
    from database.engine import open_engine  # SQLAlchemy
    from database.installation import adopt
    from database.migrations import current, upgrade

    if current(settings.database) is None:
        is_start = True
        require_database(settings)
    elif not is_restored:
        require_home(settings, is_start=is_start)
    if settings.database_url is None:
        Path(settings.home).mkdir(mode=0o700, parents=True, exist_ok=True)
    with _as_usage_error():
        upgrade(settings.database)
    engine = open_engine(settings.database)
    try:
        with _as_usage_error():
            adopt(engine, settings.home, is_start=is_start, is_restored=is_restored)
    finally:
        engine.dispose()


def require_home(settings: Settings, *, is_start: bool = False) -> None:
    """Check that the home is that of the database, if there is one yet.

    Args:
        is_start: As for `migrate`.

    Raises:
        CommandError: It is another one, or its disk is not mounted.
    """
    from database.engine import open_engine  # SQLAlchemy
    from database.installation import require_home
    from database.migrations import current

    if current(settings.database) is None:
        return
    engine = open_engine(settings.database)
    try:
        with _as_usage_error():
            require_home(engine, settings.home, is_start=is_start)
    finally:
        engine.dispose()


def require_database(settings: Settings) -> None:
    """Check that the home belongs to no database, as there is none where the settings name it.

    Raises:
        CommandError: It does, so that the settings name the wrong one, or it is lost.
    """
    from database.installation import require_database  # SQLAlchemy

    with _as_usage_error():
        require_database(settings.home)


def require_redis_of_home(settings: Settings) -> None:
    """Check that no other installation's service uses the Redis; one that has ended needs seconds.

    Raises:
        CommandError: One does, so this process would take work that is not meant for this home.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from contracts.queue import redis_keys
    from contracts.queue.installation import INSTALLATION_EXPIRE_SECONDS, is_foreign
    from database.installation import home_id

    if settings.redis_url is None:
        return
    limits = {"socket_timeout": 3.0, "socket_connect_timeout": 3.0}
    until = time.monotonic() + INSTALLATION_EXPIRE_SECONDS + 1.0
    try:
        with redis.Redis.from_url(
            settings.redis_url, retry=Retry(NoBackoff(), 0), **limits
        ) as client:
            while is_foreign(home_id(settings.home), holder := client.get(redis_keys.INSTALLATION)):
                if time.monotonic() > until:
                    raise CommandError(_foreign_redis(settings, holder), exit_code=2)
                time.sleep(0.25)
    except redis.RedisError:
        return  # the process waits for it, and checks again


def _foreign_redis(settings: Settings, holder: object) -> str:
    from database.installation import FILE, home_id

    theirs = holder.decode("ascii", "replace") if isinstance(holder, bytes) else holder
    own = home_id(settings.home)
    ours = (
        f"and {settings.home} has none" if own is None else f"and {settings.home / FILE} is {own}"
    )
    return (
        f"The service that uses the Redis of OPSIN_REDIS_URL has a home with the id {theirs}, "
        f"{ours}: its requests would be answered by the models of another home. Set OPSIN_HOME to "
        "the home of that service, or mount its disk; or set OPSIN_REDIS_URL to the Redis of this "
        "home."
    )


@contextmanager
def _as_usage_error() -> Iterator[None]:
    from contracts.errors import Conflict

    try:
        yield
    except Conflict as error:
        raise CommandError(error.detail, exit_code=2) from None


def known_networks(settings: Settings) -> tuple[Network, ...]:
    """The catalog's rows for OPSIN_MODELS.

    Raises:
        CommandError: A name is not in the catalog.
    """
    unknown = [name for name in settings.models if name not in CATALOG]
    if unknown:
        raise CommandError(
            f"OPSIN_MODELS names {', '.join(unknown)}; known are {', '.join(CATALOG)}.",
            exit_code=2,
        )
    return tuple(CATALOG[name] for name in settings.models)


def has_live_keys(settings: Settings) -> bool:
    """Whether the database holds an API key that works now. It is only read.

    Raises:
        Unavailable: It does not answer, or is damaged.
    """
    from sqlalchemy.exc import ProgrammingError  # slow to load

    from database.engine import open_engine
    from database.keys import Keys

    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        return False
    engine = open_engine(settings.database)
    try:
        snapshot = Keys(engine, lambda: datetime.now(UTC)).snapshot()
    except ProgrammingError:  # PostgreSQL without our tables
        return False
    finally:
        engine.dispose()
    now = datetime.now(UTC)
    stored = snapshot.keys.values() if snapshot else ()
    return any(key.info.expires_at is None or key.info.expires_at > now for key in stored)


def require_key(settings: Settings) -> None:
    """Check that other machines cannot use the service without a key.

    Raises:
        CommandError: They could.
        Unavailable: The database does not answer, or is damaged.
    """
    if settings.is_loopback or settings.api_key is not None:
        return
    if not has_live_keys(settings):
        raise CommandError(
            f"OPSIN_HOST={settings.host} can be reached from other machines, so a key is required: "
            "`opsin keys create NAME --scope admin`, or OPSIN_API_KEY (16 characters or more).",
            exit_code=2,
        )


def require_free_port(settings: Settings) -> None:
    """Check the port before anything slow is done.

    Raises:
        CommandError: Another process listens there, or the host is not this machine's.
    """
    from cli.clients.api import Api  # httpx; not for `opsin serve`

    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        holder = "Another Opsin" if Api(settings).is_opsin() else "Something"
        taken = f"{holder} already listens on {where}"
        reason = taken if "in use" in str(error) else f"Cannot listen on {where} ({error.strerror})"
        raise CommandError(
            f"{reason}. Stop it, or choose another port: OPSIN_PORT={settings.port + 1}."
        ) from None
