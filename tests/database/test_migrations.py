"""The steps make the tables that the code expects, once, whoever starts first."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.orm import Session

from contracts.errors import Conflict, Unavailable
from database.engine import open_engine, reachable
from database.json_text import JsonText
from database.migrations import _config, is_known, newest, upgrade
from database.tables import AnswerRecord, Record, SubjectRecord

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")  # see the next test
@pytest.mark.filterwarnings("ignore:autogenerate skipping")
def test_migrations_and_tables_agree(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Record.metadata) == []


def test_indexes_on_expressions_agree(tmp_path: Path) -> None:
    """SQLAlchemy leaves them out when it reads the tables of SQLite."""
    found = []
    for name in ("migrated", "created"):
        url = f"sqlite:///{tmp_path}/{name}.db"
        engine = open_engine(url)
        if name == "migrated":
            upgrade(url)
        else:
            Record.metadata.create_all(engine)
        query = text(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '%(%(%'"
        )
        with engine.connect() as connection:
            found.append(dict(connection.execute(query).all()))
        engine.dispose()
    assert found[0] == found[1]
    assert found[0].keys() == {"idempotency_by_id", "jobs_enrollments"}


def test_revisions_are_those_of_the_files() -> None:
    scripts = ScriptDirectory.from_config(_config())
    revisions = {script.revision for script in scripts.walk_revisions()}
    assert all(map(is_known, revisions))
    assert not is_known("0000")
    assert newest() == scripts.get_current_head()


def test_a_process_that_finds_current_tables_does_not_load_alembic(empty_url: str) -> None:
    upgrade(empty_url)
    program = (
        "import sys; from database.migrations import upgrade; "
        "upgrade(sys.argv[1]); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, empty_url], check=True, timeout=60, cwd=ROOT)


def test_upgrading_twice_changes_nothing(empty_url: str) -> None:
    upgrade(empty_url)
    engine = open_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO idempotency (key, scope, digest, status, body, created_at) "
                "VALUES ('k', 's', 'd', 202, '{}', '2026-01-01 00:00:00.000000')"
            )
        )
    upgrade(empty_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM idempotency")) == 1
    engine.dispose()


def test_subjects_of_an_earlier_release_count_as_used_at_the_upgrade(empty_url: str) -> None:
    """Otherwise a retention period would end at once for people who log in every day."""
    engine = open_engine(empty_url)
    with engine.begin() as connection:
        command.upgrade(_config(connection), "0005")
        connection.execute(
            text(
                "INSERT INTO subjects (id, name, metadata, keep_frames, data_key, key_id, "
                "revision, created_at, updated_at) VALUES "
                "('sub_a', 'Ada', '{}', false, :key, 'k', 0, "
                "'2020-01-01 00:00:00.000000', '2020-01-01 00:00:00.000000')"
            ),
            {"key": b"key"},
        )
    before = datetime.now(UTC)
    upgrade(empty_url)
    with Session(engine) as session:
        row = session.get(SubjectRecord, "sub_a")
        assert row is not None
        assert row.last_used_at is not None
        assert before <= row.last_used_at <= datetime.now(UTC)
        assert (row.failures, row.consent, row.face_disabled_at) == (0, None, None)
    engine.dispose()


def test_a_response_with_a_nul_is_indexed(empty_url: str) -> None:
    engine = open_engine(empty_url)
    body = json.dumps({"id": "sub_a", "metadata": {"a": "\0"}})
    with engine.begin() as connection:
        command.upgrade(_config(connection), "0009")
        connection.execute(
            text(
                "INSERT INTO idempotency (key, scope, digest, status, body, created_at) "
                "VALUES ('k', 'subject', 'd', 201, :body, '2026-01-01 00:00:00.000000')"
            ),
            {"body": body},
        )
    upgrade(empty_url)
    with Session(engine) as session:
        query = select(AnswerRecord.key).where(JsonText(AnswerRecord.body, "id") == "sub_a")
        assert session.scalars(query).all() == ["k"]
    engine.dispose()


def test_concurrent_upgrades_take_turns(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("database.engine._WAIT_SECONDS", 60)  # a busy machine may take long
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(upgrade, [empty_url] * 6))
    engine = open_engine(empty_url)
    made = set(inspect(engine).get_table_names())
    assert made == {"alembic_version", *Record.metadata.tables}
    engine.dispose()


def test_sqlite_settings(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a folder with 100%/opsin.db"
    upgrade(url)
    engine = open_engine(url)
    with engine.connect() as connection:
        settings = {
            name: connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "synchronous": 2,  # FULL
        "busy_timeout": 5000,
    }
    assert reachable(engine)
    engine.dispose()


@pytest.mark.parametrize("is_folder", [True, False])
def test_error_for_an_invalid_database_contains_no_path(tmp_path: Path, is_folder: bool) -> None:
    if is_folder:
        (tmp_path / "opsin.db").mkdir()
    else:
        (tmp_path / "opsin.db").write_text("This is no database. " * 100)
    engine = open_engine(f"sqlite:///{tmp_path}/opsin.db")
    assert not reachable(engine)
    with pytest.raises(Unavailable) as error:
        upgrade(f"sqlite:///{tmp_path}/opsin.db")
    assert str(tmp_path) not in str(error.value)


def test_tables_of_a_later_release_are_left_as_they_are(empty_url: str) -> None:
    upgrade(empty_url)
    engine = open_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match=r"\(9999\) are of a later release"):
        upgrade(empty_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "sqlite:///:memory:"])
def test_unsupported_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="OPSIN_DATABASE_URL"):
        open_engine(url)
