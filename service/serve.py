"""Runs the API: uvicorn, set up in one place and bounded in every direction."""

import socket
from collections.abc import Callable

import structlog
import uvicorn

from contracts.logs import configure_logs
from contracts.settings import Settings
from service.app import create_app
from service.draining import DrainingServer, finishing_seconds
from service.services import Opening
from service.slow_clients import bounded

_KEEP_ALIVE_SECONDS = 75  # longer than the 60 s after which most load balancers let go
_BACKLOG = 2048


class OpenToTheWorldError(RuntimeError):
    """The service would listen on a public address with nothing to keep strangers out."""


def serve(
    settings: Settings,
    opening: Opening,
    *,
    keyed: bool = False,
    listener: socket.socket | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until told to stop; requests under way may finish within `shutdown_seconds`.

    Args:
        settings: The whole configuration.
        opening: Opens what the routes stand on.
        keyed: Whether there is a key in the database.
        listener: A socket that listens already, shared with other processes; None to open one.
        ready: Called once requests are taken.

    Raises:
        OpenToTheWorldError: The address is not loopback and there is no key.
    """
    config = server_config(settings, opening, keyed=keyed)
    server = DrainingServer(config, settings.shutdown_seconds, ready)
    configure_logs(settings.log_level, settings.log_format)
    log = structlog.get_logger("service.serve")
    log.info(
        "starting", host=settings.host, port=settings.port, keyed=keyed or bool(settings.api_key)
    )
    server.run(sockets=None if listener is None else [listener])


def server_config(settings: Settings, opening: Opening, *, keyed: bool = False) -> uvicorn.Config:
    """How uvicorn is to run.

    Raises:
        OpenToTheWorldError: As `serve`.
    """
    if not (settings.is_loopback or settings.api_key or keyed):
        raise OpenToTheWorldError(
            f"OPSIN_HOST={settings.host} can be reached from other machines, and there is no key. "
            "Make one with `opsin keys create`, set OPSIN_API_KEY to a secret of at least 16 "
            "characters, or listen on 127.0.0.1."
        )
    return uvicorn.Config(
        create_app(settings, opening),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=bounded(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=finishing_seconds(settings.shutdown_seconds),
    )
