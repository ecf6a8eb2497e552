"""What must hold before a service starts; `opsin doctor` checks the same."""

import socket
from datetime import UTC, datetime
from pathlib import Path

from cli.output import CommandError
from contracts.settings import Settings
from models.catalog import CATALOG, Network


def migrate(settings: Settings) -> None:
    """Create or upgrade the database's tables; does nothing if they are current.

    Raises:
        CommandError: The database belongs to another home; nothing was changed in either.
    """
    from contracts.errors import Conflict
    from database.engine import open_engine  # SQLAlchemy
    from database.installation import adopt, require_database
    from database.migrations import current, upgrade

    try:
        require_database(settings.home, exists=current(settings.database) is not None)
    except Conflict as error:
        raise CommandError(error.detail, exit_code=2) from None
    if settings.database_url is None:
        Path(settings.home).mkdir(mode=0o700, parents=True, exist_ok=True)
    upgrade(settings.database)
    engine = open_engine(settings.database)
    try:
        adopt(engine, settings.home)
    except Conflict as error:
        raise CommandError(error.detail, exit_code=2) from None
    finally:
        engine.dispose()


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
    """Whether the database holds an API key that works now. It is only read."""
    from sqlalchemy.exc import ProgrammingError  # slow to load

    from contracts.errors import Unavailable
    from database.engine import open_engine
    from database.keys import Keys

    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        return False
    engine = open_engine(settings.database)
    try:
        snapshot = Keys(engine, lambda: datetime.now(UTC)).snapshot()
    except (Unavailable, ProgrammingError):  # the second: PostgreSQL without our tables
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
