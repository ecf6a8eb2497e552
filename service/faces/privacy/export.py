"""Collects everything that is held on a person."""

import base64
from datetime import UTC, datetime

import structlog

from contracts.errors import NotFound, SubjectNotFound
from contracts.faces.devices import ExportedFrame, ExportedTemplate, SubjectExport
from contracts.faces.subjects import ErasedModel, FaceEvent, Template
from database.faces.face_events import FaceEvents
from database.faces.frames import Frames
from database.faces.privacy.exports import held_data
from database.faces.template_rows import Damaged
from models.faces import provenance
from service.dependencies import Services

log = structlog.get_logger()

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
    frames, damaged = _frames(faces.frames, subject_id, held.frames)
    trained = provenance.versions_trained_on(services.store, subject_id)
    return SubjectExport(
        exported_at=datetime.now(UTC),
        subject=subject,
        devices=faces.repositories.devices.list(subject_id),
        templates=[_template(embedder, template) for embedder, template in held.templates],
        frames=frames,
        unreadable=[*held.damaged, *damaged],
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


def _frames(
    frames: Frames, subject_id: str, held: list[tuple[str, datetime]]
) -> tuple[list[ExportedFrame], list[str]]:
    """The frames, and the ids of those that cannot be read."""
    exported, damaged = list[ExportedFrame](), list[str]()
    for file_id, created_at in held:
        try:
            frame = frames.get(subject_id, file_id)
        except SubjectNotFound:
            raise
        except NotFound:
            continue  # deleted in the meantime
        except Damaged as error:
            log.warning("frame_unreadable", subject=subject_id, frame=file_id, why=error.detail)
            damaged.append(file_id)
            continue
        exported.append(
            ExportedFrame(
                id=file_id,
                media_type=frame.media_type,
                content=base64.b64encode(frame.content).decode(),
                created_at=created_at,
            )
        )
    return exported, damaged


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
