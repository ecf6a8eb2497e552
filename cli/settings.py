"""Settings as commands use them: read once, explained if wrong, passed on to children."""

import difflib
import functools
import os
from pathlib import Path

from pydantic import SecretStr, ValidationError
from pydantic_settings import DotEnvSettingsSource

from cli.access import read_cli_key
from cli.output import CommandError, notes, warn
from cli.running_home import Running, is_home, running_home, running_services
from contracts.settings import Settings
from database.crypto.master_keys import read_keys
from models.processes import PARENT

# Read by children and by the tests.
_NOT_SETTINGS = {PARENT, "OPSIN_SHARED_DIR"}


def load(*, key: str | None = None, follow: bool = True) -> Settings:
    """The settings from the environment and `.env`.

    Args:
        key: The server's key, if the command line names one.
        follow: Whether a command uses the service that runs on this machine: its home, if none is
            set and the folder has no `./var`; its port, if none is set.

    Raises:
        CommandError: One line for each bad setting, by the name it has in the environment.
    """
    _warn_of_unknown()
    try:
        settings = Settings()
    except ValidationError as bad:
        lines = [
            f"  OPSIN_{'.'.join(str(part) for part in error['loc']).upper()}: {error['msg']}"
            for error in bad.errors()
        ]
        raise _wrong(*lines) from None
    if settings.faces_keys is not None:
        try:
            read_keys(settings.faces_keys.get_secret_value())
        except ValueError as error:
            raise _wrong(f"  OPSIN_FACES_KEYS: {error}") from None
    if follow:
        settings = _follow(settings)
    return settings if key is None else settings.model_copy(update={"api_key": SecretStr(key)})


def _wrong(*lines: str) -> CommandError:
    return CommandError("\n".join(("These settings are wrong:", *lines)), exit_code=2)


def _follow(settings: Settings) -> Settings:
    """The same settings, with the home and the port of the running service where none is set."""
    home = settings.home.resolve()
    here = running_home(settings.port)
    if here == home:
        return settings
    if "home" in settings.model_fields_set or is_home(settings.home):
        own = next((found for found in _at_other_ports(settings) if found.home == home), None)
        if own is not None:
            return _at_port(settings, own)
        if here is not None and "home" not in settings.model_fields_set:
            _say_once(
                f"The service at {address(settings)} runs from {here}, and this command uses "
                f"{home}. To use the service's home: export OPSIN_HOME={here}"
            )
        return settings
    if here is None:
        others = _at_other_ports(settings)
        if len(others) != 1:
            return settings
        settings, here = _at_port(settings, others[0]), others[0].home
    _say_once(f"This command uses {here}, the home of the service at {address(settings)}.")
    return settings.model_copy(update={"home": here})


def _at_other_ports(settings: Settings) -> list[Running]:
    """The services that a command may ask instead; none where the user has set a port."""
    return [] if "port" in settings.model_fields_set else running_services()


def _at_port(settings: Settings, service: Running) -> Settings:
    update: dict[str, object] = {"port": service.port}
    if "host" not in settings.model_fields_set:
        update["host"] = service.host
    return settings.model_copy(update=update)


@functools.cache
def _say_once(text: str) -> None:
    """Warn; a command may read its settings twice."""
    warn(notes(), text)


def _warn_of_unknown() -> None:
    """Warn of what looks like a setting, also in `.env`: a misspelt one would do nothing."""
    known = {f"OPSIN_{name.upper()}" for name in Settings.model_fields}
    lines = map(str.upper, DotEnvSettingsSource(Settings).env_vars)
    for name in sorted({*os.environ, *lines}):
        if name.startswith("OPSIN_") and name not in known | _NOT_SETTINGS:
            similar = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            warn(notes(), f"{name} is not a setting.{hint}")


def require_redis(settings: Settings, command: str) -> Settings:
    """The same settings.

    Raises:
        CommandError: They name no Redis.
    """
    if settings.redis_url is None:
        raise CommandError(
            f"`opsin {command}` needs OPSIN_REDIS_URL, e.g. redis://localhost:6379/0. "
            "On one machine, `opsin up` starts everything, including Valkey.",
            exit_code=2,
        )
    return settings


def environment(settings: Settings) -> dict[str, str]:
    """The environment in which a child reads exactly these settings.

    Every setting is written out, so that a child never reads a default or a variable differently.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPSIN_")}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None:
            env[f"OPSIN_{name.upper()}"] = _text_of(value)
    return env


def reachable_host(settings: Settings) -> str:
    """The host under which this machine itself reaches the API, for a URL."""
    return reachable(settings.host)


def reachable(host: str) -> str:
    """The host under which this machine reaches what listens on an address, for a URL."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def address(settings: Settings) -> str:
    """The URL under which this machine itself reaches the API."""
    return f"http://{reachable_host(settings)}:{settings.port}"


def is_own(settings: Settings, url: str) -> bool:
    """Whether a URL is that of this machine's service."""
    if url == address(settings):
        return True
    return settings.is_loopback and url in {
        f"http://{host}:{settings.port}" for host in ("127.0.0.1", "localhost", "[::1]")
    }


def key_headers(settings: Settings, url: str) -> dict[str, str]:
    """The header that authenticates a request.

    OPSIN_API_KEY or `--key` goes to any server that the user names; the command line's own key
    only to this machine's service, which has to prove first that it is (`cli.clients.proof`).
    """
    if settings.api_key is not None:
        key: str | None = settings.api_key.get_secret_value()
    else:
        key = read_cli_key(settings.home) if is_own(settings, url) else None
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _text_of(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Path):
        return os.fspath(value)
    return str(value)
