"""What an erasure deletes is found by an index, also what an earlier release writes beside it."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # Not by `->>`, which fails if there is a NUL in any text of the object.
        answer = """substring(CAST(body AS text), '"id": ?"([^"]*)"')"""
        person = """substring(CAST(request AS text), '"subject_id": ?"([^"]*)"')"""
    else:
        answer, person = "json_extract(body, '$.id')", "json_extract(request, '$.subject_id')"
    op.execute(f"CREATE INDEX idempotency_by_id ON idempotency ({answer})")
    op.execute(f"CREATE INDEX jobs_enrollments ON jobs ({person}) WHERE kind = 'enrollment'")
    unfinished = sa.text("outcome = 'erasing'")
    op.create_index(
        "face_events_unfinished",
        "face_events",
        ["id"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
