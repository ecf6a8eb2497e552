"""Recomputes templates of an earlier embedder from stored frames, a few at a time.

It runs in each API process and uses the same queue as the requests, one frame at a time and with
pauses. Where a consent is required, people without one that is in force are left out. If two
processes recompute the same template, the second changes nothing that matters.
"""

import time

import structlog

from contracts.errors import InternalError, NotFound, OpsinError, SubjectNotFound, ValidationFailed
from contracts.faces.faces import FacesRequest
from database.faces.template_rows import Unreadable
from database.faces.templates import StaleTemplate
from service.dependencies import Services
from service.faces.detection import current_embedder, detect_faces, main_face_index
from service.http.deadlines import Deadline
from service.threads import run_in_threadpool

log = structlog.get_logger()

_TEMPLATES_PER_RUN = 8
_SECONDS = 30.0  # for each template


class Reembedding:
    """Recomputes stale templates."""

    def __init__(self, services: Services) -> None:
        self._services = services
        # Ids of frames that are lost, cannot be decrypted, make a worker fail, or in which the
        # current models find no face. Otherwise the first of them would keep all others waiting.
        self._unusable: set[str] = set()

    async def run_once(self) -> None:
        """Recompute a few templates; without a worker, do nothing."""
        try:
            await self._run()
        except OpsinError as error:
            log.debug("templates_wait", why=error.code)

    async def _run(self) -> None:
        _, embedder = current_embedder(self._services)
        limit = _TEMPLATES_PER_RUN + len(self._unusable)
        faces = self._services.faces
        policy = await run_in_threadpool(faces.repositories.policy.get)
        templates = await run_in_threadpool(
            faces.templates.stale, embedder=embedder, limit=limit, policy=policy
        )
        waiting = [template for template in templates if template.file_id not in self._unusable]
        for template in waiting[:_TEMPLATES_PER_RUN]:
            try:
                await self._recompute(template)
            except SubjectNotFound:
                continue  # erased in the meantime
            except (NotFound, ValidationFailed, Unreadable, InternalError) as error:
                self._unusable.add(template.file_id)
                log.warning("template_not_renewed", subject=template.subject_id, why=error.code)

    async def _recompute(self, template: StaleTemplate) -> None:
        faces = self._services.faces
        frame = await run_in_threadpool(faces.frames.get, template.subject_id, template.file_id)
        deadline = Deadline(time.monotonic() + _SECONDS, int(_SECONDS * 1000))
        request = FacesRequest(embed=True, max_faces=2)
        (detection,) = await detect_faces(self._services, [frame.content], request, deadline)
        index = main_face_index(detection)
        await run_in_threadpool(
            faces.templates.update,
            template,
            detection.vectors[index],
            detection.faces[index].quality,
            embedder=detection.embedder,
        )
