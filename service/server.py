"""Runs the API: uvicorn, set up in one place and bounded in every direction.

Ends the API so that no request is lost: whoever speaks to it is told to go elsewhere first.

Uvicorn closes the connections that are idle at the moment it is told to stop. A request that is on
its way on one of them then meets a closed door, and a client may not send a POST again by itself.
So for a moment after it has stopped listening, this server goes on to answer on the connections it
has, each answer with `Connection: close`; only who says nothing for all of that moment is cut off.
"""

import asyncio
import socket
from collections.abc import Callable

import structlog
import uvicorn

from contracts.logs import configure_logs
from contracts.settings import Settings
from service.app import create_app
from service.dependencies import Opening
from service.http.connection_limits import bounded

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
    log = structlog.get_logger("service.server")
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


# Of the time that a process may take to finish. A client under load asks again within it.
_PARTING_SHARE = 0.1
# For the words to those who are cut off, and for closing what the application has open.
_CLOSING_SHARE = 0.2
_LOOK_SECONDS = 0.05


def finishing_seconds(shutdown_seconds: float) -> int:
    """How long requests under way may take, so that all is over within `shutdown_seconds`.

    Uvicorn takes whole seconds. Where there are hardly any, requests come before the bound.
    """
    return max(1, int(shutdown_seconds * (1 - _PARTING_SHARE - _CLOSING_SHARE)))


class DrainingServer(uvicorn.Server):
    """Uvicorn, with better manners when it goes.

    Args:
        config: How it runs.
        shutdown_seconds: How long it may take to finish in all.
        ready: Called once it takes requests.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        shutdown_seconds: float,
        ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._parting_seconds = shutdown_seconds * _PARTING_SHARE
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """ServicesDep what the application stands on, then listen."""
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, part from those who are connected, then finish as uvicorn does."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        # A new list: answers that have begun hold the old one.
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._parting_seconds
        # uvicorn tells nobody when a connection ends, so it is looked for.
        while state.connections and loop.time() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        await super().shutdown(sockets)
