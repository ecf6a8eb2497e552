"""Keeps a dataset until the job that uses it is stored."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from service.dependencies import Services
from service.threads import run_in_threadpool


@asynccontextmanager
async def dataset_kept(services: Services, dataset_id: str) -> AsyncIterator[None]:
    """Lock an existing dataset: a request that deletes it waits, and then finds the job.

    Raises:
        DatasetNotFound: There is no such dataset.
        QueueFull: Too many requests wait for locks already.
        LockHeldError: A change of it took too long.
    """
    lock = partial(services.datasets.store.lock, dataset_id)
    async with services.lock_waiting.hold(dataset_id, lock):
        await run_in_threadpool(services.datasets.rows.require, dataset_id)
        yield
