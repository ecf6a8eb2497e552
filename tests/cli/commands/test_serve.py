"""`opsin serve` and `opsin worker` with the Redis of another installation's service."""

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from cli.checks.service import _installation
from cli.output import CommandError
from cli.startup import require_redis_of_home
from contracts.queue import redis_keys
from contracts.settings import Settings
from database.installation import home_id
from tests.ports import free_port
from tests.tables import make_home
from tests.valkey import RealValkey

THEIRS = "ins_abcdefghij"


@pytest.fixture
def settings(tmp_path: Path, valkey: RealValkey) -> Settings:
    settings = Settings(
        _env_file=None, home=tmp_path / "home", redis_url=valkey.url, port=free_port()
    )
    make_home(settings)
    return settings


@pytest.mark.parametrize(
    "command", [("worker",), ("worker", "--unkept"), ("worker", "--jobs"), ("serve",)], ids=" ".join
)
def test_a_process_with_the_redis_of_another_installation_is_refused(
    settings: Settings, valkey: RealValkey, command: tuple[str, ...]
) -> None:
    """Its models would answer the requests of that one."""
    valkey.client().set(redis_keys.INSTALLATION, THEIRS)
    env = {
        "OPSIN_HOME": str(settings.home),
        "OPSIN_REDIS_URL": valkey.url,
        "OPSIN_PORT": str(settings.port),
    }
    done = subprocess.run(
        [sys.executable, "-m", "cli", *command],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert f"has a home with the id {THEIRS}" in said
    assert "Set OPSIN_HOME to the home of that service" in said


def test_an_empty_home_is_refused_while_the_service_has_another(
    tmp_path: Path, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose disk is not mounted."""
    monkeypatch.setattr("contracts.queue.installation.INSTALLATION_EXPIRE_SECONDS", 0)
    valkey.client().set(redis_keys.INSTALLATION, THEIRS)
    settings = Settings(_env_file=None, home=tmp_path, redis_url=valkey.url)
    with pytest.raises(CommandError, match="has none"):
        require_redis_of_home(settings)


def test_an_installation_that_has_just_ended_is_waited_for(
    settings: Settings, valkey: RealValkey
) -> None:
    valkey.client().set(redis_keys.INSTALLATION, THEIRS)
    client = valkey.client()
    timer = Timer(1.0, lambda: client.delete(redis_keys.INSTALLATION))
    timer.start()
    require_redis_of_home(settings)
    timer.join()
    valkey.client().set(redis_keys.INSTALLATION, home_id(settings.home) or "")
    require_redis_of_home(settings)


def test_doctor_says_that_the_redis_is_another_installations(
    settings: Settings, valkey: RealValkey
) -> None:
    assert not list(_installation(settings))
    valkey.client().set(redis_keys.INSTALLATION, THEIRS)
    (check,) = _installation(settings)
    assert check.state == "fail"
    assert str(settings.home) in check.detail


@pytest.mark.parametrize("command", [("--unkept",), ("--jobs",)], ids=" ".join)
def test_a_running_worker_ends_when_a_service_with_another_home_starts(
    settings: Settings, valkey: RealValkey, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """It was started first, with the wrong home."""
    client, log = valkey.client(), tmp_path / "log"
    env = os.environ | {
        "OPSIN_HOME": str(settings.home),
        "OPSIN_REDIS_URL": valkey.url,
        "OPSIN_MODELS": "squeezenet",
    }
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", "cli", "worker", *command], env=env, stdout=file, stderr=file
        ) as process,
    ):
        try:
            until = time.monotonic() + 60
            while not client.smembers(redis_keys.WORKERS):
                assert time.monotonic() < until, log.read_text()
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            client.set(redis_keys.INSTALLATION, THEIRS)
            process.wait(30)
        finally:
            process.kill()
    assert "foreign_home" in log.read_text()
