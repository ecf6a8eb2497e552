"""How much long work waits and runs, by queue."""

from fastapi.concurrency import run_in_threadpool

from contracts.errors import Unavailable
from contracts.names import FACE_QUEUE, PICTURE_QUEUE, TRAINING_QUEUE
from contracts.registry import JobQueueInfo
from service.services import Services


async def job_queues_of(services: Services) -> list[JobQueueInfo] | None:
    """Every queue of long jobs, empty ones too; None while the database does not answer."""
    try:
        depths = await run_in_threadpool(services.jobs.depths)
    except Unavailable:
        return None
    return [
        JobQueueInfo(
            name=name, queued=depths.get(name, (0, 0))[0], running=depths.get(name, (0, 0))[1]
        )
        for name in (TRAINING_QUEUE, PICTURE_QUEUE, FACE_QUEUE)
    ]
