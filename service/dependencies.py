"""What the routes stand on: the parts of a running service, each as narrow as its callers need.

The lifespan opens them once (`service.app`) and hands them to every request; nothing here is
global. The protocols name what a route may ask for, and the modules that do the work fulfil them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from contracts.errors import OpsinError
from contracts.inference.inference import ItemError, LaneOperation
from contracts.inference.registry import LaneInfo, ModelInfo
from contracts.jobs import Job, JobKind
from contracts.queue.heartbeat import WorkerBeat
from contracts.queue.messages import Pixels, Reply
from contracts.settings import Settings
from database.audit import Audit
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.keys import Keys
from models.store.derived import Derived
from models.store.snapshot import Served
from models.store.store import Store
from service.auth.key_cache import Keyring
from service.auth.rate_limit import RateLimits
from service.datasets.service import Datasets
from service.explanation.cache import ExplanationCache
from service.explanation.layers import LayerCheck
from service.faces.context import FaceDesk
from service.inference.decoder import Decoder
from service.jobs.stream_limit import Streams


class Dispatch(Protocol):
    """Runs pictures through a network on some worker."""

    def require_room(
        self, network: str, version: int, operation: LaneOperation, deadline: float = ...
    ) -> None:
        """Raises QueueFull if the queue is full already: nothing needs to be read or decoded."""
        ...

    async def run(
        self,
        network: str,
        version: int,
        operation: LaneOperation,
        pixels: Sequence[Pixels],
        *,
        deadline: float,
        classes: Sequence[int] | None = None,
        note: bytes = b"",
    ) -> Sequence[Reply | OpsinError]:
        """One answer a picture, in order; cancelling it evicts what still waits.

        Nobody waits after `deadline`, in `time.monotonic()` seconds. `classes` and `note` say
        what is to be explained, see `contracts.queue.explain_messages`.
        """
        ...


class Presence(Protocol):
    """What is known of the workers, refreshed in the background."""

    @property
    def workers(self) -> Sequence[WorkerBeat]: ...

    @property
    def job_workers(self) -> Sequence[WorkerBeat]: ...

    def models(self) -> Sequence[ModelInfo]: ...

    def choose(
        self, model: str | None, version: str | None, operation: LaneOperation
    ) -> tuple[Served, int]: ...

    async def until_served(self, model: str, version: int, *, seconds: float) -> bool: ...

    async def refresh(self) -> None: ...

    @property
    def redis_ok(self) -> bool: ...

    def queues(self) -> Sequence[LaneInfo]: ...


@dataclass(frozen=True, slots=True)
class JobItem:
    """One image of a job: its pixels, or why it has none.

    Attributes:
        name: The file name that was sent, if one was.
        width: Pixels, after EXIF orientation; None where decoding failed.
        height: Likewise.
        content: RGB uint8 of the network's input size, or the error.
    """

    name: str | None
    width: int | None
    height: int | None
    content: Pixels | ItemError


class JobQueue(Protocol):
    """Takes work that answers later."""

    async def submit(
        self,
        kind: JobKind,
        network: str,
        version: int,
        *,
        request: dict[str, Any],
        items: Sequence[JobItem],
        idempotency: tuple[str, str] | None,
    ) -> Job:
        """Store the job and send it off; the same key and digest return the first job.

        `request` is ``{"resize", "top_k", "asked", "input_size"}``; `idempotency` is the client's
        key and the sha256 of all that was asked.
        """
        ...

    async def submit_work(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        inputs: Mapping[str, bytes | Path] | None = None,
        idempotency: tuple[str, str] | None = None,
    ) -> Job:
        """Store a job that runs in a process of its own, and ring for it.

        `inputs` are files by name, found by the work in its folder; a path is moved there.
        """
        ...

    async def earlier(self, kind: JobKind, key: str, digest: str) -> Job | None:
        """The job that a request with that key has made already."""
        ...


class Conversions(Protocol):
    """Makes formats that are made on request."""

    async def until_made(self, model: str, version: int, kind: Derived, *, seconds: float) -> None:
        """Returns once the file is there; raises if it is not within `seconds`, or cannot be."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """All that a request may use, opened once and closed at the end.

    `renderer` draws pictures and writes large answers; classifications never wait behind it, as
    they do behind the `decoder`.
    """

    settings: Settings
    presence: Presence
    dispatch: Dispatch
    decoder: Decoder
    renderer: Decoder
    queue: JobQueue
    jobs: Jobs
    job_files: JobFiles
    store: Store
    conversions: Conversions
    datasets: Datasets
    explanations: ExplanationCache
    layers: LayerCheck
    keys: Keys
    keyring: Keyring
    rate_limits: RateLimits
    audit: Audit
    faces: FaceDesk
    database_ok: Callable[[], bool]
    started_at: float
    streams: Streams = field(default_factory=Streams)


Opening = Callable[[Settings], AbstractAsyncContextManager[Services]]


async def services_of(request: Request) -> Services:
    """The open services, as a dependency of a route."""
    services = request.app.state.services
    if not isinstance(services, Services):
        raise TypeError("the application was started without its lifespan")
    return services


Open = Annotated[Services, Depends(services_of)]
