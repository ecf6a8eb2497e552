"""A restore that is killed while PostgreSQL's `pg_restore` runs, which may outlive it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from cli.backup import placing
from cli.backup.restrictions import complete_restore
from cli.commands.backup import write_backup
from cli.output import CommandError, notes
from contracts.settings import Settings
from models.store.store import Store
from tests.cli.backup.furnished import publish
from tests.cli.backup.test_backup import add_person, people
from tests.cli.running import ROOT
from tests.ports import free_port
from tests.postgresql import new_database

RESTORE = """
import sys
from pathlib import Path
from cli.commands.backup import restore_backup
from contracts.settings import Settings
restore_backup(Settings(_env_file=None), Path(sys.argv[1]), force=True)
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"


@pytest.mark.parametrize("outlived", [False, True], ids=["both die", "pg_restore goes on"])
def test_restore_killed_during_pg_restore_is_finished_later(
    postgresql: str, tmp_path: Path, outlived: bool
) -> None:
    plain, name = postgresql.replace("+psycopg", ""), f"killed_{int(outlived)}"
    url = new_database(postgresql, name)
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port(), database_url=url)
    add_person(settings, "Before")
    publish(Store(settings.store_home))
    out = tmp_path / "backup.tar"
    write_backup(settings, out, secrets=False)
    add_person(settings, "After")
    publish(Store(settings.store_home), "newer")
    with closing(psycopg.connect(plain.removesuffix("postgres") + name)) as holder:
        holder.execute("LOCK TABLE subjects IN ACCESS SHARE MODE")  # pg_restore wants to drop it
        started = _start_restore(settings, out)
        process = psutil.Process(started.pid)
        try:
            _until(lambda: _waiting(plain, name))
            tools = process.children()
            assert [tool.name() for tool in tools] == ["pg_restore"]
            for victim in [process] if outlived else [process, *tools]:
                victim.kill()
            started.wait(60)
        finally:
            if started.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)
                started.wait(60)
    if outlived:
        _until(lambda: not any(tool.is_running() for tool in tools))
    else:
        assert people(settings) == {"Before", "After"}  # all of it or nothing
    with pytest.raises(CommandError, match="interrupted"):
        placing.require_whole(settings.home)
    placing.finish(settings.home, settings)
    complete_restore(settings, notes())  # as `opsin up` does
    placing.require_whole(settings.home)
    assert people(settings) == {"Before"}
    assert Store(settings.store_home).models() == ["pets"]
    (aside,) = settings.home.glob("replaced-*")
    assert (aside / "opsin.pgdump").stat().st_size > 0
    assert "newer" in Store(aside / "store").models()


def _start_restore(settings: Settings, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "OPSIN_HOME": str(settings.home),
        "OPSIN_DATABASE_URL": settings.database,
        "OPSIN_PORT": str(settings.port),
    }
    command = [sys.executable, "-c", RESTORE, str(out)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)


def _waiting(server: str, database: str) -> bool:
    with closing(psycopg.connect(server)) as connection:
        row = connection.execute(WAITING, [database]).fetchone()
    return row is not None and row[0] > 0


def _until(check: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)
