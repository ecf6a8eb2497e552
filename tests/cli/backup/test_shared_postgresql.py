"""Backups of a PostgreSQL database that Opsin shares, by a role that owns no more than it must."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from alembic import command

from cli.backup import databases, placing
from cli.backup.own_tables import own_entries
from cli.commands.backup import restore_backup, write_backup
from cli.output import CommandError
from cli.startup import migrate as start
from contracts.settings import Settings
from database.engine import open_engine, writing
from database.migrations import _config, current, newest, upgrade
from tests.cli.backup.test_older_tables import add_key, keys
from tests.ports import free_port
from tests.postgresql import connected, new_database, remove_database

VECTORS = """
CREATE TABLE face_vectors (id bigserial PRIMARY KEY,
    subject_id varchar(64) NOT NULL REFERENCES subjects (id) ON DELETE CASCADE);
CREATE TABLE face_vectors_state (id integer PRIMARY KEY, revision bigint NOT NULL);
INSERT INTO face_vectors_state VALUES (1, 7)
"""


class Database:
    """A database of the role `app`, with an extension of the administrator.

    Attributes:
        admin: Its address, for the administrator.
        settings: Of a home without a database yet, for `app`.
    """

    def __init__(self, server: str, name: str, home: Path) -> None:
        remove_database(server.rpartition("/")[0] + f"/{name}")
        self.admin = new_database(server, name)
        self.sql(
            "DO $$ BEGIN CREATE ROLE app LOGIN; EXCEPTION WHEN duplicate_object THEN END $$",
            f"ALTER DATABASE {name} OWNER TO app",
            "CREATE EXTENSION pg_trgm",
        )
        url = self.admin.replace("opsin@", "app@")
        self.settings = Settings(_env_file=None, home=home, port=free_port(), database_url=url)
        home.mkdir()

    def sql(self, *statements: str) -> int | None:
        """What the last statement selects, for the administrator."""
        with connected(self.admin) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def as_app(self, statements: str) -> None:
        with connected(self.settings.database) as connection:
            connection.execute(statements.encode())

    def count(self, table: str) -> int | None:
        return self.sql(f"SELECT count(*) FROM {table}")


@pytest.fixture
def shared(postgresql: str, tmp_path: Path) -> Database:
    """A database in which another application has tables, in two schemas."""
    database = Database(postgresql, "opsin_shared", tmp_path / "home")
    start(database.settings, is_start=True)
    database.sql(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.jobs (id serial PRIMARY KEY)",
        "CREATE TABLE public.invoices (id serial PRIMARY KEY)",
        "INSERT INTO shop.jobs VALUES (1)",
        "INSERT INTO public.invoices VALUES (1)",
    )
    return database


def test_other_applications_keep_their_tables(
    shared: Database, postgresql: str, tmp_path: Path, out: Path
) -> None:
    write_backup(shared.settings, out, secrets=False)
    assert b"invoices" not in out.read_bytes()
    require_restored_alone(shared, Database(postgresql, "opsin_fresh", tmp_path / "new"), out)


def test_a_backup_of_the_whole_database_restores_only_our_tables(
    shared: Database,
    postgresql: str,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As earlier releases wrote it."""
    shared.sql(
        "GRANT USAGE ON SCHEMA shop TO app",
        "GRANT SELECT ON ALL TABLES IN SCHEMA shop, public TO app",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA shop, public TO app",
    )
    shared.as_app("CREATE VIEW newest_job AS SELECT max(id) FROM jobs")
    with monkeypatch.context() as earlier:
        earlier.setattr(databases, "selection", lambda _: [])
        write_backup(shared.settings, out, secrets=False)
    assert b"invoices" in out.read_bytes()
    shared.as_app("DROP VIEW newest_job")
    fresh = Database(postgresql, "opsin_fresh", tmp_path / "new")
    require_restored_alone(shared, fresh, out)
    assert fresh.sql("SELECT to_regclass('newest_job')::oid") is None


def require_restored_alone(shared: Database, fresh: Database, out: Path) -> None:
    for table in ("shop.jobs", "public.invoices"):
        shared.sql(f"INSERT INTO {table} SELECT generate_series(2, 1000)")
    add_key(shared.settings)
    restore_backup(shared.settings, out, force=True)
    assert keys(shared.settings) == []
    assert (shared.count("shop.jobs"), shared.count("public.invoices")) == (1000, 1000)
    add_key(shared.settings)  # the sequences are there, too

    restore_backup(fresh.settings, out, force=False)
    assert fresh.sql("SELECT to_regclass('public.invoices')::oid") is None
    add_key(fresh.settings)
    indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"
    constraints = "SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
    invoices = 1  # its primary key
    assert fresh.sql(indexes) == (shared.sql(indexes) or 0) - invoices
    assert fresh.sql(constraints) == (shared.sql(constraints) or 0) - invoices


def test_the_index_of_faces_is_in_no_backup_and_goes_with_its_templates(
    shared: Database, out: Path
) -> None:
    shared.as_app(VECTORS)
    write_backup(shared.settings, out, secrets=False)
    assert b"face_vectors" not in out.read_bytes()
    restore_backup(shared.settings, out, force=True)
    for table in ("face_vectors", "face_vectors_state"):
        assert shared.sql(f"SELECT to_regclass('{table}')::oid") is None


@pytest.mark.parametrize(
    ("depends", "gone"),
    [
        ("CREATE TABLE shop.people (id varchar REFERENCES subjects)", "DROP TABLE shop.people"),
        ("CREATE TABLE people (id varchar REFERENCES subjects)", "DROP TABLE people"),
        ("CREATE VIEW shop.done AS SELECT id FROM public.jobs", "DROP VIEW shop.done"),
    ],
    ids=["a table", "a table beside ours", "a view"],
)
@pytest.mark.parametrize("revision", ["0004", "newest"])
def test_what_depends_on_our_tables_is_not_dropped(
    postgresql: str, tmp_path: Path, out: Path, revision: str, depends: str, gone: str
) -> None:
    database = Database(postgresql, "opsin_depended", tmp_path / "home")
    settings = database.settings
    migrate(settings, newest() if revision == "newest" else revision)
    write_backup(settings, out, secrets=False)
    upgrade(settings.database)
    add_key(settings)
    database.sql("CREATE SCHEMA shop", depends)
    with pytest.raises(CommandError, match=r"shop.people|people|shop.done"):
        restore_backup(settings, out, force=True)
    placing.require_whole(settings.home)
    assert keys(settings) == ["mine"]
    database.sql(gone)
    restore_backup(settings, out, force=True)
    assert (current(settings.database), keys(settings)) == (newest(), [])


def migrate(settings: Settings, revision: str) -> None:
    engine = open_engine(settings.database)
    with writing(engine) as session:
        command.upgrade(_config(session.connection()), revision)
    engine.dispose()


def test_tables_of_another_application_with_our_names_stay(
    shared: Database, postgresql: str, tmp_path: Path, out: Path
) -> None:
    write_backup(shared.settings, out, secrets=False)
    other = Database(postgresql, "opsin_taken", tmp_path / "new")
    other.as_app("CREATE TABLE jobs AS SELECT 1 AS id")
    with pytest.raises(CommandError, match='"jobs" already exists'):
        restore_backup(other.settings, out, force=False)
    other.as_app("CREATE TABLE alembic_version AS SELECT 'ae1027a6acf' AS version_num")
    with pytest.raises(CommandError, match="of another application"):
        restore_backup(other.settings, out, force=True)
    assert (other.count("jobs"), other.count("alembic_version")) == (1, 1)


def test_tables_of_a_later_release_are_dumped_and_replaced_too(shared: Database, out: Path) -> None:
    write_backup(shared.settings, out, secrets=False)
    shared.as_app("CREATE TABLE added_later (id varchar REFERENCES subjects)")
    shared.as_app("UPDATE alembic_version SET version_num = '9999'")
    shared.sql("GRANT SELECT ON TABLE invoices TO app", "GRANT SELECT ON invoices_id_seq TO app")
    restore_backup(shared.settings, out, force=True)
    assert current(shared.settings.database) == newest()
    assert shared.sql("SELECT to_regclass('added_later')::oid") is None
    assert shared.count("public.invoices") == 1
    (replaced,) = shared.settings.home.glob("replaced-*/opsin.pgdump")
    assert b"added_later" in replaced.read_bytes()


def test_a_schema_of_its_own(
    postgresql: str, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgresql, "opsin_own_schema", tmp_path / "home")
    path = """ALTER DATABASE "opsin_own_schema" SET search_path = "my ""own", public"""
    database.sql('CREATE SCHEMA "my ""own" AUTHORIZATION app', path)
    settings = database.settings
    start(settings, is_start=True)
    for whole in (False, True):
        with monkeypatch.context() as earlier:
            if whole:
                earlier.setattr(databases, "selection", lambda _: [])
            out.unlink(missing_ok=True)
            write_backup(settings, out, secrets=False)
        add_key(settings)
        restore_backup(settings, out, force=True)
        assert keys(settings) == []
    assert database.sql("SELECT to_regclass('public.jobs')::oid") is None
    other = Database(postgresql, "opsin_fresh", tmp_path / "new")
    with pytest.raises(CommandError, match="not in the schema public"):
        restore_backup(other.settings, out, force=False)


def test_a_listing_without_our_rows_is_refused(shared: Database, out: Path, tmp_path: Path) -> None:
    """As of a release of PostgreSQL's tools that writes it in another way."""
    write_backup(shared.settings, out, secrets=False)
    with tarfile.open(out) as tar:
        tar.extractall(tmp_path / "files", filter="data")
    (path,) = (tmp_path / "files").rglob("opsin.pgdump")
    tool = shutil.which("pg_restore") or ""
    listed = [tool, "--list", "--verbose", path]
    listing = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
    assert own_entries(listing, "public")
    with pytest.raises(CommandError, match="not in the schema public"):
        own_entries(listing.replace("depends on", "needs"), "public")
