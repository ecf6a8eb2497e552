"""The tables. The migrations in `database.migrations.versions` create the same; a test compares."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from database.json_text import JsonText


class UtcTime(TypeDecorator[datetime]):
    """A point in time, aware in Python and stored in UTC with microseconds, so that it sorts.

    SQLite has no time zones: the zone is removed when writing and restored when reading.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002  named so by SQLAlchemy
    ) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Record(DeclarativeBase):
    """The base of all tables: how Python types are stored."""

    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads it so
        datetime: UtcTime(),
        dict[str, Any]: JSON(none_as_null=True),
    }


class JobRecord(Record):
    """One long task, see `contracts.jobs.Job`."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_newest", "created_at", "id"),
        Index("jobs_by_state", "state", "finished_at"),
        Index("jobs_by_queue", "queue", "state", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(16))
    queue: Mapped[str | None] = mapped_column(String(40))  # None: runs on inference workers
    request: Mapped[dict[str, Any]]
    client: Mapped[str | None] = mapped_column(String(64))  # who sent it, see `quota_key`
    scopes: Mapped[str | None] = mapped_column(String(100))  # to read it; separated by commas
    origin: Mapped[dict[str, Any] | None]  # the request, see `contracts.tracing.origin`
    input_digest: Mapped[str | None] = mapped_column(String(64))  # sha256 of the input, hex
    attempt: Mapped[int] = mapped_column(default=0)
    stalled: Mapped[int] = mapped_column(default=0)  # attempts since the last progress
    furthest: Mapped[int] = mapped_column(default=0)  # the largest fraction so far, in millionths
    # Number of metrics and artifacts written, including replaced ones.
    sequence: Mapped[int] = mapped_column("told", default=0)
    progress: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    worker_id: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    sent_at: Mapped[datetime]  # when its Celery task was last sent
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


_ENROLLMENT = text("kind = 'enrollment'")
Index(
    "jobs_enrollments",
    JsonText(JobRecord.request, "subject_id"),
    sqlite_where=_ENROLLMENT,
    postgresql_where=_ENROLLMENT,
)


class MetricRecord(Record):
    """One row of a job's metrics, e.g. an epoch's."""

    __tablename__ = "job_metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(120), primary_key=True)  # of epoch and phase
    place: Mapped[int]  # among the rows, from 1
    sequence: Mapped[int] = mapped_column("told")  # `JobRecord.sequence` when it was written
    row: Mapped[dict[str, Any]]


class ArtifactRecord(Record):
    """One file that a job made; `database.jobs.files` stores the file itself."""

    __tablename__ = "job_artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    media_type: Mapped[str] = mapped_column(String(100))
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    place: Mapped[int]
    sequence: Mapped[int] = mapped_column("told")


class AnswerRecord(Record):
    """The response to the first request with an Idempotency-Key."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("idempotency_age", "created_at"),)

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    scope: Mapped[str] = mapped_column(String(255), primary_key=True)  # what was requested
    digest: Mapped[str] = mapped_column(String(64))  # sha256 of the body, hex
    status: Mapped[int]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


Index("idempotency_by_id", JsonText(AnswerRecord.body, "id"))


class DatasetRecord(Record):
    """One dataset, see `contracts.training.datasets.DatasetInfo`."""

    __tablename__ = "data_sets"
    __table_args__ = (Index("data_sets_newest", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    revision: Mapped[int]
    info: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class DatasetFileRecord(Record):
    """One file that was sent for a dataset, see `contracts.training.datasets.DatasetFile`."""

    __tablename__ = "data_set_files"
    __table_args__ = (
        Index("data_set_files_by_label", "data_set_id", "label", "place"),
        Index("data_set_files_by_status", "data_set_id", "status", "place"),
    )

    dataset_id: Mapped[str] = mapped_column(
        "data_set_id", ForeignKey("data_sets.id", ondelete="CASCADE"), primary_key=True
    )
    place: Mapped[int] = mapped_column(primary_key=True)  # index in the listing, from 0
    file_id: Mapped[str] = mapped_column(String(64), index=True)
    label: Mapped[str | None] = mapped_column(String(128))
    status: Mapped[str] = mapped_column(String(16))
    file: Mapped[dict[str, Any]]


class InstallationRecord(Record):
    """The id that this database shares with its home, see `database.installation`; one row."""

    __tablename__ = "installation"

    only: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(String(40))


class KeyRecord(Record):
    """One API key, see `contracts.keys.KeyInfo`. A revoked one stays, for the audit log."""

    __tablename__ = "api_keys"

    place: Mapped[int] = mapped_column(primary_key=True)  # order of creation
    id: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64))  # sha256 of the whole key, hex
    scopes: Mapped[str] = mapped_column(String(100))  # separated by commas
    rate_per_minute: Mapped[int | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class KeyRevisionRecord(Record):
    """One row: the number of changes of the keys, by which caches notice a change."""

    __tablename__ = "api_key_revision"

    only: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # always 1
    number: Mapped[int]


class AuditRecord(Record):
    """One line of the audit log, see `contracts.audit.AuditEntry`."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_age", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(300))
    request_id: Mapped[str | None] = mapped_column(String(128))


class SubjectRecord(Record):
    """A person who can be recognized, see `contracts.faces.subjects.Subject`."""

    __tablename__ = "subjects"
    __table_args__ = (
        Index("subjects_newest", "created_at", "id"),
        Index("subjects_by_revision", "revision"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    external_id: Mapped[str | None] = mapped_column(String(200), unique=True)
    details: Mapped[dict[str, Any]] = mapped_column("metadata")
    keep_frames: Mapped[bool]
    data_key: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted with the key `key_id`
    key_id: Mapped[str] = mapped_column(String(32), index=True)
    revision: Mapped[int] = mapped_column(
        BigInteger
    )  # the gallery's revision when its templates last changed
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    consent: Mapped[dict[str, Any] | None]
    last_used_at: Mapped[datetime | None] = mapped_column(index=True)
    failures: Mapped[int] = mapped_column(server_default="0")  # since the last match
    face_disabled_at: Mapped[datetime | None]


class FaceDeviceRecord(Record):
    """A device that a subject logs in with, by its public key."""

    __tablename__ = "face_devices"

    subject_id: Mapped[str] = mapped_column(
        ForeignKey("subjects.id", ondelete="CASCADE"), primary_key=True
    )
    device_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    public_key: Mapped[dict[str, Any]]  # JWK
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]


class FaceFileRecord(Record):
    """A stored image of a subject; `database.faces.face_files` holds the encrypted file."""

    __tablename__ = "face_files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    subject_id: Mapped[str] = mapped_column(
        ForeignKey("subjects.id", ondelete="CASCADE"), index=True
    )
    media_type: Mapped[str] = mapped_column(String(100))
    size: Mapped[int] = mapped_column(BigInteger)  # bytes, unencrypted
    created_at: Mapped[datetime]


class FaceTemplateRecord(Record):
    """An embedding of a subject's face, encrypted with the subject's own key."""

    __tablename__ = "face_templates"
    __table_args__ = (Index("face_templates_by_embedder", "embedder", "subject_id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    subject_id: Mapped[str] = mapped_column(
        ForeignKey("subjects.id", ondelete="CASCADE"), index=True
    )
    embedder: Mapped[str] = mapped_column(
        String(80)
    )  # what computed it; only templates of one embedder are comparable
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    source: Mapped[str] = mapped_column(String(16))
    quality: Mapped[dict[str, Any]]
    file_id: Mapped[str | None] = mapped_column(
        ForeignKey("face_files.id", ondelete="SET NULL"), index=True
    )
    created_at: Mapped[datetime]


_UNFINISHED = text("outcome = 'erasing'")


class FaceEventRecord(Record):
    """A request about faces and its outcome: no image, no vector, no name."""

    __tablename__ = "face_events"
    __table_args__ = (
        Index(
            "face_events_unfinished",
            "id",
            sqlite_where=_UNFINISHED,
            postgresql_where=_UNFINISHED,
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[str | None] = mapped_column(String(64), index=True)
    outcome: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str | None] = mapped_column(String(64))
    device: Mapped[str | None] = mapped_column(String(64))  # keyed digest, hex
    digest: Mapped[str | None] = mapped_column(String(64))  # keyed digest of the upload, hex
    request_id: Mapped[str | None] = mapped_column(String(128))


TOKEN_KEYS, DIGEST_KEY = "token_keys", "digest_key"
"""The settings of faces that are encrypted by a master key."""


class FaceSettingRecord(Record):
    """A setting for all faces, such as the active threshold."""

    __tablename__ = "face_settings"

    key: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]


class FaceGalleryRecord(Record):
    """One row: a number that every change of templates increments in the same transaction."""

    __tablename__ = "face_gallery"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)
