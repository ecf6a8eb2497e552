"""Consent, last use, failures and devices of subjects.

A subject from before counts as used now, so that a retention period never ends in the past.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from database.tables import UtcTime

revision = "0006"
down_revision = "0005"

_PERSONAL = {
    "subjects": {"name": "varchar(200)", "external_id": "varchar(200)", "data_key": "bytea"},
    "idempotency": {"key": "varchar(255)"},
}


def upgrade() -> None:
    op.add_column("subjects", sa.Column("consent", sa.JSON(none_as_null=True)))
    op.add_column("subjects", sa.Column("last_used_at", UtcTime()))
    op.add_column(
        "subjects", sa.Column("failures", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column("subjects", sa.Column("face_disabled_at", UtcTime()))
    op.create_index("ix_subjects_last_used_at", "subjects", ["last_used_at"])
    subjects = sa.table("subjects", sa.column("last_used_at", UtcTime()))
    op.execute(subjects.update().values(last_used_at=datetime.now(UTC)))
    op.create_table(
        "face_devices",
        sa.Column(
            "subject_id",
            sa.String(64),
            sa.ForeignKey("subjects.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("device_id", sa.String(128), primary_key=True),
        sa.Column("public_key", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("last_used_at", UtcTime()),
    )
    if op.get_context().dialect.name == "postgresql":
        # Its statistics contain values of the rows, and an erasure would not delete them.
        for table, columns in _PERSONAL.items():
            for column, kind in columns.items():
                op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")
                # Setting the type, even the same one, drops what was collected so far.
                op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}")
