"""A person erased: the record and all it opens, and what was learned of it."""

from fastapi.concurrency import run_in_threadpool

from contracts.errors import Conflict, JobNotFound
from contracts.subjects import Erased, ErasedModel
from models.faces import learned
from service.services import Services


async def erase(services: Services, subject_id: str) -> Erased:
    """Remove a subject, every trace of it, and every model version that was trained on it.

    The rows go first: a training that ends meanwhile looks for them after it has published, and
    takes its version back.

    Raises:
        SubjectNotFound: There is none of that id.
        Unavailable: The database does not answer; nothing was removed.
    """
    told = await services.faces.erase(subject_id)
    await run_in_threadpool(_stop_learning, services, subject_id)
    gone = await run_in_threadpool(learned.erase, services.store, subject_id)
    models = [ErasedModel(model=one.model, version=one.version) for one in gone]
    return Erased(erased=told.erased.model_copy(update={"models": models}))


def _stop_learning(services: Services, subject_id: str) -> None:
    for job_id in services.jobs.learning_from(subject_id):
        try:
            services.jobs.cancel(job_id)
        except (JobNotFound, Conflict):
            continue  # it has ended by itself
