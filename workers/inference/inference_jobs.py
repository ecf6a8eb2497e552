"""Jobs of inference: the same networks as the lanes, the result kept in the database.

The lease decides who may write: a worker that was lost and comes back finds its job taken over and
changes nothing any more.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import redis
import structlog

from contracts.errors import InternalError, ModelNotReady, OpsinError, Unavailable
from contracts.inference.inference import (
    InferenceResponse,
    ItemError,
    ItemResult,
    Operation,
    Timing,
)
from contracts.inference.manifest import CHAMPION
from contracts.jobs import LEASE_SECONDS, Progress
from contracts.queue import redis_keys
from contracts.queue.messages import Item, MalformedMessageError, Pixels, Vector, unbundled
from database.jobs.files import JobFiles
from database.jobs.leases import Lease, Leases
from models.serving.outputs import Outputs
from workers.inference.loaded_models import Held, Predictor

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobRunner:
    """Runs one job after the other.

    Attributes:
        leases: The workers' side of the table of jobs.
        client: Where the images of a job lie.
        files: Where they lie as well; a worker on a machine of its own may not see it.
        held: The versions in memory.
        worker_id: Under which jobs are taken.
        batch_limit: Most images in one batch; between two the job can be cancelled.
        give_way: Called before each batch: answers those who wait for theirs at once.
    """

    leases: Leases
    client: "redis.Redis"
    files: JobFiles
    held: Held
    worker_id: str
    batch_limit: int
    give_way: Callable[[], None]

    def __call__(self, job_id: str) -> None:
        """Take the job if it is free, and bring it to an end."""
        lease = self.leases.claim(job_id, self.worker_id, LEASE_SECONDS)
        if lease is None:
            return
        try:
            ended = self._end(lease)
        except ModelNotReady as error:
            ended = self.leases.fail(lease, error)  # trying again would not help
        except (Unavailable, redis.RedisError) as error:
            # Not the job's fault. Its lease runs out, and it is tried again.
            log.warning("job_interrupted", job=job_id, error=type(error).__name__)
            return
        except OpsinError as error:
            ended = self.leases.fail(lease, error)
        except Exception:
            log.exception("job_failed", job=job_id)
            ended = self.leases.fail(lease, InternalError("The network failed on these images."))
        if ended:
            # If Redis is away just now, they expire by themselves.
            with suppress(redis.RedisError):
                self.client.delete(redis_keys.job_input(job_id))
            self.files.end_work(job_id)

    def _end(self, lease: Lease) -> bool:
        """Whether it ended here; False if another worker has it now."""
        began = time.monotonic()
        predictor = self._predictor(lease)
        images = self._images(lease)
        vectors: list[Vector] = []
        for start in range(0, len(images), self.batch_limit):
            if self.leases.is_cancel_requested(lease.job_id):
                return self.leases.cancelled(lease)
            self.give_way()
            vectors.extend(_run(lease, predictor, images[start : start + self.batch_limit]))
            fraction = len(vectors) / len(images)
            progress = Progress(fraction=fraction, step=len(vectors), steps=len(images))
            held = self.leases.progress(lease, progress)
            if not (held and self.leases.heartbeat(lease, LEASE_SECONDS)):
                return False
        result = _result(lease, predictor, vectors, time.monotonic() - began, self.batch_limit)
        return self.leases.succeed(lease, result.model_dump(mode="json", exclude_none=True))

    def _images(self, lease: Lease) -> list[Pixels]:
        raws = cast(list[bytes], self.client.lrange(redis_keys.job_input(lease.job_id), 0, -1))
        wanted = sum(item["error"] is None for item in lease.request["items"])
        if len(raws) != wanted:
            raws = self._filed(lease.job_id)
        if len(raws) != wanted:
            raise InternalError("The images of this job were lost with Redis. Send them again.")
        return [Item.unpack(raw).pixels for raw in raws]

    def _filed(self, job_id: str) -> list[bytes]:
        """The images as the job's folder has them; none where it does not."""
        with suppress(OSError, MalformedMessageError):
            return unbundled((self.files.work(job_id) / redis_keys.JOB_INPUT).read_bytes())
        return []

    def _predictor(self, lease: Lease) -> Predictor:
        """The version the job was made for, or else what its alias stands on by now.

        Raises:
            ModelNotReady: Neither is held here, or the new one takes pictures of another size.
        """
        request = lease.request
        model, version, asked = request["model"], request["version"], request.get("asked")
        found = self.held.get(model, version)
        if found is None and not str(asked).isdecimal():
            found = self.held.standing(model, asked or CHAMPION)
            if found is not None and list(found.manifest.input_size) != request.get("input_size"):
                found = None
        if found is None:
            raise ModelNotReady(
                f"Version {version} of '{model}' was taken out of service before the job's turn "
                "came. Send the request again."
            )
        return found


def _run(lease: Lease, predictor: Predictor, images: Sequence[Pixels]) -> list[Vector]:
    return list(predictor.run(_operation(lease), np.stack(images)))


def _operation(lease: Lease) -> Operation:
    return "embed" if lease.kind == "embed" else "classify"


def _result(
    lease: Lease, predictor: Predictor, vectors: Sequence[Vector], seconds: float, batch_limit: int
) -> InferenceResponse:
    """The answer that the client would have got at once."""
    request = lease.request
    outputs = Outputs(_operation(lease), request["top_k"], predictor.labels)
    left = iter(vectors)
    milliseconds = round(seconds * 1000, 1)
    return InferenceResponse(
        model=request["model"],
        version=predictor.version,
        batch_size=min(len(vectors), batch_limit),
        results=[_item_result(item, outputs, left) for item in request["items"]],
        timing_ms=Timing(decode=0, queue=0, compute=milliseconds, total=milliseconds),
    )


def _item_result(item: dict[str, Any], outputs: Outputs, left: Any) -> ItemResult:
    if item["error"] is not None:
        return ItemResult(name=item["name"], error=ItemError.model_validate(item["error"]))
    output = outputs.of(next(left))
    return ItemResult(
        name=item["name"],
        width=item["width"],
        height=item["height"],
        predictions=output.predictions,
        embedding=output.embedding,
    )
