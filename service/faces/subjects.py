"""Creates and looks up subjects, and finds the embedder whose templates are current."""

import hashlib
import re
from typing import Any

from contracts.errors import OpsinError, SubjectNotFound
from contracts.faces.faces import FACE_MODEL
from contracts.faces.subjects import SUBJECT_ID, NewSubject, embedder_of
from contracts.inference.manifest import CHAMPION
from database.faces.privacy.erasures import SCOPE
from database.idempotency import IdempotencyKey
from models.store.store import Store
from service.dependencies import Services
from service.faces.context import FaceServices
from service.faces.detection import current_embedder
from service.threads import run_in_threadpool


def create(faces: FaceServices, new: NewSubject, key: str | None) -> dict[str, Any]:
    """Add a subject; with an idempotency key that was used before, return the first response.

    Returns:
        A `Subject` as JSON.

    Raises:
        SubjectExists: Another subject has that external id.
        IdempotencyConflict: The key was used for a different request.
    """
    if key is None:
        return faces.subjects.create(new)
    # Without fields that the release before did not know, unless they are sent: a request may be
    # repeated at an API process of that release.
    unsent = {"consent"} if new.consent is None else set()
    body_hash = hashlib.sha256(new.model_dump_json(exclude=unsent).encode()).digest()
    digest = faces.keyed_hash.hexdigest(body_hash)
    return faces.subjects.create(new, key=IdempotencyKey(key, SCOPE, digest))


async def require_subject(services: Services, subject_id: str) -> None:
    """Check that a subject exists.

    Raises:
        SubjectNotFound: There is no such subject.
    """
    if not re.match(SUBJECT_ID, subject_id):
        raise SubjectNotFound("There is no subject with that id.")
    await run_in_threadpool(services.faces.subjects.get, subject_id)


async def embedder_in_force(services: Services) -> str | None:
    """The embedder whose templates are current: the one being served, otherwise the champion.

    None if it is unknown; then all templates count as current.
    """
    try:
        return current_embedder(services)[1]
    except OpsinError:
        return await run_in_threadpool(_champion, services.store)


def _champion(store: Store) -> str | None:
    version = store.aliases(FACE_MODEL).get(CHAMPION)
    return None if version is None else embedder_of(version)
