"""`opsin keys`, on a database of its own."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from pydantic import SecretStr
from typer.testing import CliRunner

from cli.access import Access, access
from cli.main import build
from cli.output import CommandError
from cli.settings import address, key_headers
from contracts.keys import KEY_PATTERN
from contracts.settings import Settings
from tests.ports import free_port

Call = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    monkeypatch.setenv("OPSIN_PORT", str(free_port()))
    monkeypatch.delenv("OPSIN_DATABASE_URL", raising=False)

    def call(*words: str) -> Result:
        return CliRunner().invoke(build(), ["keys", *words])

    return call


def test_a_key_is_alone_on_stdout_and_shown_only_once(run: Call) -> None:
    made = run("create", "billing", "--scope", "infer", "--scope", "train", "--expires", "90d")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    match = KEY_PATTERN.fullmatch(key)
    assert match is not None
    listed = run("list")
    assert f"key_{match[1]}" in listed.stdout
    assert "works until" in listed.stdout
    assert match[2] not in listed.output


def test_a_key_is_rotated_and_revoked(run: Call) -> None:
    first = KEY_PATTERN.fullmatch(run("create", "x", "--scope", "admin").stdout.strip())
    assert first is not None
    rotated = run("rotate", f"key_{first[1]}", "--grace", "2h")
    second = KEY_PATTERN.fullmatch(rotated.stdout.strip())
    assert second is not None
    assert run("revoke", f"key_{second[1]}").exit_code == 0
    listed = run("list").stdout
    assert "revoked" in listed


def test_an_empty_list_is_no_failure(run: Call) -> None:
    listed = run("list")
    assert listed.exit_code == 0
    assert "opsin keys create" in listed.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("create", "x", "--scope", "root"),
        ("create", "x", "--scope", "infer", "--expires", "soon"),
        ("create", "x", "--scope", "infer", "--expires", "0d"),
        ("create", "", "--scope", "infer"),
        ("revoke", "key_000000000000"),
        ("rotate", "key_000000000000"),
        ("rotate", "key_000000000000", "--grace", "99w"),
    ],
)
def test_a_wrong_call_is_one_plain_line(run: Call, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert isinstance(done.exception, CommandError)


def test_an_unknown_scope_is_named_once(run: Call) -> None:
    done = run("create", "x", "--scope", "infer", "--scope", "everything")
    assert isinstance(done.exception, CommandError)
    known = "infer, train, faces, models, admin"
    assert done.exception.message == f"No such scope: everything. Scopes are {known}."


def test_no_key_is_said_as_it_is_after_all_were_revoked(run: Call) -> None:
    run("create", "x", "--scope", "infer")
    run("open", "--yes")
    assert "yet" not in run("list").stderr


def test_the_first_key_locks_nobody_out(run: Call, tmp_path: Path) -> None:
    made = run("create", "phone", "--scope", "infer")
    assert "This is the first key" in made.stderr
    assert KEY_PATTERN.fullmatch(made.stdout.strip())
    file = tmp_path / "cli.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    settings = Settings(_env_file=None, home=tmp_path)
    own = key_headers(settings, address(settings))
    assert own == {"Authorization": f"Bearer {file.read_text().strip()}"}
    infos = json.loads(run("list", "--json").stdout)["items"]
    assert [info["scopes"] for info in infos] == [["infer"], ["admin"]]
    run("create", "tablet", "--scope", "infer")  # not the first: no other admin key
    assert len(json.loads(run("list", "--json").stdout)["items"]) == 3


def test_the_command_lines_key_goes_to_this_machine_only(run: Call, tmp_path: Path) -> None:
    run("cli")
    settings = Settings(_env_file=None, home=tmp_path, port=8000)
    assert key_headers(settings, "http://localhost:8000")
    for url in ("http://gpu:8000", "http://127.0.0.1:8001", "http://127.0.0.1:8000@evil"):
        assert key_headers(settings, url) == {}, url
    named = settings.model_copy(update={"api_key": SecretStr("0123456789abcdef")})
    assert key_headers(named, "http://gpu:8000") == {"Authorization": "Bearer 0123456789abcdef"}


def test_a_loopback_service_can_be_opened_again(run: Call, tmp_path: Path) -> None:
    run("create", "phone", "--scope", "infer")
    refused = run("open")
    assert isinstance(refused.exception, CommandError)
    assert "--yes" in str(refused.exception)
    assert run("open", "--yes").exit_code == 0
    assert not (tmp_path / "cli.key").exists()
    settings = Settings(_env_file=None, home=tmp_path)
    assert access(settings).state == "open"
    again = run("create", "phone", "--scope", "infer", "--no-cli-key")
    assert "This is the first key" in again.stderr
    assert "opsin keys cli" in again.stderr
    assert access(settings) == Access("keyed")


def test_a_service_that_others_reach_is_not_opened(
    run: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_HOST", "0.0.0.0")
    made = run("create", "phone", "--scope", "infer")
    assert "opsin keys cli" in made.stderr  # it is offered, not made
    refused = run("open", "--yes")
    assert isinstance(refused.exception, CommandError)
    assert "other machines" in str(refused.exception)


def test_a_new_key_of_the_command_line_replaces_the_old_one(run: Call, tmp_path: Path) -> None:
    run("cli")
    before = (tmp_path / "cli.key").read_text()
    run("cli")
    assert (tmp_path / "cli.key").read_text() != before
    states = [info["revoked_at"] for info in json.loads(run("list", "--json").stdout)["items"]]
    assert [state is None for state in states] == [True, False]


def test_rotating_the_key_of_the_command_line_keeps_it_in_use(run: Call, tmp_path: Path) -> None:
    run("cli")
    settings = Settings(_env_file=None, home=tmp_path)
    before = access(settings).cli_key
    assert before is not None
    run("rotate", before.id, "--grace", "1m")
    after = access(settings).cli_key
    assert after is not None
    assert after.id != before.id
    run("create", "other", "--scope", "infer")
    assert "opsin keys cli" in run("revoke", after.id).stderr
