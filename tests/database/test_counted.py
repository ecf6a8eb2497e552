"""What is counted of the database: kinds of errors, connections, and those that were replaced."""

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from contracts.errors import Unavailable
from contracts.metrics.dependencies import count_database
from contracts.metrics.registry import Metrics
from database.engine import open_engine, reading, writing


def counted(metrics: Metrics) -> dict[str, float]:
    """The metrics of the database that are not zero, with the kind of an error in their name."""
    return {
        field.removeprefix("database_").replace("\x1f", " "): values[0]
        for field, values in metrics.read()["c"].items()
        if field.startswith("database_") and values[0]
    }


@pytest.fixture
def metrics(engine: Engine) -> Metrics:
    metrics = Metrics()
    count_database(engine, metrics)
    return metrics


def test_errors_have_the_same_kinds_on_both_databases(engine: Engine, metrics: Metrics) -> None:
    with writing(engine) as session:
        session.execute(text("CREATE TABLE counted (id INTEGER PRIMARY KEY)"))
        session.execute(text("INSERT INTO counted VALUES (1)"))
    before = counted(metrics)
    assert set(before) <= {"connections_total"}
    with pytest.raises(DBAPIError), writing(engine) as session:
        session.execute(text("INSERT INTO counted VALUES (1)"))
    with pytest.raises((DBAPIError, Unavailable)), reading(engine) as session:
        session.execute(text("SELECT nothing FROM nowhere"))
    with writing(engine) as session:
        session.execute(text("DROP TABLE counted"))
    errors = {name: value for name, value in counted(metrics).items() if "errors" in name}
    # A missing table is a programming error for PostgreSQL, an operational one for SQLite.
    other = "ProgrammingError" if engine.dialect.name == "postgresql" else "OperationalError"
    assert errors == {"errors_total IntegrityError": 1, f"errors_total {other}": 1}


def test_a_connection_that_the_server_has_ended_is_replaced(postgresql: str) -> None:
    engine, metrics = open_engine(postgresql), Metrics()
    count_database(engine, metrics)
    other = open_engine(postgresql)
    with reading(engine) as session:
        process = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    assert counted(metrics) == {"connections_total": 1}
    with writing(other) as session:
        session.execute(text("SELECT pg_terminate_backend(:p, 5000)"), {"p": process})
    with reading(engine) as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1
    engine.dispose()
    other.dispose()
    seen = counted(metrics)
    assert (seen["retries_total"], seen["connections_total"]) == (1, 2)
    assert sum(value for name, value in seen.items() if "errors" in name) == 1


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_database_that_does_not_answer_is_an_error(engine: Engine, metrics: Metrics) -> None:
    with writing(engine) as session:
        session.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))
    with pytest.raises(Unavailable), reading(engine) as session:
        session.execute(text("SELECT id FROM jobs"))
    assert counted(metrics)["errors_total OperationalError"] == 1


def test_a_server_that_is_away_is_an_error() -> None:
    engine, metrics = open_engine("postgresql+psycopg://opsin@127.0.0.1:9/none"), Metrics()
    count_database(engine, metrics)
    with pytest.raises(Unavailable), reading(engine) as session:
        session.execute(text("SELECT 1"))
    assert counted(metrics) == {"errors_total OperationalError": 1}
