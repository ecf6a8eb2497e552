"""Faces: subjects, their sealed templates and pictures, the audit, what is in force."""

import sqlalchemy as sa
from alembic import op

from database.tables import UtcTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _subjects()
    _belongings()
    op.create_table(
        "face_events",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject_id", sa.String(64)),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(64)),
        sa.Column("device", sa.String(64)),
        sa.Column("digest", sa.String(64)),
        sa.Column("request_id", sa.String(128)),
    )
    op.create_index("ix_face_events_at", "face_events", ["at"])
    op.create_index("ix_face_events_subject_id", "face_events", ["subject_id"])
    op.create_table(
        "face_settings",
        sa.Column("key", sa.String(40), primary_key=True),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
    )
    gallery = op.create_table(
        "face_gallery",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(gallery, [{"id": 1, "revision": 0}])


def _subjects() -> None:
    op.create_table(
        "subjects",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("external_id", sa.String(200), unique=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("keep_frames", sa.Boolean(), nullable=False),
        sa.Column("data_key", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
    )
    op.create_index("subjects_newest", "subjects", ["created_at", "id"])
    op.create_index("subjects_by_revision", "subjects", ["revision"])
    op.create_index("ix_subjects_key_id", "subjects", ["key_id"])


def _belongings() -> None:
    op.create_table(
        "face_files",
        sa.Column("id", sa.String(64), primary_key=True),
        _subject(),
        sa.Column("media_type", sa.String(100), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
    )
    op.create_index("ix_face_files_subject_id", "face_files", ["subject_id"])
    op.create_table(
        "face_templates",
        sa.Column("id", sa.String(64), primary_key=True),
        _subject(),
        sa.Column("embedder", sa.String(80), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("quality", sa.JSON(), nullable=False),
        sa.Column("file_id", sa.String(64), sa.ForeignKey("face_files.id", ondelete="SET NULL")),
        sa.Column("created_at", UtcTime(), nullable=False),
    )
    op.create_index("ix_face_templates_subject_id", "face_templates", ["subject_id"])
    op.create_index("ix_face_templates_file_id", "face_templates", ["file_id"])
    op.create_index("face_templates_by_embedder", "face_templates", ["embedder", "subject_id"])


def _subject() -> sa.Column[str]:
    subject = sa.ForeignKey("subjects.id", ondelete="CASCADE")
    return sa.Column("subject_id", sa.String(64), subject, nullable=False)
