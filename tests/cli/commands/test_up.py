import os
import re
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from cli.banner import curl_line
from cli.commands import keys
from cli.commands.up import Service, _phase
from cli.home import Home
from cli.output import CommandError, notes
from cli.processes.logs import Follower
from cli.processes.supervisor import Supervisor
from cli.startup import migrate, require_free_port, require_key
from contracts.errors import Unavailable
from contracts.inference.registry import Readiness
from contracts.settings import Settings
from database.engine import open_engine
from database.installation import home_id
from database.jobs.jobs import Jobs
from tests.cli.running import Run, Starter, until
from tests.ports import free_port

STAND_IN = "tests/cli/stand_in.py"


def ready(start: Starter, home: Path, port: int, **settings: object) -> Run:
    run = start(STAND_IN, "up", OPSIN_HOME=home, OPSIN_PORT=port, **settings)
    run.wait_for("Stop    Ctrl-C")
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_starts_reports_so_and_leaves_nothing(
    start: Starter, tmp_path: Path, number: signal.Signals
) -> None:
    home, port = tmp_path / "home", free_port()
    run = ready(start, home, port, OPSIN_QUEUE_LIMIT=7)
    assert f"Opsin is ready at http://127.0.0.1:{port}" in run.text
    assert re.search(r"squeezenet +unavailable +-\s+! squeezenet: no weights \[here\]", run.text)
    run.wait_for(f"worker on unix://{home}/run/valkey.sock with 7")
    children = run.descendants()
    assert len(children) == 4
    run.process.send_signal(number)
    assert run.wait() == 0
    assert not any(child.is_running() for child in children)
    assert [path.name for path in (home / "run").iterdir()] == ["up.lock"]
    assert (home / "run" / "up.lock").read_text() == ""


@pytest.mark.slow
def test_two_instances_run_at_once(start: Starter, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    runs = [ready(start, tmp_path / f"home{n}", port) for n, port in enumerate(ports)]
    for port in ports:
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
    for run in runs:
        run.process.terminate()
    assert [run.wait() for run in runs] == [0, 0]


def test_a_killed_run_leaves_no_process_and_the_next_one_starts(
    start: Starter, tmp_path: Path
) -> None:
    home, port = tmp_path / "home", free_port()
    first = ready(start, home, port)
    first.wait_for("worker on")
    children = first.descendants()
    first.process.kill()
    first.wait()
    until(lambda: not any(child.is_running() for child in children))
    second = ready(start, home, port)
    second.wait_for("worker on")
    second.process.terminate()
    assert second.wait() == 0
    assert "worker on" in (home / "logs" / "worker.log.1").read_text()


def test_a_crashed_api_is_restarted(start: Starter, tmp_path: Path) -> None:
    port = free_port()
    run = ready(start, tmp_path / "home", port)
    api = next(p for p in run.descendants() if p.cmdline()[-1] == "serve")
    api.send_signal(signal.SIGKILL)
    run.wait_for("api ended (signal 9)")

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success
        except httpx.HTTPError:
            return False

    until(answers)
    run.process.terminate()
    assert run.wait() == 0


def test_the_log_of_a_worker_that_cannot_start_is_shown(start: Starter, tmp_path: Path) -> None:
    run = start(
        STAND_IN, "up", OPSIN_HOME=tmp_path / "home", OPSIN_PORT=free_port(), STAND_IN="fail"
    )
    assert run.wait() == 1
    assert "The worker could not start (exit code 1)" in run.text
    assert "no TensorFlow here" in run.text


def test_a_second_instance_in_the_same_home_names_the_first(start: Starter, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    with home.locked():
        run = start("-m", "cli", "up", OPSIN_HOME=home.root, OPSIN_PORT=free_port())
        assert run.wait() == 1
    assert f"already running from {home.root} (pid {os.getpid()})" in run.text
    assert "Traceback" not in run.text


def test_a_taken_port_is_reported_before_anything_slow(start: Starter, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = start("-m", "cli", "up", OPSIN_HOME=tmp_path / "home", OPSIN_PORT=port)
        assert run.wait() == 1
    assert f"Something already listens on 127.0.0.1:{port}" in run.text
    assert f"OPSIN_PORT={port + 1}" in run.text
    assert not (tmp_path / "home" / "weights").exists()


def test_its_logs_stay_small_while_it_runs(tmp_path: Path) -> None:
    log, waits = tmp_path / "api.log", iter((False, True))
    log.write_bytes(bytes(2**20 + 1))
    signals: Any = SimpleNamespace(wait=lambda _seconds: next(waits))
    settings = Settings(_env_file=None, home=tmp_path, log_file_mb=1)
    service = Service(settings, Home(tmp_path), notes(), signals, verbose=False)
    service._watch(Supervisor(print, shutdown_seconds=1), Follower((), print), [log])
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size == 2**20 + 1


def test_a_free_port_is_accepted() -> None:
    require_free_port(Settings(port=free_port()))


def test_an_open_address_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(host="0.0.0.0", home=tmp_path)
    with pytest.raises(CommandError, match="OPSIN_API_KEY"):
        require_key(settings)
    assert not any(tmp_path.iterdir())  # it only reads
    require_key(settings.model_copy(update={"api_key": "a-key-of-sixteen-or-more"}))
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    keys.create("first", ["admin"], cli_key=False)
    require_key(settings)
    (tmp_path / "opsin.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Unavailable, match="damaged"):  # and not that there is no key
        require_key(settings)


def test_the_curl_line_is_short_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "my home", host="0.0.0.0", api_key="0123456789abcdef")
    home = Home(settings.home)
    home.samples.mkdir(parents=True)
    (home.samples / "cat.png").touch()
    assert curl_line(settings, home, key="$OPSIN_API_KEY") == (
        'curl -H "Authorization: Bearer $OPSIN_API_KEY" '
        "-F 'image=@my home/samples/cat.png' http://127.0.0.1:8000/v1/classify"
    )
    assert "Authorization" not in curl_line(settings, home, key=None)


def test_the_start_says_which_networks_are_left() -> None:
    state = Readiness(ready=False, redis="ok", database="ok", worker="none")
    assert _phase(state) == "Waiting for the worker"
    state.worker, state.loading = "loading", ["squeezenet", "vgg16"]
    assert _phase(state).endswith("2 left: squeezenet, vgg16")
    state.redis = "unreachable"
    assert "Redis" in _phase(state)


@pytest.mark.parametrize("command", [["up"], ["serve"], ["worker", "--jobs"]])
def test_nothing_starts_from_an_empty_home_of_a_database_in_use(
    start: Starter, tmp_path: Path, command: list[str]
) -> None:
    """As if the disk of the home were not mounted; nothing is written to its mount point."""
    settings = Settings(
        _env_file=None, home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'apart.db'}"
    )
    migrate(settings)
    engine = open_engine(settings.database)
    Jobs(engine, lambda: datetime.now(UTC)).create("filters", {"layer": "conv1"}, limit=9)
    engine.dispose()
    empty = tmp_path / "empty"
    run = start(
        *("-m", "cli", *command),
        OPSIN_HOME=empty,
        OPSIN_DATABASE_URL=settings.database,
        OPSIN_REDIS_URL="unix:///nowhere",
        OPSIN_PORT=free_port(),
    )
    assert run.wait() == 2, run.text
    assert "holds jobs" in run.text
    assert "mount its disk" in run.text
    assert {path.name for path in empty.iterdir()} <= {"run", "logs", "valkey"}


def test_a_job_worker_does_not_start_from_a_home_of_its_own(start: Starter, tmp_path: Path) -> None:
    """It would fail every job, whose files are in the home of the service."""
    settings = Settings(
        _env_file=None, home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'apart.db'}"
    )
    migrate(settings)
    wrong = tmp_path / "wrong"
    run = start(
        *("-m", "cli", "worker", "--jobs"),
        OPSIN_HOME=wrong,
        OPSIN_DATABASE_URL=settings.database,
        OPSIN_REDIS_URL="unix:///nowhere",
    )
    assert run.wait() == 2, run.text
    assert "Set OPSIN_HOME" in run.text
    assert home_id(wrong) is None
