"""Collects everything that is held on a person."""

import base64
from datetime import UTC, datetime

from contracts.faces.devices import ExportedFrame, ExportedTemplate, SubjectExport
from contracts.faces.subjects import ErasedModel, FaceEvent, Template
from database.faces.face_events import FaceEvents
from database.faces.frames import Frames
from database.faces.privacy.exports import held_data
from models.faces import provenance
from service.dependencies import Services

_EVENTS_PER_PAGE = 200
_MAX_PAGES = 500


def export(services: Services, subject_id: str, embedder: str | None) -> SubjectExport:
    """Collect a person's data; blocks.

    Raises:
        SubjectNotFound: There is no such subject.
        Unavailable: The database does not answer, or a key is missing.
    """
    faces = services.faces
    subject = faces.subjects.get(subject_id, embedder=embedder)
    held = held_data(faces.engine, faces.repositories.cipher, subject_id)
    trained = provenance.versions_trained_on(services.store, subject_id)
    return SubjectExport(
        exported_at=datetime.now(UTC),
        subject=subject,
        devices=faces.repositories.devices.list(subject_id),
        templates=[_template(embedder, template) for embedder, template in held.templates],
        frames=[_frame(faces.frames, subject_id, *frame) for frame in held.frames],
        jobs=held.jobs,
        events=_events(faces.events, subject_id),
        models=[ErasedModel(model=one.model, version=one.version) for one in trained],
    )


def _template(embedder: str, template: Template) -> ExportedTemplate:
    return ExportedTemplate(
        id=template.id,
        embedder=embedder,
        source=template.source,
        quality=template.quality,
        vector=base64.b64encode(template.vector.astype("<f4").tobytes()).decode(),
        frame_id=template.file_id,
        created_at=template.created_at,
    )


def _frame(frames: Frames, subject_id: str, file_id: str, created_at: datetime) -> ExportedFrame:
    frame = frames.get(subject_id, file_id)
    return ExportedFrame(
        id=file_id,
        media_type=frame.media_type,
        content=base64.b64encode(frame.content).decode(),
        created_at=created_at,
    )


def _events(log: FaceEvents, subject_id: str) -> list[FaceEvent]:
    events: list[FaceEvent] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = log.list(subject_id=subject_id, limit=_EVENTS_PER_PAGE, cursor=cursor)
        events += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    return events
