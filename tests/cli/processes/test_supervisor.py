import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli.output import CommandError
from cli.processes.process import Program
from cli.processes.supervisor import QUICK_LIMIT, Supervisor
from tests.cli.running import Starter, until

SLEEP = "import time; time.sleep(600)"
STUBBORN = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
print(child.pid, flush=True)
child.wait()
"""
POLITE = """
import signal, sys, time
def leave(*_):
    print("bye", time.monotonic(), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("hello", flush=True)
time.sleep(600)
"""


def program(folder: Path, code: str, name: str = "child") -> Program:
    return Program(name, (sys.executable, "-c", code), dict(os.environ), folder / f"{name}.log")


def supervisor(reports: list[str] | None = None, **options: float) -> Supervisor:
    lines = [] if reports is None else reports
    return Supervisor(lines.append, shutdown_seconds=options.get("seconds", 5), backoff=(0.0,))


def test_the_last_process_started_ends_first(tmp_path: Path) -> None:
    processes = supervisor()
    programs = [program(tmp_path, POLITE, name) for name in ("first", "second")]
    for each in programs:
        processes.start(each)
    until(lambda: all("hello" in each.log.read_text() for each in programs))
    processes.stop()
    first, second = (float(each.log.read_text().split()[-1]) for each in programs)
    assert second < first
    assert not any(psutil.pid_exists(pid) for pid in processes.pids().values())


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    processes = supervisor(seconds=0.3)
    stubborn = program(tmp_path, STUBBORN)
    processes.start(stubborn)
    until(lambda: stubborn.log.exists() and stubborn.log.read_text().strip())
    grandchild = int(stubborn.log.read_text())
    processes.stop()
    until(lambda: not psutil.pid_exists(grandchild))


def test_a_stop_at_once_does_not_wait(tmp_path: Path) -> None:
    processes = supervisor(seconds=60)
    stubborn = program(tmp_path, STUBBORN)
    processes.start(stubborn)
    until(lambda: stubborn.log.exists() and stubborn.log.read_text().strip())
    began = time.monotonic()
    processes.stop(at_once=True)
    assert time.monotonic() - began < 30


def test_a_crashed_child_is_restarted_and_reported(tmp_path: Path) -> None:
    reports: list[str] = []
    processes = supervisor(reports)
    child = processes.start(program(tmp_path, SLEEP))
    os.kill(child.pid, signal.SIGKILL)
    try:
        until(lambda: processes.restart_crashed() or processes.pids()["child"] != child.pid)
        assert reports == ["child ended (signal 9); restarting it in 0 s."]
        assert psutil.Process(processes.pids()["child"]).is_running()
    finally:
        processes.stop()


@pytest.mark.parametrize(
    ("code", "has_run"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", False),
        ("os._exit(0)", False),
        ("os._exit(1)", True),
    ],
    ids=["killed", "in order", "after it has run"],
)
def test_a_child_whose_ends_are_not_its_own_fault_is_restarted_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, *, has_run: bool
) -> None:
    """For want of memory, or beside a full disk: the other processes go on meanwhile."""
    reports: list[str] = []
    processes = supervisor(reports)
    marker = tmp_path / "started"
    first = f"pathlib.Path({str(marker)!r}).touch(); time.sleep(1)" if has_run else "pass"
    started = f"os.path.exists({str(marker)!r})"
    script = f"import os, pathlib, signal, time\nif not {started}: {first}\n{code}"
    with monkeypatch.context() as patched:
        if has_run:
            patched.setattr("cli.processes.supervisor.QUICK_SECONDS", 0.5)
        processes.start(program(tmp_path, script))
        try:
            until(lambda: processes.restart_crashed() or len(reports) > 0)
            patched.setattr("cli.processes.supervisor.QUICK_SECONDS", 60.0)
            until(lambda: processes.restart_crashed() or len(reports) > QUICK_LIMIT + 2)
        finally:
            processes.stop(at_once=True)


def test_repeated_crashes_fail_with_the_end_of_the_log(tmp_path: Path) -> None:
    reports: list[str] = []
    processes = supervisor(reports)
    processes.start(program(tmp_path, "import sys; sys.exit('no luck')"))
    with pytest.raises(CommandError, match="crashed 5 times in a row") as raised:
        until(processes.restart_crashed)
    assert "no luck" in raised.value.message
    assert len(reports) == QUICK_LIMIT - 1
    processes.stop()


def test_a_failed_start_is_not_retried(tmp_path: Path) -> None:
    processes = supervisor()
    child = processes.start(program(tmp_path, "raise SystemExit('bad setting')"))
    assert child.wait(60)
    with pytest.raises(CommandError, match="could not start") as raised:
        processes.require_all()
    assert "bad setting" in raised.value.message
    processes.stop()


def test_a_killed_supervisor_leaves_no_orphan(start: Starter, tmp_path: Path) -> None:
    code = f"""
import sys, time
from tests.cli.processes.test_supervisor import program, supervisor, POLITE
from pathlib import Path
processes = supervisor()
processes.start(program(Path({str(tmp_path)!r}), POLITE))
time.sleep(600)
"""
    run = start("-c", code)
    log = tmp_path / "child.log"
    until(lambda: log.exists() and "hello" in log.read_text())
    children = run.descendants()
    assert children
    run.process.kill()
    run.wait()
    until(lambda: not any(child.is_running() for child in children))


def test_a_child_ends_with_its_parent_without_the_kernel(start: Starter, tmp_path: Path) -> None:
    """As on macOS: only the thread that watches its parent."""
    watcher = (
        "from models.processes import end_with_parent; end_with_parent(1);"
        "import time; time.sleep(600)"
    )
    code = f"""
import os, subprocess, sys, time
env = {{**os.environ, "OPSIN_PARENT_PID": str(os.getpid())}}
print(subprocess.Popen([sys.executable, "-c", {watcher!r}], env=env).pid, flush=True)
time.sleep(600)
"""
    run = start("-c", code)
    until(lambda: run.text.strip().isdecimal())
    child = psutil.Process(int(run.text))
    time.sleep(0.7)
    assert child.is_running()
    run.process.kill()
    run.wait()
    until(lambda: not child.is_running())
