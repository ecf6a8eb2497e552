"""What the routes stand on: the parts of a running service, each as narrow as its callers need.

The lifespan opens them once (`service.app`) and hands them to every request; nothing here is
global. The protocols name what a route may ask for, and the modules that do the work fulfil them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from contracts.errors import OpsinError
from contracts.inference import ItemError, Operation, Resize
from contracts.jobs import Job, JobKind, JobState
from contracts.messages import Pixels, Reply
from contracts.presence import WorkerBeat
from contracts.registry import LaneInfo, ModelInfo
from contracts.settings import Settings
from models.catalog import Network


class Label(Protocol):
    """The name of one output of a network."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> str: ...


class Picture(Protocol):
    """A decoded image: the network's input, and the size it was sent at."""

    @property
    def pixels(self) -> Pixels: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...


class Decoder(Protocol):
    """Turns bytes into a network's input, off the event loop."""

    async def decode(
        self, data: bytes, *, network: Network, resize: Resize, deadline_seconds: float
    ) -> Picture: ...


class Dispatch(Protocol):
    """Runs pictures through a network on some worker."""

    async def run(
        self,
        network: str,
        version: int,
        operation: Operation,
        pixels: Sequence[Pixels],
        *,
        deadline: float,
    ) -> Sequence[Reply | OpsinError]:
        """One answer a picture, in order; cancelling it evicts what still waits.

        Nobody waits after `deadline`, in `time.monotonic()` seconds.
        """
        ...


class Presence(Protocol):
    """What is known of the workers, refreshed in the background."""

    @property
    def workers(self) -> Sequence[WorkerBeat]: ...

    def models(self) -> Sequence[ModelInfo]: ...

    def choose(
        self, model: str | None, version: str | None, operation: Operation
    ) -> tuple[Network, int]: ...

    def redis_ok(self) -> bool: ...

    async def queues(self) -> Sequence[LaneInfo]: ...


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

        `request` is ``{"resize", "top_k"}``; `idempotency` is the client's key and the sha256 of
        all that was asked.
        """
        ...


class JobPage(Protocol):
    """Some jobs, newest first, and the cursor of the next page; None after the last."""

    @property
    def items(self) -> Sequence[Job]: ...

    @property
    def next_cursor(self) -> str | None: ...


class JobStore(Protocol):
    """The jobs in the database. Blocks: call it in a thread."""

    def get(self, job_id: str) -> Job: ...

    def list(
        self, *, kind: JobKind | None, state: JobState | None, limit: int, cursor: str | None
    ) -> JobPage: ...

    def cancel(self, job_id: str) -> Job: ...

    def delete(self, job_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """All that a request may use, opened once and closed at the end."""

    settings: Settings
    presence: Presence
    dispatch: Dispatch
    decoder: Decoder
    queue: JobQueue
    jobs: JobStore
    labels: Callable[[Network], Sequence[Label]]
    database_ok: Callable[[], bool]
    started_at: float


Opening = Callable[[Settings], AbstractAsyncContextManager[Services]]


def services_of(request: Request) -> Services:
    """The open services, as a dependency of a route."""
    services = request.app.state.services
    if not isinstance(services, Services):
        raise TypeError("the application was started without its lifespan")
    return services


Open = Annotated[Services, Depends(services_of)]
