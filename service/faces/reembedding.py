"""Templates of an earlier embedder, made anew from the frames that were kept, a few at a time.

It runs beside the requests of each API process, through the same lane as theirs and behind them:
one frame, then a pause. Two processes may do the same one; the second changes nothing that matters.
"""

import time

import structlog
from fastapi.concurrency import run_in_threadpool

from contracts.errors import NotFound, OpsinError, SubjectNotFound, ValidationFailed
from contracts.faces.faces import FacesAsk
from database.faces.template_rows import Unreadable
from database.faces.templates import Stale
from service.dependencies import Services
from service.faces.detection import current_embedder, find, the_face
from service.http.deadlines import Deadline

log = structlog.get_logger()

_A_ROUND = 8
_SECONDS = 30.0


class Renewal:
    """Renews.

    Args:
        services: What does the work.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        # Frames that cannot be opened, or in which the present models find no face.
        self._hopeless: set[str] = set()

    async def renew(self) -> None:
        """One round.

        Raises:
            OpsinError: No worker answers, or the database does not.
        """
        _, embedder = current_embedder(self._services)
        kept = self._services.faces.kept
        most = _A_ROUND + len(self._hopeless)
        found = await run_in_threadpool(kept.templates.stale, embedder=embedder, most=most)
        waiting = [one for one in found if one.file_id not in self._hopeless]
        for stale in waiting[:_A_ROUND]:
            try:
                await self._renew(stale)
            except (NotFound, SubjectNotFound):
                continue  # erased meanwhile
            except (ValidationFailed, Unreadable) as error:
                self._hopeless.add(stale.file_id)
                log.warning("template_not_renewed", subject=stale.subject_id, why=error.code)

    async def _renew(self, stale: Stale) -> None:
        services = self._services
        frame = await run_in_threadpool(
            services.faces.kept.frames.get, stale.subject_id, stale.file_id
        )
        deadline = Deadline(time.monotonic() + _SECONDS, int(_SECONDS * 1000))
        (found,) = await find(services, [frame.content], FacesAsk(embed=True, most=2), deadline)
        at = the_face(found)
        await run_in_threadpool(
            services.faces.kept.templates.renew,
            stale,
            found.vectors[at],
            found.faces[at].quality,
            embedder=found.embedder,
        )


async def renew_if_possible(renewal: Renewal) -> None:
    """One round; without a worker there is none, which is no fault."""
    try:
        await renewal.renew()
    except OpsinError as error:
        log.debug("templates_wait", why=error.code)
