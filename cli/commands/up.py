"""`opsin up`: the whole service on one machine, from nothing to a `curl` that works, and back."""

import functools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from cli.backup import placing
from cli.backup.placing import report_kept
from cli.banner import greet
from cli.clients.api import Api
from cli.commands.pulling import known_networks, pull_defaults
from cli.home import Home
from cli.migrate import migrate
from cli.output import CommandError, notes, waiting, warn
from cli.processes.logs import Follower, rotate
from cli.processes.process import Program, opsin
from cli.processes.signals import StopSignals
from cli.processes.supervisor import Supervisor
from cli.processes.valkey import Valkey, embedded
from cli.settings import environment
from contracts.inference.registry import Readiness
from contracts.settings import Settings

READY_SECONDS = 120.0
IMPORT_SECONDS = 900.0
_VALKEY_SECONDS = 30.0
_TICK_SECONDS = 0.25
_LOADS = "The worker loads its networks"
_PHASES = {"none": "Waiting for the worker", "loading": _LOADS, "ok": _LOADS}


def up(settings: Settings, *, verbose: bool) -> None:
    """Runs until told to stop.

    Args:
        settings: Everything; all of it is honoured.
        verbose: Whether to show the children's logs as they come.

    Raises:
        CommandError: It cannot start, or a process crashes again and again.
    """
    known_networks(settings)
    home = Home(settings.home)
    home.prepare()
    require_key(settings)
    console = notes()
    with home.locked():
        _tidy(settings, console)
        require_free_port(settings)
        _fetch(settings, console)
        with StopSignals() as signals:
            Service(settings, home, console, signals, verbose=verbose).run()
    console.print("Stopped.")


def _tidy(settings: Settings, console: Console) -> None:
    """Goes on with a restore that was killed as it moved things, or removes what it unpacked.

    Raises:
        CommandError: Something works from the home meanwhile, or it cannot be finished.
    """
    if placing.is_interrupted(settings.home):
        with Home(settings.home).alone():
            placed = placing.finish(settings.home)
        report_kept(placed, console)
        console.print("A restore that was cut short is finished.")
    elif placing.dismiss(settings.home):
        console.print("What a restore that was cut short had unpacked is removed.")


def _fetch(settings: Settings, console: Console) -> None:
    """Brings weights and photos; why a network is not whole, the greeting will tell."""
    pulled = pull_defaults(settings, console, again=False)
    if not pulled.networks:
        pulled.warn(console)
        pulled.require_one()
    if pulled.samples_fault is not None:
        warn(console, pulled.samples_fault)


def require_key(settings: Settings) -> None:
    """Checks that nobody else's machine can use the service without a key."""
    if settings.is_loopback or settings.api_key is not None:
        return
    from cli.commands.keys import live_keys  # SQLAlchemy; not where it is not asked

    if not live_keys(settings):
        raise CommandError(
            f"OPSIN_HOST={settings.host} can be reached from other machines, so a key must be "
            "there: `opsin keys create NAME --scope admin`, or OPSIN_API_KEY (16 characters or "
            "more).",
            exit_code=2,
        )


def require_free_port(settings: Settings) -> None:
    """Checks the port before anything slow is done.

    Raises:
        CommandError: Somebody listens there, or the host is not this machine's.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        who = "Another Opsin" if Api(settings).is_opsin() else "Something"
        taken = f"{who} already listens on {where}"
        reason = taken if "in use" in str(error) else f"Cannot listen on {where} ({error.strerror})"
        raise CommandError(
            f"{reason}. Stop it, or choose another port: OPSIN_PORT={settings.port + 1}."
        ) from None


class _StopAskedError(Exception):
    """Somebody asked to stop before all was started."""


@dataclass(slots=True)
class Service:
    """One run of everything, from the first child to the last.

    Attributes:
        settings: What all children get.
        home: Prepared and locked.
        console: For what people read.
        signals: Entered; say when to stop.
        verbose: Whether to show the children's logs as they come.
        command: The command line of `opsin worker` and the others.
        ready_seconds: How long the start may take.
        valkey: The embedded one, once it is started.
    """

    settings: Settings
    home: Home
    console: Console
    signals: StopSignals
    verbose: bool
    command: Callable[..., tuple[str, ...]] = opsin
    ready_seconds: float = READY_SECONDS
    valkey: Valkey | None = None

    def run(self) -> None:
        """Starts all, waits until stopped, stops all."""
        supervisor = Supervisor(
            functools.partial(warn, self.console), shutdown_seconds=self.settings.shutdown_seconds
        )
        logs = [self.home.logs / f"{name}.log" for name in ("valkey", "worker", "api", "jobs")]
        follower = Follower(logs if self.verbose else (), self._show)
        try:
            self._start(supervisor, follower)
            greet(self.settings, self.home, self.console)
            while not self.signals.wait(_TICK_SECONDS):
                supervisor.tend()
                follower.look()
        except _StopAskedError:
            pass
        finally:
            self._stop(supervisor)

    def _start(self, supervisor: Supervisor, follower: Follower) -> None:
        settings = self.settings
        if settings.redis_url is None:
            with waiting(self.console, "Starting Valkey"):
                self.valkey = embedded(self.home)
                supervisor.start(self.valkey.program)
                self.valkey.wait(_VALKEY_SECONDS, lambda: self._check(supervisor))
                settings = settings.model_copy(update={"redis_url": self.valkey.url})
        with waiting(self.console, "Preparing the database"):
            migrate(settings)
        env = environment(settings)
        self._begin(supervisor, env, "worker", "worker")
        self._begin(supervisor, env, "api", "serve")
        self._await_ready(supervisor, follower)
        # Nobody waits for it yet, and all that start together wait for each other.
        self._begin(supervisor, env, "jobs", "worker", "--jobs")

    def _begin(self, supervisor: Supervisor, env: dict[str, str], name: str, *words: str) -> None:
        log = rotate(self.home.logs / f"{name}.log")
        supervisor.start(Program(name, self.command(*words), env, log))

    def _await_ready(self, supervisor: Supervisor, follower: Follower) -> None:
        api = Api(self.settings)
        began = time.monotonic()
        with waiting(self.console, "Starting the API") as tell:
            while True:
                self._check(supervisor)
                follower.look()
                state = api.readiness()
                if state is not None and state.ready and not self._loading(api):
                    return
                if state is not None:
                    tell(_PHASES.get(state.worker, "Waiting for Redis and the database"))
                if time.monotonic() > began + self.ready_seconds:
                    if state is not None and state.ready:
                        return  # One network serves; the table says which still load.
                    # The first start of all imports the networks, on a slow machine for minutes.
                    imports = state is not None and state.worker == "loading"
                    if not imports or time.monotonic() > began + IMPORT_SECONDS:
                        raise CommandError(self._too_slow(state))
                self.signals.wait(_TICK_SECONDS)

    def _loading(self, api: Api) -> bool:
        """Whether a network is still on its way: only then is the table final."""
        return any(model.state == "loading" for model in api.models())

    def _check(self, supervisor: Supervisor) -> None:
        """Leaves the start at once when asked to, or when a child has died."""
        if self.signals.asked():
            raise _StopAskedError
        supervisor.require_all()

    def _too_slow(self, state: Readiness | None) -> str:
        why = "the API does not answer" if state is None else (state.detail or "not ready")
        return f"Not ready within {self.ready_seconds:g} s: {why}. Logs: {self.home.logs}."

    def _stop(self, supervisor: Supervisor) -> None:
        with waiting(self.console, "Stopping"):
            supervisor.stop(hurry=self.signals.hurried)
        if self.valkey is not None:
            self.valkey.tidy()

    def _show(self, name: str, line: str) -> None:
        self.console.print(f"[dim]{name:>6}[/] {escape(line)}")
