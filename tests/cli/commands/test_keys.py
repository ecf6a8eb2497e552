"""`opsin keys`, on a database of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import build
from cli.output import CommandError
from contracts.keys import KEY_PATTERN
from tests.cli.running import free_port

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
        ("list",),
    ],
)
def test_a_wrong_call_is_one_plain_line(run: Call, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert isinstance(done.exception, CommandError)
