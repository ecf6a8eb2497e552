"""Which scopes a key needs to read a job."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # An API of the previous release leaves it empty; the scopes then follow from the request.
    op.add_column("jobs", sa.Column("scopes", sa.String(100)))
