"""Runs the API on uvicorn, and shuts it down without losing requests.

When uvicorn is told to stop, it closes the connections that are idle at that moment. A request that
is on its way on one of them is lost, and a client may not repeat a POST by itself. So for a moment
after it has stopped listening, this server keeps responding on its open connections, each time with
`Connection: close`; only connections that stay silent all that time are closed.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from functools import partial

import structlog
import uvicorn

from contracts.garbage import collect_less_often, set_aside
from contracts.logs import configure_logs
from contracts.settings import Settings
from contracts.tracing.spans import start_tracing, stop_tracing
from service.app import create_app
from service.connections.connection_limits import protocol_class
from service.connections.descriptors import allowed_connections
from service.dependencies import OpenServices

_KEEP_ALIVE_SECONDS = 75  # longer than the 60 s after which most load balancers close
_BACKLOG = 2048
# Connections that are accepted in one turn of the event loop, in which four requests begin, see
# `pipelining`. libuv accepts one per listener. Clients that hang up at once fill the system's queue
# of connections as fast as they can; if it were emptied no faster than their requests are worked
# on, all others would wait for them in that queue (14 s, measured). Accepted, theirs are noticed to
# have gone before they begin. With four or eight, most begin all the same.
_ACCEPTED = 16
# After how long a thread that computes makes room for the event loop, which needs the interpreter
# lock several times in each request, after whatever it reads, writes or logs. With the default of
# 5 ms, others wait two to three times as long beside 200 simultaneous uploads. The shorter time
# costs no processor time that could be measured.
_SWITCH_SECONDS = 0.0005


class UnprotectedAddressError(RuntimeError):
    """The service would listen on a public address without any key."""


def serve(
    settings: Settings,
    open_services: OpenServices,
    *,
    keyed: bool = False,
    listener: socket.socket | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until stopped; requests in progress may finish within `shutdown_seconds`.

    Args:
        opening: Opens the services when the application starts.
        keyed: Whether there is a key in the database.
        listener: A listening socket that is shared with other processes; None to open one.
        ready: Called once requests are accepted.

    Raises:
        UnprotectedAddressError: The address is not loopback and there is no key.
    """
    connections = allowed_connections(settings.max_connections)
    allowed = settings.model_copy(update={"max_connections": connections})
    config = server_config(allowed, open_services, keyed=keyed)
    server = GracefulServer(config, settings.shutdown_seconds, ready)
    configure_logs(settings.log_level, settings.log_format)
    start_tracing(settings, "api")
    sys.setswitchinterval(_SWITCH_SECONDS)
    log = structlog.get_logger("service.server")
    log.info(
        "starting", host=settings.host, port=settings.port, keyed=keyed or bool(settings.api_key)
    )
    if connections < settings.max_connections:
        log.warning("too_few_open_files", max_connections=connections, help="Raise `ulimit -n`.")
    try:
        server.run(sockets=None if listener is None else [listener])
    finally:
        stop_tracing()


def server_config(
    settings: Settings, open_services: OpenServices, *, keyed: bool = False
) -> uvicorn.Config:
    """The configuration of uvicorn.

    Raises:
        UnprotectedAddressError: As `serve`.
    """
    if not (settings.is_loopback or settings.api_key or keyed):
        raise UnprotectedAddressError(
            f"OPSIN_HOST={settings.host} can be reached from other machines, and there is no key. "
            "Create one with `opsin keys create`, set OPSIN_API_KEY to a secret of at least 16 "
            "characters, or listen on 127.0.0.1."
        )
    return uvicorn.Config(
        create_app(settings, open_services),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=protocol_class(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # see `service.middleware.forwarded`
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=graceful_seconds(settings.shutdown_seconds),
    )


# Fractions of the time that a process may take to finish. Within the first, a busy client sends its
# next request; the second is for closing connections and what the application has open.
_DRAIN_SHARE = 0.1
_CLOSE_SHARE = 0.2
_POLL_SECONDS = 0.05


def graceful_seconds(shutdown_seconds: float) -> int:
    """How long requests in progress may take, so that the process ends within `shutdown_seconds`.

    Uvicorn accepts whole seconds, at least one; with a very short `shutdown_seconds`, requests take
    precedence over the limit.
    """
    return max(1, int(shutdown_seconds * (1 - _DRAIN_SHARE - _CLOSE_SHARE)))


class GracefulServer(uvicorn.Server):
    """Uvicorn, with a shutdown that loses no requests.

    Args:
        config: As for `uvicorn.Server`.
        shutdown_seconds: How long the whole shutdown may take.
        ready: Called once requests are accepted.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        shutdown_seconds: float,
        ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._drain_seconds = shutdown_seconds * _DRAIN_SHARE
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        await super().startup(sockets)
        await self._accept_several()
        set_aside()
        collect_less_often()
        if self.started and self._ready is not None:
            self._ready()

    async def _accept_several(self) -> None:
        """Listen several times on each socket."""
        protocol = partial(
            self.config.http_protocol_class,  # type: ignore[call-arg] # as uvicorn does
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop, backlog = asyncio.get_running_loop(), self.config.backlog
        for listener in [one for server in self.servers for one in server.sockets]:
            for _ in range(_ACCEPTED - 1):
                same = socket.fromfd(listener.fileno(), listener.family, listener.type)
                server = await loop.create_server(protocol, sock=same, backlog=backlog)
                self.servers.append(server)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let clients close their connections, then finish as uvicorn does."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        # A new list: responses that have begun hold the old one.
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_seconds
        # Polled, as uvicorn does not report when a connection ends.
        while state.connections and loop.time() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        await super().shutdown(sockets)
