"""What `opsin doctor` says of the service's key."""

from pathlib import Path

import pytest

from cli.checks.service import _key
from cli.commands import keys
from contracts.settings import Settings


def test_the_key_is_told_as_the_service_asks_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    assert _key(settings).detail == "not needed on loopback"
    keys.create(settings, "first", ["admin"], None, None)
    assert _key(settings).detail == "asked for: keys were made"
    secret = capsys.readouterr().out.strip()
    assert _key(settings.model_copy(update={"api_key": secret})).detail == "set"
