from pathlib import Path

import pytest
from pydantic import ValidationError

from cli.output import CommandError
from cli.settings import load
from contracts.settings import Settings


def test_an_empty_setting_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("home", "weights_dir", "redis_url", "database_url", "faces_keys", "otlp_endpoint")
    for name in (*names, "host"):
        monkeypatch.setenv(f"OPSIN_{name.upper()}", "")
    settings = Settings(_env_file=None)
    assert settings.home.absolute() == Path("var").absolute()
    assert [getattr(settings, name) for name in names[1:]] == [None] * 5
    assert settings.is_loopback
    # Commands then use the service that runs on this machine.
    assert not settings.model_fields_set & set(names)


def test_a_misspelt_setting_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPSIN_MODEL", "squeezenet")
    monkeypatch.setenv("OPSIN_PORT", "8123")
    assert load().port == 8123
    printed = capsys.readouterr().err
    assert "OPSIN_MODEL is not a setting. Did you mean OPSIN_MODELS?" in " ".join(printed.split())
    assert "OPSIN_PORT" not in printed


def test_a_misspelt_line_of_the_file_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("OPSIN_FACE_CONSENT_REQUIERD=true\nOPSIN_PORT=8123\nOTHER=1\n")
    monkeypatch.chdir(tmp_path)
    assert load(follow=False).port == 8123
    printed = " ".join(capsys.readouterr().err.split())
    assert "OPSIN_FACE_CONSENT_REQUIERD is not a setting. Did you mean" in printed
    assert "OTHER" not in printed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OPSIN_FACES_KEYS", "oops", "a key is written id:base64"),
        ("OPSIN_DATABASE_URL", "mysql://user:secret@host/name", "must start with sqlite:///"),
    ],
)
def test_a_wrong_secret_or_address_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(CommandError, match=f"{name}: .*{message}") as wrong:
        load(follow=False)
    assert value not in str(wrong.value)


def test_other_names_of_postgresql_are_understood() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        settings = Settings(_env_file=None, database_url=f"{scheme}://user@host/name")
        assert settings.database == "postgresql+psycopg://user@host/name"


def test_no_time_is_endless() -> None:
    """It is added to the time of now, by the database too."""
    times = ("_seconds", "_minutes", "_hours", "_days")
    for name in Settings.model_fields:
        for value in ("inf", "nan", "99999999999") if name.endswith(times) else ():
            with pytest.raises(ValidationError, match=name):
                Settings.model_validate({name: value})
