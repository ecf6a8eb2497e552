"""Jobs that run in a process of their own: their queue, how far they got, metrics and files."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("queue", sa.String(40)))
    for name in ("stalled", "furthest", "told"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    # Until now every attempt counted.
    op.execute("UPDATE jobs SET stalled = attempt")
    op.create_index("jobs_by_queue", "jobs", ["queue", "state", "created_at"])
    op.create_table(
        "job_metrics",
        _job_id(),
        sa.Column("key", sa.String(120), primary_key=True),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("row", sa.JSON(), nullable=False),
    )
    op.create_table(
        "job_artifacts",
        _job_id(),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("media_type", sa.String(100), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
    )


def _job_id() -> sa.Column[str]:
    job = sa.ForeignKey("jobs.id", ondelete="CASCADE")
    return sa.Column("job_id", sa.String(40), job, primary_key=True)


def downgrade() -> None:
    op.drop_table("job_artifacts")
    op.drop_table("job_metrics")
    op.drop_index("jobs_by_queue", "jobs")
    for name in ("told", "furthest", "stalled", "queue"):
        op.drop_column("jobs", name)
