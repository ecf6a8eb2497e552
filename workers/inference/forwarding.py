"""Sends Celery tasks from a worker: the next task of a queue, and tasks for another worker.

While a version is being promoted, workers load it one after the other, and all of them consume the
same Celery queue of the model. A worker that receives a task for a version that it has not loaded
reads the heartbeats and forwards the task.
"""

import redis
import structlog
from celery import Celery

from contracts.queue import redis_keys
from contracts.queue.heartbeat import read_heartbeats
from contracts.queue.redis_keys import QueueGroup, QueueName
from models.catalog import queue_of

log = structlog.get_logger()


class TaskForwarder:
    """Sends tasks to other workers, or to any worker.

    Args:
        app: Sends the tasks.
        client: A connection whose answers are bytes.
        worker_id: This worker, to which nothing is forwarded.
    """

    def __init__(self, app: Celery, client: "redis.Redis", worker_id: str) -> None:
        self._app = app
        self._client = client
        self._worker_id = worker_id

    def schedule(self, queue: QueueName, group: QueueGroup | None = None) -> None:
        """Send the next task of a queue, or of its group, to any worker of the model."""
        self._send_batch_task(queue, group, queue_of(queue.model))

    def forward_batch(self, queue: QueueName, group: QueueGroup | None = None) -> bool:
        """Send such a task to a worker that has loaded the version; False if none has."""
        worker = self._find_worker(queue.model, queue.version)
        if worker is None:
            return False
        self._send_batch_task(queue, group, redis_keys.own_queue(worker))
        log.info("task_forwarded", queue=queue.key, to=worker)
        return True

    def forward_job(self, job_id: str, model: str, version: int | None = None) -> bool:
        """Send a job to a worker that has loaded the version, or else any; False if none has."""
        worker = self._find_worker(model, version)
        if worker is None:
            return False
        self._app.send_task(
            redis_keys.TASK_RUN_JOB, args=[job_id, model], queue=redis_keys.own_queue(worker)
        )
        log.info("task_forwarded", job=job_id, to=worker)
        return True

    def _send_batch_task(
        self, queue: QueueName, group: QueueGroup | None, celery_queue: str
    ) -> None:
        args = redis_keys.batch_args(queue, group)
        # Without `expires`, which the worker would compare with its own host's clock.
        self._app.send_task(redis_keys.TASK_BATCH, args=args, queue=celery_queue)

    def _find_worker(self, model: str, version: int | None) -> str | None:
        for worker in read_heartbeats(self._client).workers:
            loaded = worker.loaded_versions(model)
            if worker.id != self._worker_id and loaded and (version is None or version in loaded):
                return worker.id
        return None
