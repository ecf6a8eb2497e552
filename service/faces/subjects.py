"""Subjects added, and told with the templates that count now."""

import hashlib
import re
from typing import Any

from fastapi.concurrency import run_in_threadpool

from contracts.errors import OpsinError, SubjectNotFound
from contracts.faces.faces import FACE_MODEL
from contracts.faces.subjects import SUBJECT_ID, NewSubject, embedder_of
from contracts.inference.manifest import CHAMPION
from database.faces.erasures import SCOPE
from database.faces.faces import Faces
from database.idempotency import IdempotencyKey
from models.store.store import Store
from service.dependencies import Services
from service.faces.detection import current_embedder


def create(kept: Faces, new: NewSubject, key: str | None) -> dict[str, Any]:
    """Add a subject, or answer as the first request with that key was answered.

    Returns:
        A `Subject` as JSON.

    Raises:
        SubjectExists: Another has that external id.
        IdempotencyConflict: The key was used for another request.
    """
    if key is None:
        return kept.subjects.create(new)
    body = hashlib.sha256(new.model_dump_json().encode()).digest()
    return kept.subjects.create(new, asked=IdempotencyKey(key, SCOPE, kept.digests.of(body)))


async def require_subject(services: Services, subject_id: str) -> None:
    """Refuse what is to be done with a subject that is not there.

    Raises:
        SubjectNotFound: There is none of that id.
    """
    if not re.match(SUBJECT_ID, subject_id):
        raise SubjectNotFound("There is no subject of that id.")
    await run_in_threadpool(services.faces.kept.subjects.get, subject_id)


async def embedder_in_force(services: Services) -> str | None:
    """The embedder whose templates count: what answers now, or else what would.

    None where nobody can tell; then all templates count.
    """
    try:
        return current_embedder(services)[1]
    except OpsinError:
        return await run_in_threadpool(_champion, services.store)


def _champion(store: Store) -> str | None:
    version = store.aliases(FACE_MODEL).get(CHAMPION)
    return None if version is None else embedder_of(version)
