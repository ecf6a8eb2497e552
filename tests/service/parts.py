"""Fake parts of the service in one process: no Redis, no worker, no database.

They behave like the real ones, with a network that is a histogram: the class with the highest
"probability" is the mean brightness of the image. The real ones are tested in tests/flow.
"""

import asyncio
import io
import json
import math
import tempfile
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
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
from contracts.inference.inference import Operation, Resize
from contracts.inference.manifest import Manifest
from contracts.inference.registry import LaneInfo, ModelInfo
from contracts.jobs import FINISHED, Job, JobKind, JobState, Progress
from contracts.keys import Scope
from contracts.pages import Page
from contracts.queue.clock import RedisClock
from contracts.queue.explain_messages import (
    ActivationsReply,
    ActivationsRequest,
    ChannelSummary,
    ExplainReply,
    parse_request,
)
from contracts.queue.heartbeat import HeldModel, WorkerBeat
from contracts.queue.messages import Pixels, Reply
from contracts.queue.redis_keys import QueueName
from contracts.settings import MIB, Settings
from database.audit import Audit
from database.datasets import DatasetRows
from database.engine import open_engine
from database.installation import FILE
from database.jobs.files import JobFiles
from database.jobs.jobs import JobHistory, JobPage
from database.jobs.queries import JobCounts, JobEntry, StoredJob
from database.keys import KeyRevision, Keys, KeySnapshot
from database.paging import Reserve, decode_name, encode_cursor
from database.tables import AnswerRecord, AuditRecord, KeyRecord, KeyRevisionRecord, Record
from models.catalog import CATALOG, network_of
from models.datasets.archives.limits import Limits
from models.datasets.store import DatasetStore
from models.images.decode import DecodedImage
from models.images.gate import at_once
from models.images.resize import ImageInput
from models.store.derived import DerivedFormat
from models.store.labels import Label
from models.store.snapshot import ServedVersion
from models.store.store import Store
from service.auth.key_cache import KeyCache
from service.auth.rate_limit import RateLimits
from service.auth.scopes import scope_of_job
from service.auth.sessions import Sessions
from service.datasets.service import Datasets
from service.dependencies import Services
from service.explanation.cache import ExplanationCache
from service.explanation.layers import LayerCheck
from service.faces.context import FaceServices, open_face_services
from service.fair_budget import FairBudget
from service.inference.fair_pool import CALLER
from service.jobs.queue import JobItem
from service.metrics.request_record import current_record
from service.openapi import examples
from service.queue.dispatcher import Place
from tests.service.face_replies import clip_reply, faces_reply
from tests.tables import make_home

T = TypeVar("T")
NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
NEVER = Retry(NoBackoff(), 0)
_FOLDER = tempfile.TemporaryDirectory(prefix="opsin-test-")  # removed when the process ends


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(dir=_FOLDER.name))


SERVED = ServedVersion(
    Manifest.model_validate(examples.MANIFEST),
    tuple(Label(f"n{i:08d}", f"class {i}") for i in range(1000)),
)


@dataclass
class FakeDecoder:
    """Decodes in this process. `room` is the number of images it accepts."""

    room: int = 1000
    runs: int = 0
    pixels: list[int] = field(default_factory=list)
    is_slow: bool = False

    def require_room(self) -> None:
        """There is room unless the test says otherwise."""
        if self.room == 0:
            raise QueueFull("Too many images wait to be decoded. Retry soon.", retry_after=1)

    async def decode(
        self,
        data: bytes,
        *,
        network: ImageInput,
        resize: Resize,
        deadline_seconds: float,
        keep_pixels: int = 0,
        when_slow: Callable[[], None] = lambda: None,
    ) -> DecodedImage:
        self.require_room()
        self.room -= 1
        if self.is_slow:
            when_slow()
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
        except (UnidentifiedImageError, OSError):
            raise InvalidImage("The bytes are not a readable image.") from None
        height, width = network.input_size
        pixels = np.asarray(image.resize((width, height)), np.uint8)
        whole = image if image.width * image.height <= keep_pixels else None
        return DecodedImage(pixels, image.width, image.height, whole)

    async def run(self, work: Callable[[], T], *, deadline_seconds: float, pixels: int = 0) -> T:
        self.runs += 1
        self.pixels.append(pixels)
        return await asyncio.wait_for(asyncio.to_thread(work), deadline_seconds)

    async def run_image(self, work: Callable[..., T], *, deadline_seconds: float) -> T:
        return await self.run(partial(work, large=at_once), deadline_seconds=deadline_seconds)


@dataclass
class FakeDispatcher:
    """Answers in this process. Tests set what it should do wrong."""

    delay: float = 0.0
    places: int = 1000
    given_back: int = 0
    full: OpsinError | None = None
    fails: OpsinError | None = None
    answers: list[Reply | OpsinError] = field(default_factory=list)
    cancelled: int = 0
    breaks: Exception | None = None
    asked: list[tuple[Operation, list[int], bytes]] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    together: list[list[tuple[str, list[int]]]] = field(default_factory=list)
    fails_for: dict[str, OpsinError] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    waiting: FairBudget = field(default_factory=lambda: FairBudget(MIB, "Too many. Retry soon."))

    def require_room(self, queue: QueueName, deadline: float = math.inf) -> None:
        """There is room unless the test says otherwise."""
        if self.full:
            raise self.full

    @contextmanager
    def place(self, queue: QueueName, count: int, deadline: float) -> Iterator[Place]:
        """Room for images until the block ends."""
        if count > self.places:
            raise QueueFull("Too many images wait for this model.", retry_after=1)
        self.places -= count
        place = Place(False, lambda: None)
        yield place
        self.given_back += not place.is_held
        self.places += count

    async def run(
        self,
        queue: QueueName,
        pixels: Sequence[Pixels],
        *,
        deadline: float,
        classes: Sequence[int] | None = None,
        note: bytes = b"",
        place: Place | None = None,
        kept: int = 0,
    ) -> Sequence[Reply | OpsinError]:
        self.kept.append(kept)
        self.asked.append((queue.operation, list(classes or ()), note))
        caller = CALLER.get(None)
        self.clients.append("" if caller is None else caller.client)
        if self.breaks:
            raise self.breaks
        if self.fails:
            raise self.fails
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if queue.operation == "faces":
            return self.answers or [faces_reply(p, queue.version, note) for p in pixels]
        if queue.operation == "clip":
            return self.answers or [clip_reply(p, queue.version, note) for p in pixels]
        if classes is not None:
            pairs = zip(pixels, classes, strict=True)
            return self.answers or [_reason(queue.version, p, index, note) for p, index in pairs]
        return self.answers or [self._reply(queue, p) for p in pixels]

    async def run_together(
        self, images: Sequence[tuple[QueueName, Sequence[Pixels]]], *, deadline: float
    ) -> list[Sequence[Reply | OpsinError] | OpsinError]:
        self.together.append([(queue.model, [id(one) for one in own]) for queue, own in images])
        answers: list[Sequence[Reply | OpsinError] | OpsinError] = []
        for queue, own in images:
            if queue.model in self.fails_for:
                answers.append(self.fails_for[queue.model])
            else:
                answers.append(await self.run(queue, own, deadline=deadline))
        return answers

    def _reply(self, queue: QueueName, pixels: Pixels) -> Reply:
        row = network_of(queue.model if queue.model in CATALOG else "squeezenet")
        size = row.classes if queue.operation == "classify" else row.features
        vector = np.zeros(size, np.float32)
        bright = int(pixels.mean())
        vector[bright], vector[(bright + 1) % size] = 0.75, 0.25
        return Reply(bytes(16), queue.version, 4, 0.001, 0.01, vector=vector)


def _reason(version: int, pixels: Pixels, class_index: int, note: bytes) -> Reply:
    """A heatmap that is strongest at the upper left; for class 7 it is empty."""
    question = parse_request(note)
    if isinstance(question, ActivationsRequest):
        channels = tuple(
            ChannelSummary(index=at, smallest=0, largest=at, mean=at / 2) for at in range(3)
        )
        told = ActivationsReply(shape=(2, 2), layer="maps", total=3, channels=channels)
        vector = np.repeat(np.arange(3, dtype=np.float32), 4) * np.tile([0, 1, 1, 0], 3)
        return Reply(bytes(16), version, 1, 0.001, 0.01, vector=vector, note=told.pack())
    target = int(pixels.mean()) if class_index < 0 else class_index
    grid = np.array([1.0, 0.5, 0.25, 0.0], np.float32) * (target != 7)
    answer = ExplainReply(shape=(2, 2), layer="maps", target=target, probability=0.75)
    return Reply(bytes(16), version, 4, 0.001, 0.01, vector=grid, note=answer.pack())


class FakeWorkers:
    """One worker that has loaded SqueezeNet."""

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
        self.redis_fault = ""
        self.reads_origins = True
        self.read_shared_pixels = False
        self.others: dict[str, ServedVersion | OpsinError] = {}
        self.clock = RedisClock()
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

    def model(self, name: str) -> ModelInfo:
        found = next((one for one in self.models() if one.name == name), None)
        if found is None:
            known = ", ".join(one.name for one in self.models())
            raise ModelNotFound(f"There is no model '{name}'. Known: {known}.")
        return found

    def models_page(self, limit: int, cursor: str | None) -> str:
        models = self.models()
        names = [one.name for one in models]
        rest = models[names.index(decode_name(cursor)) + 1 :] if cursor else models
        next_cursor = encode_cursor(rest[limit - 1].name) if len(rest) > limit else None
        return Page(items=rest[:limit], next_cursor=next_cursor).model_dump_json()

    def choose(
        self, model: str | None, version: str | None, operation: Operation
    ) -> tuple[ServedVersion, int]:
        if model == FACE_MODEL and operation in {"faces", "clip"} and self.finds_faces:
            return SERVED, 1
        if (other := self.others.get(model or "")) is not None:
            current_record().chosen(operation, model or "", 1)
            if isinstance(other, OpsinError):
                raise other
            return other, other.manifest.version
        if model not in {None, "squeezenet"}:
            raise ModelNotFound(f"There is no model '{model}'. Known: squeezenet.")
        if version not in {None, "champion", "1"}:
            raise VersionNotFound(f"There is no version '{version}'. Known: 1, champion.")
        current_record().chosen(operation, "squeezenet", 1)
        return SERVED, 1

    def answers(self, model: str, version: int, operations: Iterable[Operation]) -> bool:
        for operation in operations:
            with suppress(OpsinError):
                return bool(self.choose(model, str(version), operation))
        return False

    async def refresh(self) -> None:
        """Nothing ever changes."""

    async def until_served(self, model: str, version: int, *, seconds: float) -> bool:
        return version == 1

    def queues(self) -> list[LaneInfo]:
        return [LaneInfo(name="lane:squeezenet:1:classify", depth=0, drain_rate=None)]


def _stored(job: Job) -> StoredJob:
    return StoredJob(job, None if job.result is None else json.dumps(job.result))


@dataclass
class FakeJobs:
    """Jobs in a dict, as the queue and as the table of jobs."""

    jobs: dict[str, Job] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    submitted: list[Sequence[JobItem]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    worked: list[tuple[JobKind, dict[str, Any], dict[str, bytes]]] = field(default_factory=list)
    clients: list[str | None] = field(default_factory=list)
    entries: dict[str, list[JobEntry]] = field(default_factory=dict)
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    erased: list[tuple[str, frozenset[tuple[str, int]]]] = field(default_factory=list)
    reads: int = 0
    is_full: bool = False
    pixels: FairBudget = field(default_factory=lambda: FairBudget(MIB, "Too many. Retry soon."))

    async def require_room_unread(
        self, _kind: JobKind, key: str | None, _client: str | None
    ) -> None:
        if self.is_full and key is None:
            raise QueueFull("There are too many unfinished jobs.", retry_after=1)

    async def require_room(
        self,
        kind: JobKind,
        *,
        client: str | None,
        idempotency: tuple[str, str] | None = None,
    ) -> None:
        del kind, client, idempotency
        if self.is_full:
            raise QueueFull("There are too many unfinished jobs.", retry_after=1)

    def wait_for_follower(self) -> None:
        """Wait until somebody who follows a job has seen it as it is now."""
        until = time.monotonic() + 30
        seen = self.reads + 2  # the first of them may have begun before
        while self.reads < seen:
            assert time.monotonic() < until, "nobody follows"
            time.sleep(0.01)

    async def submit(
        self,
        kind: JobKind,
        network: str,
        version: int,
        *,
        request: dict[str, Any],
        items: Sequence[JobItem],
        idempotency: tuple[str, str] | None,
        client: str | None = None,
        held: ExitStack | None = None,
    ) -> Job:
        del held
        self.clients.append(client)
        if (first := self._first(idempotency)) is not None:
            return first
        self.submitted.append(items)
        self.asked.append(request)
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
            "scopes": (scope_of_job(changes.get("kind", "classify")),),
        }
        self.jobs[job_id] = Job(**(plain | changes))
        return self.jobs[job_id]

    def request_of(self, job_id: str) -> dict[str, Any]:
        return self.requests[job_id]

    def erase_about(self, subject_id: str, versions: Collection[tuple[str, int]]) -> int:
        self.erased.append((subject_id, frozenset(versions)))
        return 0

    def get(self, job_id: str) -> Job:
        try:
            return self.jobs[job_id]
        except KeyError:
            raise JobNotFound("There is no such job; finished ones are kept a day.") from None

    outline = get

    def stored(self, job_id: str, reserve: Reserve) -> StoredJob:
        stored = _stored(self.get(job_id))
        reserve(len(stored.result or ""))
        return stored

    async def submit_work(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        inputs: Mapping[str, bytes | Path] | None = None,
        idempotency: tuple[str, str] | None = None,
        client: str | None = None,
        scopes: Collection[Scope] = (),
    ) -> Job:
        self.clients.append(client)
        if (first := self._first(idempotency)) is not None:
            return first
        taken = {
            name: one.read_bytes() if isinstance(one, Path) else one
            for name, one in (inputs or {}).items()
        }
        self.worked.append((kind, request, taken))
        needed = (scope_of_job(kind), *scopes)
        job = self.put(f"job_{len(self.jobs)}", kind=kind, scopes=needed)
        if idempotency:
            self.keys[idempotency[0]] = (idempotency[1], job.id)
        return job

    async def earlier(self, kind: JobKind, key: str, digest: str) -> Job | None:
        return self._first((key, digest))

    def history(self, job_id: str, after: int = 0) -> JobHistory:
        self.reads += 1
        told = [entry for entry in self.entries.get(job_id, []) if entry.sequence > after]
        return JobHistory(self.get(job_id), told)

    def depths(self) -> dict[str, tuple[int, int]]:
        return {"training": (2, 1)}

    def counts(self) -> JobCounts:
        return JobCounts({("training", "training", "queued"): 2}, {"training": 7.5}, 0.0)

    def page(
        self,
        *,
        kind: JobKind | None,
        state: JobState | None,
        limit: int,
        cursor: str | None,
        without: Collection[str],
        reserve: Reserve,
    ) -> JobPage:
        found = [
            job
            for job in self.jobs.values()
            if kind in {None, job.kind}
            and state in {None, job.state}
            and job.id > (cursor or "")
            and not set(job.scopes or ()) & set(without)
        ]
        more = len(found) > limit
        items = [_stored(job) for job in found[:limit]]
        reserve(sum(len(one.result or "") for one in items))
        return JobPage(items, found[limit - 1].id if more else None)

    def using_subject(self, subject_id: str) -> tuple[str, ...]:
        return tuple(
            f"job_{place}"
            for place, (_, request, _) in enumerate(self.worked)
            if subject_id in (request.get("subjects") or ())
        )

    def subjects_in_training(self) -> set[str]:
        return {one for _, request, _ in self.worked for one in request.get("subjects") or ()}

    def subjects(self) -> set[str]:
        return set()

    def versions_of_people(self) -> set[tuple[str, int]]:
        return set()

    def cancel(self, job_id: str) -> Job:
        return self.put(job_id, **dict(self.get(job_id)) | {"state": "cancelled"})

    def delete(self, job_id: str) -> None:
        if self.get(job_id).state not in FINISHED:
            raise Conflict("The job is not finished; cancel it first.")
        del self.jobs[job_id]


@dataclass
class FakeChanges:
    """The change feed of a service with one process."""

    key_cache: KeyCache
    keyed: bool
    announced: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    async def require_current(self) -> None:
        """Nobody else changes anything."""

    async def check(self, topic: str) -> None:
        if self.keyed:
            await self.key_cache.refresh()

    async def announce(self, *topics: str, seconds: float = 2.0) -> bool:
        self.announced += topics
        for topic in topics:
            with suppress(OpsinError):
                await self.check(topic)
        return True


class SlowConversions:
    """Conversions that are never finished in time."""

    async def until_made(
        self, model: str, version: int, kind: DerivedFormat, *, seconds: float
    ) -> None:
        raise ModelNotReady("It is being converted. Ask again.", retry_after=10)


def datasets_in(folder: Path, limits: Limits | None = None) -> Datasets:
    """Real datasets in a home of their own; their database has no tables yet."""
    if not (folder / FILE).exists():
        (folder / FILE).write_text("ins_1\n")
    engine = open_engine(f"sqlite:///{folder / 'opsin.db'}")
    store = DatasetStore(folder / "datasets", limits or Limits(free_bytes=0))
    return Datasets(store, DatasetRows(engine, lambda: datetime.now(UTC)))


def face_services_in(
    folder: Path, *, redis_url: str = "unix:///nowhere", tables: bool = False
) -> FaceServices:
    """Real face services; without a URL, Redis does not respond."""
    settings = Settings(_env_file=None, home=folder)
    engine = open_engine(settings.database)
    if tables:
        make_home(settings)
    client = Redis.from_url(redis_url)
    return open_face_services(
        settings, engine, client, JobFiles.of(settings), lambda: datetime.now(UTC)
    )


@dataclass
class FakeServices:
    """The parts of one service, for tests to read and change.

    Keys and audit log have tables once `with_keys` was called.
    """

    dispatcher: FakeDispatcher = field(default_factory=FakeDispatcher)
    workers: FakeWorkers = field(default_factory=FakeWorkers)
    jobs: FakeJobs = field(default_factory=FakeJobs)
    decoder: FakeDecoder = field(default_factory=FakeDecoder)
    renderer: FakeDecoder = field(default_factory=FakeDecoder)
    store: Store = field(default_factory=lambda: Store(_new_folder() / "store"))
    files: JobFiles = field(default_factory=lambda: JobFiles(_new_folder() / "jobs"))
    datasets: Datasets = field(default_factory=lambda: datasets_in(_new_folder()))
    faces: FaceServices = field(default_factory=lambda: face_services_in(_new_folder()))
    explanations: ExplanationCache = field(default_factory=lambda: ExplanationCache(100_000))
    engine: Engine = field(
        default_factory=lambda: open_engine(f"sqlite:///{_new_folder()}/keys.db")
    )
    redis: Redis = field(default_factory=lambda: Redis(unix_socket_path="/nowhere", retry=NEVER))
    database: bool = True
    open_count: int = 0
    keyed: bool = False
    unread: list[str] = field(default_factory=list)

    def with_keys(self) -> Keys:
        """The real table of keys, which the service reads when it starts."""
        tables = [record.__table__ for record in (KeyRecord, KeyRevisionRecord, AuditRecord)]
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
    async def open_services(self, settings: Settings) -> AsyncIterator[Services]:
        self.open_count += 1
        key_cache = KeyCache(settings, self.keys)
        if self.keyed:
            await key_cache.start()
        else:
            key_cache.replace(KeySnapshot(revision=KeyRevision(0), keys={}, ever_created=0))
        yield Services(
            settings=settings,
            workers=self.workers,
            dispatcher=self.dispatcher,
            decoder=self.decoder,
            renderer=self.renderer,
            job_queue=self.jobs,
            jobs=self.jobs,
            job_files=self.files,
            store=self.store,
            conversions=SlowConversions(),
            datasets=self.datasets,
            explanations=self.explanations,
            layers=LayerCheck(self.store),
            keys=self.keys,
            key_cache=key_cache,
            changes=FakeChanges(key_cache, self.keyed, unread=self.unread),
            rate_limits=RateLimits(self.redis),
            sessions=Sessions(self.redis, key_cache, settings.session_idle_minutes * 60),
            audit=self.audit,
            faces=self.faces,
            database_ok=lambda: self.database,
            started_at=1.0,
        )
        await key_cache.stop()
        await self.redis.aclose()
        if self.faces.redis is not None:
            await self.faces.redis.aclose()
        self.open_count -= 1


def gray_png(brightness: int = 100, *, width: int = 40, height: int = 30) -> bytes:
    """A gray PNG image."""
    buffer = io.BytesIO()
    Image.new("L", (width, height), brightness).save(buffer, "PNG")
    return buffer.getvalue()
