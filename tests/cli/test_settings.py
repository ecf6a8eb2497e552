import pytest

from cli.settings import load


def test_a_misspelt_setting_is_pointed_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPSIN_MODEL", "squeezenet")
    monkeypatch.setenv("OPSIN_PORT", "8123")
    assert load().port == 8123
    told = capsys.readouterr().err
    assert "OPSIN_MODEL is no setting. Did you mean OPSIN_MODELS?" in " ".join(told.split())
    assert "OPSIN_PORT" not in told
