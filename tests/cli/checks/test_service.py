"""What `opsin doctor` reports about the service's key."""

from pathlib import Path

import pytest
import redis

from cli.access import MAKE_CLI_KEY, cli_key_file
from cli.checks.service import _clocks, _key, _readiness, _redis, _redis_file, _versions
from cli.clients.api import Api
from cli.commands import keys
from contracts.inference.registry import ModelInfo, Readiness, SystemInfo
from contracts.queue.heartbeat import WorkerBeat
from contracts.settings import Settings
from tests.valkey import RealValkey


def test_the_key_check_knows_whether_a_key_is_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    assert "none needed" in _key(settings).detail
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    keys.create("first", ["admin"], cli_key=False)
    found = _key(settings)
    assert (found.state, found.help) == ("warn", MAKE_CLI_KEY)
    secret = capsys.readouterr().out.strip()
    assert _key(settings.model_copy(update={"api_key": secret})).state == "ok"
    keys.cli()
    assert "cli.key" in _key(settings).detail
    cli_key_file(tmp_path).chmod(0o644)
    assert _key(settings).state == "fail"


def test_a_service_that_nobody_can_use_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    keys.create("phone", ["infer"], cli_key=False)
    keys.revoke(f"key_{capsys.readouterr().out.split('_')[1]}")
    assert "opsin keys open" in capsys.readouterr().err
    found = _key(settings)
    assert found.state == "fail"
    assert "opsin keys open" in found.help
    keys.open_service(yes=True)
    assert "none needed" in _key(settings).detail


def test_a_service_that_is_starting_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Readiness(
        ready=False, redis="ok", database="ok", worker="loading", loading=["vgg16"], detail="Wait."
    )
    monkeypatch.setattr(Api, "readiness", lambda _: state)
    found = _readiness(Api(Settings(_env_file=None, home=tmp_path)))
    assert found.state == "warn"
    assert "starting (vgg16)" in found.help
    state.database = "unreachable"
    assert _readiness(Api(Settings(_env_file=None, home=tmp_path))).state == "fail"


def test_a_network_without_its_classifier_is_partly_ready() -> None:
    base = ModelInfo(
        name="vgg16", network="vgg16", state="unavailable", reason="No classifier.", aliases={},
        versions=[1], classes=None, input_size=(224, 224), operations=("embed", "explain"),
        licence=None,
    )  # fmt: skip
    missing = base.model_copy(update={"name": "squeezenet", "operations": ()})
    system = SystemInfo(
        version="1", started_at=0, workers=[], devices=[], queues=[], models=[base, missing],
        job_workers=[],
    )  # fmt: skip
    found = {check.name: check.detail for check in _versions(system)}
    assert found["model vgg16"] == "partly: embed, explain. No classifier."
    assert found["model squeezenet"] == "unavailable. No classifier."


def test_a_host_whose_clock_differs_is_named() -> None:
    def worker(host: str, ahead: float | None) -> WorkerBeat:
        return WorkerBeat(
            id=host, host=host, pid=1, release="1", started_at=0, beat_at=0, clock_ahead=ahead
        )

    workers = [worker("old", None), worker("near", -1.5), worker("far", 31)]
    system = SystemInfo(
        version="1", started_at=0, workers=workers, devices=[], queues=[], models=[],
        job_workers=[worker("late", -65)],
    )  # fmt: skip
    found = list(_clocks(system))
    assert [check.detail for check in found] == [
        "far: 31 s ahead of Redis",
        "late: 65 s behind Redis",
    ]
    assert {check.state for check in found} == {"warn"}


def test_a_redis_that_keeps_what_was_erased_is_named(tmp_path: Path, valkey: RealValkey) -> None:
    settings = Settings(_env_file=None, home=tmp_path, redis_url=valkey.url)
    assert list(_redis_file(settings)) == []
    with redis.Redis.from_url(valkey.url) as admin:
        rules = ["on", ">word", "~*", "+@all", "-@admin", "-@dangerous"]
        admin.execute_command("ACL", "SETUSER", "doctor", *rules)
        url = valkey.url.replace("unix://", "unix://doctor:word@")
        restricted = settings.model_copy(update={"redis_url": url})
        try:
            assert [check.state for check in _redis_file(restricted)] == ["warn"]
            assert _redis(restricted).state == "warn"
        finally:
            admin.execute_command("ACL", "DELUSER", "doctor")


def test_a_redis_without_the_command_is_named(tmp_path: Path) -> None:
    server = RealValkey("--rename-command", "BGREWRITEAOF", "")
    server.start()
    try:
        settings = Settings(_env_file=None, home=tmp_path, redis_url=server.url)
        assert [check.state for check in _redis_file(settings)] == ["warn"]
        assert _redis(settings).state == "ok"
    finally:
        server.close()
