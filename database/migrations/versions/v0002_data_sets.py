"""Data sets and the files that were sent for them."""

import sqlalchemy as sa
from alembic import op

from database.tables import UtcTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "data_sets",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("info", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
    )
    op.create_index("data_sets_newest", "data_sets", ["created_at", "id"])
    op.create_table(
        "data_set_files",
        sa.Column(
            "data_set_id",
            sa.String(64),
            sa.ForeignKey("data_sets.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("place", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("label", sa.String(128)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("file", sa.JSON(), nullable=False),
    )
    op.create_index("ix_data_set_files_file_id", "data_set_files", ["file_id"])
    op.create_index("data_set_files_by_label", "data_set_files", ["data_set_id", "label", "place"])
    op.create_index(
        "data_set_files_by_status", "data_set_files", ["data_set_id", "status", "place"]
    )
