"""A person erased: the record and all it opens, and what was learned of it.

Whatever fails on the way, nothing is lost sight of: the erasure stays marked in the database until
all is gone, a second request goes on with it, and so does `resume`, round by round.
"""

from datetime import timedelta

import structlog
from fastapi.concurrency import run_in_threadpool

from contracts.errors import Conflict, JobNotFound, OpsinError
from contracts.faces.subjects import Erased, ErasedModel
from models.faces import provenance
from models.faces.provenance import Learned
from service.dependencies import Services

log = structlog.get_logger()

_AGAIN = timedelta(hours=1)  # longer than any deadline, and than a training needs to be stopped


async def erase(services: Services, subject_id: str) -> Erased:
    """Remove a subject, every trace of it, and every model version that was trained on it.

    The versions go before the record, by which alone they are known to be somebody's, and those
    once more that a training published meanwhile: one that ends later finds no record, and takes
    its version back.

    Raises:
        SubjectNotFound: There is none of that id, and nothing is left to do.
        Unavailable: The database does not answer. The same request again goes on.
    """
    desk = services.faces
    await run_in_threadpool(desk.kept.erasures.require, subject_id)
    gone = await run_in_threadpool(_unlearn, services, subject_id)
    told = await desk.erase(subject_id)
    gone += await run_in_threadpool(_unlearn, services, subject_id)
    await desk.finish([subject_id])
    models = [ErasedModel(model=one.model, version=one.version) for one in gone]
    return Erased(erased=told.erased.model_copy(update={"models": models}))


async def resume(services: Services) -> None:
    """Go on with erasures that are unfinished, and do those of the last hour once more.

    Who was at work for a subject while it was erased, such as an upload that was still on its way,
    may have written of it after.

    Raises:
        Unavailable: The database does not answer.
    """
    desk = services.faces
    erased = await run_in_threadpool(_unlearn_orphans, services)
    pending = await run_in_threadpool(desk.kept.erasures.pending, _AGAIN)
    done = []
    for subject_id in pending:
        try:
            await desk.erase_traces(subject_id)
            await run_in_threadpool(_stop_learning, services, subject_id)
        except (OpsinError, OSError) as error:
            log.warning("erasure_unfinished", subject=subject_id, error=type(error).__name__)
        else:
            done.append(subject_id)
    if done and erased:
        await run_in_threadpool(desk.scrub)
        await desk.finish(done)


def _unlearn_orphans(services: Services) -> bool:
    """Remove the versions whose people were erased; whether all of them are gone."""
    everybody = provenance.subjects_of(services.store)
    try:
        for subject_id in services.faces.kept.erasures.of(everybody):
            _unlearn(services, subject_id)
    except (OpsinError, OSError) as error:
        log.warning("erasure_unfinished", where="versions", error=type(error).__name__)
        return False
    return True


def _unlearn(services: Services, subject_id: str) -> list[Learned]:
    _stop_learning(services, subject_id)
    return provenance.erase(services.store, subject_id)


def _stop_learning(services: Services, subject_id: str) -> None:
    for job_id in services.jobs.learning_from(subject_id):
        try:
            services.jobs.cancel(job_id)
        except (JobNotFound, Conflict):
            continue  # it has ended by itself
