"""Small working parts for the service, in one process: no Redis, no worker, no database.

They do what the real ones promise, with a network that is a histogram: its "probability" of class
i grows with the mean brightness of the picture. The flow through the real ones is in tests/flow.
"""

import asyncio
import io
import math
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from redis.asyncio import Redis
from sqlalchemy import Engine

from contracts.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidImage,
    JobNotFound,
    ModelNotFound,
    ModelNotReady,
    OpsinError,
    QueueFull,
    VersionNotFound,
)
from contracts.faces.faces import FACE_MODEL
from contracts.inference.inference import LaneOperation, Resize
from contracts.inference.manifest import Manifest
from contracts.inference.registry import LaneInfo, ModelInfo
from contracts.jobs import FINISHED, Job, JobKind, JobState, Progress
from contracts.pages import Page
from contracts.queue.explain_messages import (
    ActivationsAsk,
    ActivationsNote,
    ChannelNote,
    MapNote,
    read_ask,
)
from contracts.queue.heartbeat import HeldModel, WorkerBeat
from contracts.queue.messages import Pixels, Reply
from contracts.settings import Settings
from database.audit import Audit
from database.datasets import DatasetRows as Rows
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.jobs import History
from database.jobs.queries import Entry
from database.keys import Keys, Snapshot
from database.migrations import upgrade
from database.tables import AnswerRecord, AuditRecord, KeyRecord, KeyRevisionRecord, Record
from models.catalog import CATALOG, network_of
from models.datasets.archives.limits import Limits
from models.datasets.library import Library
from models.images.decode import Target
from models.store.derived import Derived
from models.store.labels import Label
from models.store.snapshot import Served
from models.store.store import Store
from service.auth.key_cache import Keyring
from service.auth.rate_limit import RateLimits
from service.datasets.service import Datasets
from service.dependencies import Services
from service.explanation.cache import ExplanationCache
from service.explanation.layers import LayerCheck
from service.faces.context import FaceDesk, open_desk
from service.http import examples
from service.jobs.queue import JobItem
from tests.service.face_lane import judged, seen

T = TypeVar("T")
NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


SERVED = Served(
    Manifest.model_validate(examples.MANIFEST),
    tuple(Label(f"n{i:08d}", f"class {i}") for i in range(1000)),
)


@dataclass(frozen=True)
class Shrunk:
    pixels: Pixels
    width: int
    height: int
    whole: Image.Image | None = None


@dataclass
class PillowDecoder:
    """Decodes in this process. Room for so many images may be set from outside."""

    room: int = 1000
    runs: int = 0

    async def decode(
        self,
        data: bytes,
        *,
        network: Target,
        resize: Resize,
        deadline_seconds: float,
        keep_pixels: int = 0,
    ) -> Shrunk:
        if self.room == 0:
            raise QueueFull("Too many images wait to be decoded. Retry soon.", retry_after=1)
        self.room -= 1
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
        except (UnidentifiedImageError, OSError):
            raise InvalidImage("The bytes are not a readable image.") from None
        height, width = network.input_size
        pixels = np.asarray(image.resize((width, height)), np.uint8)
        whole = image if image.width * image.height <= keep_pixels else None
        return Shrunk(pixels, image.width, image.height, whole)

    async def run(self, work: Callable[[], T], *, deadline_seconds: float) -> T:
        self.runs += 1
        return await asyncio.wait_for(asyncio.to_thread(work), deadline_seconds)


@dataclass
class Brightness:
    """Dispatch in this process. What it should do wrong can be set from outside."""

    delay: float = 0.0
    full: OpsinError | None = None
    fails: OpsinError | None = None
    answers: list[Reply | OpsinError] = field(default_factory=list)
    cancelled: int = 0
    breaks: Exception | None = None
    asked: list[tuple[LaneOperation, list[int], bytes]] = field(default_factory=list)

    def require_room(
        self, network: str, version: int, operation: LaneOperation, deadline: float = math.inf
    ) -> None:
        """There is always room here, unless the test says otherwise."""
        if self.full:
            raise self.full

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
        self.asked.append((operation, list(classes or ()), note))
        if self.breaks:
            raise self.breaks
        if self.fails:
            raise self.fails
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if operation == "faces":
            return self.answers or [seen(p, version, note) for p in pixels]
        if operation == "clip":
            return self.answers or [judged(p, version, note) for p in pixels]
        if classes is not None:
            pairs = zip(pixels, classes, strict=True)
            return self.answers or [_reason(version, p, index, note) for p, index in pairs]
        return self.answers or [self._reply(network, version, operation, p) for p in pixels]

    def _reply(self, network: str, version: int, operation: LaneOperation, pixels: Pixels) -> Reply:
        row = network_of(network)
        size = row.classes if operation == "classify" else row.features
        vector = np.zeros(size, np.float32)
        bright = int(pixels.mean())
        vector[bright], vector[(bright + 1) % size] = 0.75, 0.25
        return Reply(bytes(16), version, 4, 0.001, 0.01, vector=vector)


def _reason(version: int, pixels: Pixels, class_index: int, note: bytes) -> Reply:
    """A map that is strongest at the upper left; of class 7 nothing speaks for it."""
    question = read_ask(note)
    if isinstance(question, ActivationsAsk):
        channels = tuple(
            ChannelNote(index=at, smallest=0, largest=at, mean=at / 2) for at in range(3)
        )
        told = ActivationsNote(shape=(2, 2), layer="maps", total=3, channels=channels)
        vector = np.repeat(np.arange(3, dtype=np.float32), 4) * np.tile([0, 1, 1, 0], 3)
        return Reply(bytes(16), version, 1, 0.001, 0.01, vector=vector, note=told.pack())
    target = int(pixels.mean()) if class_index < 0 else class_index
    grid = np.array([1.0, 0.5, 0.25, 0.0], np.float32) * (target != 7)
    answer = MapNote(shape=(2, 2), layer="maps", target=target, probability=0.75)
    return Reply(bytes(16), version, 4, 0.001, 0.01, vector=grid, note=answer.pack())


class OneWorker:
    """Presence of one worker that holds SqueezeNet."""

    def __init__(self) -> None:
        held = HeldModel(
            name="squeezenet", state="ready", operations=("classify", "embed"), classes=1000
        )
        self.workers: tuple[WorkerBeat, ...] = (
            WorkerBeat(
                id="w1",
                host="here",
                pid=1,
                release="0.1.0",
                devices=("CPU",),
                started_at=1,
                beat_at=2,
                models=(held,),
            ),
        )
        self.job_workers: tuple[WorkerBeat, ...] = ()
        self.redis_ok = True
        self.finds_faces = True

    def models(self) -> list[ModelInfo]:
        return [
            ModelInfo(
                name=row.name,
                network=row.name,
                state="ready" if row.name == "squeezenet" else "unavailable",
                reason=None,
                aliases={"champion": 1},
                versions=[1],
                classes=row.classes,
                input_size=row.input_size,
                features=row.features,
                operations=("classify", "embed") if row.name == "squeezenet" else (),
                licence=row.licence,
            )
            for row in CATALOG.values()
        ]

    def choose(
        self, model: str | None, version: str | None, operation: LaneOperation
    ) -> tuple[Served, int]:
        if model == FACE_MODEL and operation in {"faces", "clip"} and self.finds_faces:
            return SERVED, 1
        if model not in {None, "squeezenet"}:
            raise ModelNotFound(f"There is no model '{model}'. Known: squeezenet.")
        if version not in {None, "champion", "1"}:
            raise VersionNotFound(f"There is no version '{version}'. Known: 1, champion.")
        return SERVED, 1

    async def refresh(self) -> None:
        """It is always as it was."""

    async def until_served(self, model: str, version: int, *, seconds: float) -> bool:
        return version == 1

    def queues(self) -> list[LaneInfo]:
        return [LaneInfo(name="lane:squeezenet:1:classify", depth=0, drain_rate=None)]


@dataclass
class Shelf:
    """Jobs in a dict: the queue that takes them and the store that shows them."""

    jobs: dict[str, Job] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    submitted: list[Sequence[JobItem]] = field(default_factory=list)
    worked: list[tuple[JobKind, dict[str, Any], dict[str, bytes]]] = field(default_factory=list)
    entries: dict[str, list[Entry]] = field(default_factory=dict)

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
        if (first := self._first(idempotency)) is not None:
            return first
        self.submitted.append(items)
        job = self.put(f"job_{len(self.jobs)}", kind=kind)
        if idempotency:
            self.keys[idempotency[0]] = (idempotency[1], job.id)
        return job

    def _first(self, idempotency: tuple[str, str] | None) -> Job | None:
        if idempotency is None or idempotency[0] not in self.keys:
            return None
        digest, first = self.keys[idempotency[0]]
        if digest != idempotency[1]:
            raise IdempotencyConflict("That key belongs to another request; make a new one.")
        return self.jobs[first]

    def put(self, job_id: str, **changes: Any) -> Job:
        plain: dict[str, Any] = {
            "id": job_id,
            "kind": "classify",
            "state": "queued",
            "attempt": 0,
            "progress": Progress(fraction=0),
            "created_at": NOW,
        }
        self.jobs[job_id] = Job(**(plain | changes))
        return self.jobs[job_id]

    def get(self, job_id: str) -> Job:
        try:
            return self.jobs[job_id]
        except KeyError:
            raise JobNotFound("There is no such job; finished ones are kept a day.") from None

    async def submit_work(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        inputs: Mapping[str, bytes | Path] | None = None,
        idempotency: tuple[str, str] | None = None,
    ) -> Job:
        if (first := self._first(idempotency)) is not None:
            return first
        taken = {
            name: one.read_bytes() if isinstance(one, Path) else one
            for name, one in (inputs or {}).items()
        }
        self.worked.append((kind, request, taken))
        job = self.put(f"job_{len(self.jobs)}", kind=kind)
        if idempotency:
            self.keys[idempotency[0]] = (idempotency[1], job.id)
        return job

    async def earlier(self, kind: JobKind, key: str, digest: str) -> Job | None:
        return self._first((key, digest))

    def history(self, job_id: str, after: int = 0) -> History:
        told = [entry for entry in self.entries.get(job_id, []) if entry.told > after]
        return History(self.get(job_id), told)

    def depths(self) -> dict[str, tuple[int, int]]:
        return {"training": (2, 1)}

    def list(
        self, *, kind: JobKind | None, state: JobState | None, limit: int, cursor: str | None
    ) -> Page[Job]:
        found = [
            job
            for job in self.jobs.values()
            if kind in {None, job.kind} and state in {None, job.state} and job.id > (cursor or "")
        ]
        more = len(found) > limit
        return Page(items=found[:limit], next_cursor=found[limit - 1].id if more else None)

    def learning_from(self, subject_id: str) -> tuple[str, ...]:
        return tuple(
            f"job_{place}"
            for place, (_, request, _) in enumerate(self.worked)
            if subject_id in (request.get("subjects") or ())
        )

    def cancel(self, job_id: str) -> Job:
        return self.put(job_id, **self.get(job_id).model_dump() | {"state": "cancelled"})

    def delete(self, job_id: str) -> None:
        if self.get(job_id).state not in FINISHED:
            raise Conflict("The job is not finished; cancel it first.")
        del self.jobs[job_id]


class Unhurried:
    """Conversions that are never done in time."""

    async def until_made(self, model: str, version: int, kind: Derived, *, seconds: float) -> None:
        raise ModelNotReady("It is being converted. Ask again.", retry_after=10)


def datasets_in(folder: Path, limits: Limits | None = None) -> Datasets:
    """Real datasets; the database has no tables until `with_tables` makes them."""
    engine = open_engine(f"sqlite:///{folder / 'opsin.db'}")
    library = Library(folder / "datasets", limits or Limits(free_bytes=0))
    return Datasets(library, Rows(engine, lambda: datetime.now(UTC)))


def desk_in(folder: Path, *, redis_url: str = "unix:///nowhere", tables: bool = False) -> FaceDesk:
    """A real desk of faces; without an address, Redis does not answer."""
    settings = Settings(_env_file=None, home=folder)
    engine = open_engine(settings.database)
    if tables:
        upgrade(settings.database)
    client = Redis.from_url(redis_url)
    return open_desk(settings, engine, client, JobFiles.of(settings), lambda: datetime.now(UTC))


@dataclass
class House:
    """All parts of one service, within reach of a test.

    Its keys and audit log have tables once `with_keys` was called.
    """

    dispatch: Brightness = field(default_factory=Brightness)
    presence: OneWorker = field(default_factory=OneWorker)
    shelf: Shelf = field(default_factory=Shelf)
    decoder: PillowDecoder = field(default_factory=PillowDecoder)
    renderer: PillowDecoder = field(default_factory=PillowDecoder)
    store: Store = field(default_factory=lambda: Store(Path(tempfile.mkdtemp(), "store")))
    files: JobFiles = field(default_factory=lambda: JobFiles(Path(tempfile.mkdtemp(), "jobs")))
    datasets: Datasets = field(default_factory=lambda: datasets_in(Path(tempfile.mkdtemp())))
    faces: FaceDesk = field(default_factory=lambda: desk_in(Path(tempfile.mkdtemp())))
    explanations: ExplanationCache = field(default_factory=lambda: ExplanationCache(100_000))
    engine: Engine = field(
        default_factory=lambda: open_engine(f"sqlite:///{tempfile.mkdtemp()}/keys.db")
    )
    redis: Redis = field(default_factory=lambda: Redis(unix_socket_path="/nowhere"))
    database: bool = True
    opened: int = 0
    keyed: bool = False

    def with_keys(self) -> Keys:
        """The real table of keys, which the service looks into when it is opened."""
        tables = [one.__table__ for one in (KeyRecord, KeyRevisionRecord, AuditRecord)]
        Record.metadata.create_all(self.engine, tables=[*tables, AnswerRecord.__table__])
        self.keyed = True
        return self.keys

    @property
    def keys(self) -> Keys:
        return Keys(self.engine, lambda: datetime.now(UTC))

    @property
    def audit(self) -> Audit:
        return Audit(self.engine, lambda: datetime.now(UTC))

    @asynccontextmanager
    async def opening(self, settings: Settings) -> AsyncIterator[Services]:
        self.opened += 1
        keyring = Keyring(settings, self.keys)
        if self.keyed:
            await keyring.start()
        else:
            keyring.adopt(Snapshot(revision=0, keys={}, ever=0))
        yield Services(
            settings=settings,
            presence=self.presence,
            dispatch=self.dispatch,
            decoder=self.decoder,
            renderer=self.renderer,
            queue=self.shelf,
            jobs=self.shelf,
            job_files=self.files,
            store=self.store,
            conversions=Unhurried(),
            datasets=self.datasets,
            explanations=self.explanations,
            layers=LayerCheck(self.store),
            keys=self.keys,
            keyring=keyring,
            rate_limits=RateLimits(self.redis),
            audit=self.audit,
            faces=self.faces,
            database_ok=lambda: self.database,
            started_at=1.0,
        )
        await keyring.stop()
        await self.redis.aclose()
        if self.faces.redis is not None:
            await self.faces.redis.aclose()
        self.opened -= 1


def picture(brightness: int = 100, *, width: int = 40, height: int = 30) -> bytes:
    """A grey PNG."""
    buffer = io.BytesIO()
    Image.new("L", (width, height), brightness).save(buffer, "PNG")
    return buffer.getvalue()
