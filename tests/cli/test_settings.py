import pytest

from cli.settings import load


def test_a_misspelt_setting_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPSIN_MODEL", "squeezenet")
    monkeypatch.setenv("OPSIN_PORT", "8123")
    assert load().port == 8123
    printed = capsys.readouterr().err
    assert "OPSIN_MODEL is not a setting. Did you mean OPSIN_MODELS?" in " ".join(printed.split())
    assert "OPSIN_PORT" not in printed
