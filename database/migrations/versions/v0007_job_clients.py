"""Whose job it is, so that one client cannot take all places."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # An API of the previous release leaves it empty; such jobs count in the total only.
    op.add_column("jobs", sa.Column("client", sa.String(64)))
