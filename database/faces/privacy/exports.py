"""What tables hold about one subject, for a copy of all of it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, select

from contracts.faces.subjects import Template
from contracts.jobs import Job
from database.crypto.envelope import EnvelopeCipher
from database.engine import reading
from database.faces.template_rows import Damaged, data_key_of, find_subject, template_of
from database.jobs.queries import enrollments_of, jobs_of
from database.tables import FaceFileRecord, FaceTemplateRecord, JobRecord


@dataclass(frozen=True, slots=True)
class HeldData:
    """What is held besides the record, the devices and the audit.

    Attributes:
        templates: Of all embedders, each with its embedder, oldest first.
        damaged: Ids of those that cannot be read.
        frames: Ids of the stored frames and when they were stored.
        jobs: The enrollments that are still recorded, oldest first.
    """

    templates: list[tuple[str, Template]]
    damaged: list[str]
    frames: list[tuple[str, datetime]]
    jobs: list[Job]


def held_data(engine: Engine, cipher: EnvelopeCipher, subject_id: str) -> HeldData:
    """Collect it.

    Raises:
        SubjectNotFound: There is no such subject.
        Unavailable: The database does not answer, or the subject's key is missing.
    """
    template, file, job = FaceTemplateRecord, FaceFileRecord, JobRecord
    with reading(engine) as session:
        subject = find_subject(session, subject_id)
        templates = session.scalars(
            select(template)
            .where(template.subject_id == subject_id)
            .order_by(template.created_at, template.id)
        ).all()
        frames = session.execute(
            select(file.id, file.created_at)
            .where(file.subject_id == subject_id)
            .order_by(file.created_at, file.id)
        ).all()
        records = session.scalars(
            select(job).where(enrollments_of([subject_id])).order_by(job.created_at)
        ).all()
        jobs = jobs_of(session, records)
    key = data_key_of(cipher, subject)
    decrypted, damaged = list[tuple[str, Template]](), list[str]()
    for row in templates:
        try:
            decrypted.append((row.embedder, template_of(row, key)))
        except Damaged:
            damaged.append(row.id)
    return HeldData(decrypted, damaged, [(file_id, at) for file_id, at in frames], jobs)
