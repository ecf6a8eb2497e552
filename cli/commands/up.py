"""`opsin up`: the whole service on one machine, from nothing to a `curl` that works."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.backup import placing
from cli.backup.placing import report_kept
from cli.backup.restrictions import complete_restore
from cli.banner import print_banner
from cli.clients.api import Api
from cli.commands.weights import pull_defaults
from cli.home import Home
from cli.output import CommandError, notes, waiting, warn
from cli.processes.logs import Follower, limit_size, rotate
from cli.processes.process import Program, opsin
from cli.processes.signals import StopSignals
from cli.processes.supervisor import Supervisor
from cli.processes.valkey import Valkey, embedded
from cli.running_home import noted
from cli.settings import environment, load
from cli.startup import known_networks, migrate, require_free_port, require_home, require_key
from contracts.inference.registry import Readiness
from contracts.settings import MIB, Settings

READY_SECONDS = 120.0
IMPORT_SECONDS = 900.0
_VALKEY_SECONDS = 30.0
_TICK_SECONDS = 0.25


def up(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all logs live.")] = False,
) -> None:
    """Start everything on this machine: Valkey, workers and API.

    An inference worker and a job worker are started. Ctrl-C stops everything.
    """
    settings = load(follow=False)
    known_networks(settings)
    home = Home(settings.home)
    home.prepare()
    require_key(settings)
    console = notes()
    with home.locked():
        _finish_restore(settings, console)
        require_home(settings, is_start=True)  # before weights are fetched to an empty one
        require_free_port(settings)
        _pull_weights(settings, console)
        with StopSignals() as signals:
            Service(settings, home, console, signals, verbose=verbose).run()
    console.print("Stopped.")


def _finish_restore(settings: Settings, console: Console) -> None:
    """Finish a restore that was killed while it moved files, or remove what it unpacked.

    Raises:
        CommandError: The home is in use, or the restore cannot be finished.
    """
    if placing.is_interrupted(settings.home) or placing.is_incomplete(settings.home):
        with Home(settings.home).exclusive():
            placed = placing.finish(settings.home, settings)
            complete_restore(settings, console)
        report_kept(placed, console)
        console.print("An interrupted restore is finished.")
    elif placing.discard(settings.home):
        console.print("The files of an interrupted restore are removed.")


def _pull_weights(settings: Settings, console: Console) -> None:
    """Fetch weights and sample photos; the banner reports incomplete networks."""
    pulled = pull_defaults(settings, console, again=False)
    if not pulled.networks:
        pulled.warn(console)
        pulled.require_one()
    if pulled.samples_fault is not None:
        warn(console, pulled.samples_fault)


class _StopRequestedError(Exception):
    """A stop was requested before everything had started."""


@dataclass(slots=True)
class Service:
    """One run of everything, from the first child to the last.

    Attributes:
        settings: For all children.
        home: Prepared and locked.
        signals: Entered.
        verbose: Whether to show the children's logs as they come.
        command: Makes the command line of `opsin worker` and the others.
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
        """Start all, wait until a stop is requested, stop all."""
        supervisor = Supervisor(
            functools.partial(warn, self.console), shutdown_seconds=self.settings.shutdown_seconds
        )
        logs = [self.home.logs / f"{name}.log" for name in ("valkey", "worker", "api", "jobs")]
        follower = Follower(logs if self.verbose else (), self._show)
        try:
            with noted(self.settings):
                self._start(supervisor, follower)
                print_banner(self.settings, self.home, self.console)
                self._watch(supervisor, follower, logs)
        except _StopRequestedError:
            pass
        finally:
            self._stop(supervisor)

    def _watch(self, supervisor: Supervisor, follower: Follower, logs: Sequence[Path]) -> None:
        """Keep everything running until a stop is requested."""
        while not self.signals.wait(_TICK_SECONDS):
            supervisor.restart_crashed()
            follower.show_new()
            for log in logs:
                limit_size(log, self.settings.log_file_mb * MIB)

    def _start(self, supervisor: Supervisor, follower: Follower) -> None:
        settings = self.settings
        if settings.redis_url is None:
            with waiting(self.console, "Starting Valkey"):
                self.valkey = embedded(self.home)
                supervisor.start(self.valkey.program)
                self.valkey.wait(_VALKEY_SECONDS, lambda: self._check(supervisor))
                settings = settings.model_copy(update={"redis_url": self.valkey.url})
        with waiting(self.console, "Preparing the database"):
            migrate(settings, is_start=True)
        self._warn_of_face_keys()
        env = environment(settings)
        self._start_program(supervisor, env, "worker", "worker")
        self._start_program(supervisor, env, "api", "serve")
        self._wait_until_ready(supervisor, follower)
        # Last: it is not needed at once, and processes that start together slow each other down.
        self._start_program(supervisor, env, "jobs", "worker", "--jobs")

    def _warn_of_face_keys(self) -> None:
        """Say so at the start if enrolled people need keys that are not here."""
        from cli.checks import face_keys  # slow to load

        for check in face_keys(self.settings):
            if check.state == "fail":
                warn(self.console, f"Face keys {check.detail}. {check.help}")

    def _start_program(
        self, supervisor: Supervisor, env: dict[str, str], name: str, *words: str
    ) -> None:
        log = rotate(self.home.logs / f"{name}.log")
        supervisor.start(Program(name, self.command(*words), env, log))

    def _wait_until_ready(self, supervisor: Supervisor, follower: Follower) -> None:
        api = Api(self.settings)
        began = time.monotonic()
        with waiting(self.console, "Starting the API") as update:
            while True:
                self._check(supervisor)
                follower.show_new()
                state = api.readiness()
                if state is not None and state.ready and not self._loading(api):
                    return
                if state is not None:
                    update(_phase(state))
                if time.monotonic() > began + self.ready_seconds:
                    if state is not None and state.ready:
                        return  # one network serves; the table shows which still load
                    # The very first start imports the networks, on a slow machine for minutes.
                    imports = state is not None and state.worker == "loading"
                    if not imports or time.monotonic() > began + IMPORT_SECONDS:
                        raise CommandError(self._too_slow(state))
                self.signals.wait(_TICK_SECONDS)

    def _loading(self, api: Api) -> bool:
        """Whether a network is still loading; the banner's table would not be final."""
        return any(model.state == "loading" for model in api.models())

    def _check(self, supervisor: Supervisor) -> None:
        """End the start at once if a stop is requested or a child has died."""
        if self.signals.stop_requested():
            raise _StopRequestedError
        supervisor.require_all()

    def _too_slow(self, state: Readiness | None) -> str:
        reason = "the API does not answer" if state is None else (state.detail or "not ready")
        return f"Not ready within {self.ready_seconds:g} s: {reason}. Logs: {self.home.logs}."

    def _stop(self, supervisor: Supervisor) -> None:
        with waiting(self.console, "Stopping"):
            supervisor.stop(self.signals)
        if self.valkey is not None:
            self.valkey.remove_socket()

    def _show(self, name: str, line: str) -> None:
        self.console.print(f"[dim]{name:>6}[/] {escape(line)}")


def _phase(state: Readiness) -> str:
    """What the start waits for; which networks, as soon as the worker says it."""
    if state.redis != "ok" or state.database != "ok":
        return "Waiting for Redis and the database"
    if state.worker == "none":
        return "Waiting for the worker"
    left = state.loading or []
    names = f", {len(left)} left: {', '.join(left)}" if left else ""
    note = " (the first time it imports them, which takes minutes)"
    return f"The worker loads its networks{note}{names}"
