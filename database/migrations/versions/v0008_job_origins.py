"""Which request made a job, for logs and traces."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    # An API of the previous release leaves it empty.
    op.add_column("jobs", sa.Column("origin", sa.JSON(none_as_null=True)))
