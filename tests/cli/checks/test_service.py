"""What `opsin doctor` reports about the service's key."""

from pathlib import Path

import pytest

from cli.checks.service import _key
from cli.commands import keys
from contracts.settings import Settings


def test_the_key_check_knows_whether_a_key_is_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    assert _key(settings).detail == "not needed on loopback"
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    keys.create("first", ["admin"])
    assert _key(settings).detail == "required: there are keys"
    secret = capsys.readouterr().out.strip()
    assert _key(settings.model_copy(update={"api_key": secret})).detail == "set"
