"""Inference jobs: images run through the same networks as the queues, results kept in the database.

The lease decides who may write: a worker that was lost and comes back finds that its job was taken
over, and changes nothing any more.

Clients that wait need no database, so they must not wait for a job that does: its calls run in a
thread of their own, and until they end, this one answers the clients.
"""

import contextvars
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np
import redis
import structlog

from contracts.errors import (
    DiskUnusable,
    InternalError,
    ModelNotReady,
    NeedsOperator,
    OpsinError,
    Unavailable,
)
from contracts.failures import is_out_of_memory
from contracts.files import has_room
from contracts.inference.inference import (
    InferenceResponse,
    ItemError,
    ItemResult,
    Operation,
    Timing,
    VectorOperation,
)
from contracts.inference.manifest import CHAMPION
from contracts.jobs import LEASE_SECONDS, Progress
from contracts.metrics.registry import Metrics
from contracts.queue import redis_keys
from contracts.queue.messages import Item, MalformedMessageError, Pixels, Vector, unpack_bundle
from contracts.tracing.spans import span
from database.installation import home_id
from database.jobs.files import JobFiles
from database.jobs.leases import Lease, Leases, UnclaimedJob
from models.faces.provenance import recognizes_people
from models.images.resize import preparation
from models.serving.outputs import OutputReader
from models.store.aliases import DamagedAliasesError
from workers.inference.batch_runner import OutOfMemoryError
from workers.inference.loaded_models import LoadedModels, Predictor
from workers.jobs.consents import Consents
from workers.jobs.tracing import job_context

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

_LARGE_RESULT = 256 * 1024  # bytes; less than that hardly matters
_LOOK_SECONDS = 0.02  # a call of the database usually takes less


class FasterQueues(Protocol):
    """Answers the queues that clients wait for; `Batcher` is the implementation."""

    def run_faster_queues(self, than: Operation = "explain") -> None: ...

    def end_without_memory(self) -> None: ...


class NamedVersions(Protocol):
    """Says which versions aliases point to; `Store` is the implementation."""

    def aliases(self, model: str) -> dict[str, int]: ...


class ForwardJob(Protocol):
    """Sends jobs to other workers; `TaskForwarder` is the implementation."""

    def forward_job(self, job_id: str, model: str, version: int | None = None) -> bool: ...


@dataclass(frozen=True, slots=True)
class InferenceJobRunner:
    """Runs one job after the other.

    Attributes:
        leases: The workers' side of the job table.
        files: Holds the images of the jobs.
        models: The versions in memory.
        worker_id: The owner of the leases.
        batch_limit: The largest batch of any model; a job can be cancelled between two batches.
        batcher: Answers waiting clients before each batch, and while the database is waited for.
        consents: Of those whom the versions were trained on.
        store: Says which versions are still to be loaded.
        forwarder: Sends a job to the worker that has loaded its version.
        metrics: Count the batches and their images.
        kept_bytes: Of the home's disk, which large results leave free for other work.
    """

    leases: Leases
    files: JobFiles
    models: LoadedModels
    worker_id: str
    batch_limit: int
    batcher: FasterQueues
    consents: Consents
    store: NamedVersions
    forwarder: ForwardJob
    metrics: Metrics = field(default_factory=Metrics)
    kept_bytes: int = 0
    _thread: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, "job-database"), init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Start the thread now, when there is memory for it."""
        self._thread.submit(int).result()

    def run(self, job_id: str) -> None:
        """Claim the job if it is free, and run it to its end; or send it to a worker that can."""
        try:
            if not self._may_claim(job_id):
                return
            lease = self._call(self.leases.claim, job_id, self.worker_id, LEASE_SECONDS)
        except Unavailable:  # it stays queued, and is sent again
            log.warning("job_not_claimed", job=job_id)
            return
        if lease is not None:
            with job_context(lease):
                self._run(lease)

    def _may_claim(self, job_id: str) -> bool:
        """Whether this worker takes a job; otherwise another one does, or it stays queued.

        Workers load a version one after the other, and several versions one after the other.
        """
        job = self._call(self.leases.look_at, job_id)
        if job is None:
            return False
        model, version = str(job.request["model"]), int(job.request["version"])
        if self.models.get(model, version) is not None:
            return True
        if self.forwarder.forward_job(job_id, model, version):
            return False
        if self._replacement(job) is not None or not self._is_loaded_later(job):
            return True
        log.info("version_not_loaded", job=job_id, model=model, version=version)
        return False  # the task is sent again

    def _is_loaded_later(self, job: UnclaimedJob) -> bool:
        """Whether a version that may answer a job is still to be loaded."""
        model, version = job.request["model"], job.request["version"]
        try:
            aliases = self.store.aliases(model)
        except DamagedAliasesError:
            return True  # for all that is known
        current = aliases.get(job.request.get("asked") or CHAMPION, version)
        return version in aliases.values() or (
            current != version and self.models.get(model, current) is None
        )

    def _run(self, lease: Lease) -> None:
        job_id = lease.job_id
        try:
            ended = self._run_batches(lease)
        except (ModelNotReady, NeedsOperator) as error:
            ended = self._call(self.leases.fail, lease, error)  # trying again would not help
        except (Unavailable, redis.RedisError) as error:
            # Not the job's fault. Its lease expires, and it is tried again.
            log.warning("job_interrupted", job=job_id, error=type(error).__name__)
            return
        except OpsinError as error:
            ended = self._call(self.leases.fail, lease, error)
        except OutOfMemoryError:  # of images of clients that wait: this worker ends
            log.warning("job_interrupted", job=job_id, error="OutOfMemoryError")
            return
        except Exception as error:
            if _is_for_another_process(error, lease):
                # The lease expires, and the job is tried again.
                log.warning("job_interrupted", job=job_id, error=type(error).__name__)
                self.batcher.end_without_memory()
                return
            log.exception("job_failed", job=job_id)
            failure = InternalError("The network failed on these images.")
            ended = self._call(self.leases.fail, lease, failure)
        if ended:
            log.info("job_ended")
            self.files.end_work(job_id)

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what waits for the database, and answer clients meanwhile."""
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        result: Future[T] = self._thread.submit(call)
        while not wait([result], _LOOK_SECONDS).done:
            with suppress(redis.RedisError):
                self.batcher.run_faster_queues("study")  # which alone may take minutes
        return result.result()

    def _run_batches(self, lease: Lease) -> bool:
        """Whether the job ended here; False if another worker has it now."""
        began = time.monotonic()
        predictor = self._predictor(lease)
        self._call(self.consents.require, predictor.manifest)
        images = self._images(lease)
        outputs: list[Vector | ItemError] = []
        limit = min(self.batch_limit, predictor.batch_sizes[-1])
        for start in range(0, len(images), limit):
            if self._call(self.leases.is_cancel_requested, lease.job_id):
                return self._call(self.leases.cancel, lease)
            batch = np.stack(images[start : start + limit])
            outputs.extend(self._outputs(lease, predictor, batch))
            fraction = len(outputs) / len(images)
            progress = Progress(fraction=fraction, step=len(outputs), steps=len(images))
            owned = self._call(self.leases.progress, lease, progress)
            if not (owned and self._call(self.leases.heartbeat, lease, LEASE_SECONDS)):
                return False
        if outputs and all(isinstance(output, ItemError) for output in outputs):
            raise InternalError("The network failed on these images.")
        result = _response(lease, predictor, outputs, time.monotonic() - began, limit)
        self._require_room(len(result.model_dump_json(exclude_none=True)))
        content = result.model_dump(mode="json", exclude_none=True)
        return self._call(self.leases.succeed, lease, content)

    def _require_room(self, size: int) -> None:
        """Check that the disk has room for a result: it may be 300 times what was sent.

        There was when the job was queued, and so there was for all the others that waited with it.

        Raises:
            DiskUnusable: It has not.
        """
        is_large = self.kept_bytes and size > _LARGE_RESULT
        if is_large and not has_room(self.files.root, size, self.kept_bytes):
            raise DiskUnusable(
                "The service's disk has no room for the result. Ask for fewer classes or images, "
                "or ask the service's operator for more space, then send it again."
            )

    def _outputs(
        self, lease: Lease, predictor: Predictor, batch: Pixels
    ) -> list[Vector | ItemError]:
        """The output of each image; if the network fails, each of several is tried by itself."""
        self.batcher.run_faster_queues()
        labels = (str(lease.request["model"]), str(predictor.version), _operation(lease))
        try:
            outputs: list[Vector | ItemError] = list(self._run_batch(labels, predictor, batch))
            code = ""
        except OpsinError:
            raise
        except Exception as failure:
            log.exception("batch_failed", size=len(batch))
            if len(batch) > 1:
                alone = [self._outputs(lease, predictor, image[np.newaxis]) for image in batch]
                return [output for (output,) in alone]
            if _is_for_another_process(failure, lease):
                raise
            code = "internal_error"
            outputs = [ItemError(code=code, detail="The network failed on this image.")]
        self.metrics.inc("computed_images_total", *labels, code, by=len(batch))
        return outputs

    def _run_batch(
        self, labels: tuple[str, str, VectorOperation], predictor: Predictor, batch: Pixels
    ) -> Vector:
        began = time.monotonic()
        with span("run", opsin__images=len(batch)):
            vectors = predictor.run(labels[2], batch)
        if not np.isfinite(vectors).all():
            raise FloatingPointError("a value is not a number")
        self.metrics.inc("executions_total", *labels)
        self.metrics.observe("batch_images", len(batch), *labels)
        self.metrics.observe("compute_seconds", time.monotonic() - began, *labels)
        return vectors

    def _images(self, lease: Lease) -> list[Pixels]:
        messages = self._stored_images(lease.job_id)
        expected = sum(item["error"] is None for item in lease.request["items"])
        if len(messages) != expected and home_id(self.files.root.parent) is None:
            raise Unavailable("The data home is missing.")
        if len(messages) != expected:
            raise InternalError("The images of this job were lost. Send them again.")
        return [Item.unpack(raw).pixels for raw in messages]

    def _stored_images(self, job_id: str) -> list[bytes]:
        """The images in the job's folder; none if there are none, or the file is truncated."""
        with suppress(OSError, MalformedMessageError):
            return unpack_bundle((self.files.work(job_id) / redis_keys.JOB_INPUT).read_bytes())
        return []

    def _predictor(self, lease: Lease) -> Predictor:
        """The version the job was created for, otherwise the one that answers for its alias now.

        Raises:
            ModelNotReady: Neither is loaded here, or the new one may not answer.
        """
        model, version = lease.request["model"], lease.request["version"]
        predictor = self.models.get(model, version) or self._replacement(lease)
        if predictor is None:
            raise ModelNotReady(
                f"Version {version} of '{model}' was taken out of service before the job's turn "
                "came. Send the request again."
            )
        return predictor

    def _replacement(self, job: Lease | UnclaimedJob) -> Predictor | None:
        """The version that answers for the job's alias now, if there is one and it may."""
        predictor = self.models.active(job.request["model"], job.request.get("asked") or CHAMPION)
        return predictor if predictor is not None and _may_replace(predictor, job) else None


def _may_replace(predictor: Predictor, job: Lease | UnclaimedJob) -> bool:
    """Whether a version may answer a job that was created for another one.

    Its images would be the same pixels, and neither of the two recognizes people: only the job's
    own version was checked against the scopes of its key.
    """
    manifest, request = predictor.manifest, job.request
    if recognizes_people(manifest) or "faces" in (job.scopes or ()):
        return False
    if (prepared := request.get("prepared")) is not None:
        return [*preparation(manifest, request["resize"])] == list(prepared)
    return list(manifest.input_size) == request.get("input_size")  # of the release before


def _is_for_another_process(failure: Exception, lease: Lease) -> bool:
    """Whether this process has no memory for a job, which another one may have."""
    return is_out_of_memory(failure) and lease.attempt == 1


def _operation(lease: Lease) -> VectorOperation:
    return "embed" if lease.kind == "embed" else "classify"


def _response(
    lease: Lease,
    predictor: Predictor,
    outputs: Sequence[Vector | ItemError],
    seconds: float,
    batch_limit: int,
) -> InferenceResponse:
    """The response that a synchronous request would have got."""
    request = lease.request
    reader = OutputReader(_operation(lease), request["top_k"], predictor.labels)
    remaining = iter(outputs)
    milliseconds = round(seconds * 1000, 1)
    return InferenceResponse(
        model=request["model"],
        version=predictor.version,
        batch_size=min(len(outputs), batch_limit),
        results=[_item_result(item, reader, remaining) for item in request["items"]],
        timing_ms=Timing(decode=0, queue=0, compute=milliseconds, total=milliseconds),
    )


def _item_result(
    item: dict[str, Any], reader: OutputReader, outputs: Iterator[Vector | ItemError]
) -> ItemResult:
    if item["error"] is not None:
        return ItemResult(name=item["name"], error=ItemError.model_validate(item["error"]))
    computed = next(outputs)
    if isinstance(computed, ItemError):
        return ItemResult(name=item["name"], error=computed)
    output = reader.read(computed)
    return ItemResult(
        name=item["name"],
        width=item["width"],
        height=item["height"],
        predictions=output.predictions,
        embedding=output.embedding,
    )
