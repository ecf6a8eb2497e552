"""Which workers are alive and what they have loaded, in memory and refreshed in the background.

A request reads this registry and never Redis, so a missing worker costs it microseconds.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import NoWorker, OpsinError
from contracts.inference.inference import Operation
from contracts.inference.registry import LaneInfo, ModelInfo
from contracts.pages import page_json
from contracts.queue import redis_keys, scripts
from contracts.queue.clock import RedisClock
from contracts.queue.heartbeat import HEARTBEAT_SECONDS, WorkerBeat, read_heartbeats_async
from contracts.queue.installation import INSTALLATION_EXPIRE_SECONDS, is_foreign
from contracts.queue.redis_keys import QueueGroup, QueueName
from contracts.queue.shared_pixels import SharedPixels
from database.paging import decode_name, encode_cursor
from models.store.snapshot import ServedVersion, StoreSnapshot
from models.store.store import Store
from service.metrics.request_record import current_record
from service.periodic import PeriodicTask
from service.queue.faults import redis_fault
from service.queue.groups import Groups
from service.queue.version_routing import VersionRouter
from service.shared_check import SharedCheck

log = structlog.get_logger()

_REFRESH_SECONDS = 0.5
_LOST_SECONDS = 0.4  # that a Redis is waited for which did not answer the last time
_POLL_SECONDS = 0.1
_OTHER_WORKERS_SECONDS = 5.0
_KEPT_SECONDS = 2 * HEARTBEAT_SECONDS


class WorkerRegistry:
    """The latest heartbeats of all workers, and the store that they serve from.

    Args:
        client: A connection whose answers are bytes.
        configured: The names in `OPSIN_MODELS`, in order.
        store: Where the workers load versions from.
        pixels: Memory of this process that workers may read, if there is any.
        installation: The id of the home, if it has one; workers of other homes are ignored.

    Attributes:
        clock: The time of the deadlines in the queues, measured with every refresh.
        redis_ok: Whether Redis answered the last refresh.
        redis_fault: What it answered otherwise; "" if it did not answer.
        refreshed_at: `time.monotonic()` of the last refresh.
    """

    def __init__(
        self,
        client: Redis,
        configured: tuple[str, ...],
        store: Store,
        pixels: SharedPixels | None = None,
        *,
        installation: str | None = None,
    ) -> None:
        self._client = client
        self._pixels = pixels
        self._queues_script = client.register_script(scripts.READ_QUEUES)
        self._configured = configured
        self._store = store
        self._router = VersionRouter(configured, StoreSnapshot(), ())
        self._check = SharedCheck(self._refresh)
        self._task = PeriodicTask("workers", self.refresh, seconds=_REFRESH_SECONDS)
        self._installation = installation
        self._kept_until = float("-inf")
        self._holds = False  # this Redis, for the installation
        self._foreign: frozenset[str] = frozenset()  # ids of workers that were logged
        self._job_workers: tuple[WorkerBeat, ...] = ()
        self._reads_origins = False
        self._read_shared_pixels = False
        self._groups = Groups()
        self._rates: dict[QueueName, float] = {}
        self._depths: dict[QueueName, int] = {}
        self.clock = RedisClock()
        self.redis_ok = False
        self.redis_fault = ""
        self._lost = False  # it did not answer the last time, which is not known at the start
        self._probe: asyncio.Task[object] | None = None  # whether a lost Redis answers again
        self.refreshed_at = 0.0

    @property
    def workers(self) -> tuple[WorkerBeat, ...]:
        """The live inference workers."""
        return self._router.workers

    @property
    def reads_origins(self) -> bool:
        """Whether all live inference workers do; see `WorkerBeat`."""
        return self._reads_origins

    @property
    def read_shared_pixels(self) -> bool:
        """Whether all live inference workers can read the shared memory of this process."""
        return self._read_shared_pixels

    def group(self, queue: QueueName) -> QueueGroup | None:
        """What the workers process in place of a queue, together with others."""
        return self._groups.of(queue)

    @property
    def job_workers(self) -> tuple[WorkerBeat, ...]:
        """The live job workers."""
        return self._job_workers

    async def start(self) -> None:
        await self.refresh()
        self._task.start()

    async def stop(self) -> None:
        await self._task.stop()
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)

    def rate(self, queue: QueueName) -> float | None:
        """Images per second that a worker processes from a queue; None if none lately."""
        return self._rates.get(queue)

    @property
    def waiting(self) -> set[QueueName]:
        """The queues in which images waited when they were last looked at."""
        return {queue for queue, depth in self._depths.items() if depth}

    def queues(self) -> list[LaneInfo]:
        """The queues of all loaded versions, sorted by name."""
        depths = {queue.key: (depth, self.rate(queue)) for queue, depth in self._depths.items()}
        return [
            LaneInfo(name=name, depth=depth, drain_rate=rate)
            for name, (depth, rate) in sorted(depths.items())
        ]

    def choose(
        self, model: str | None, version: str | None, operation: Operation
    ) -> tuple[ServedVersion, int]:
        """The version that answers a request: one that a worker has loaded.

        Args:
            model: Its name, or None for the first of `OPSIN_MODELS` that supports the operation.
            version: An integer, an alias, or None for the champion.
            operation: What it has to support.

        Raises:
            ModelNotFound: No such model.
            VersionNotFound: No such version or alias.
            ModelNotReady: Workers are alive, but none can do it (yet).
            NoWorker: No worker is alive.
        """
        record = current_record()
        record.chosen(operation)
        for name in (model,) if model is not None else self._configured:
            chosen = self._router.choose(name, version, operation)
            if chosen is not None:
                record.chosen(operation, name, chosen.manifest.version)
                return chosen, chosen.manifest.version
        name = model or self._configured[0]
        error = self._router.not_available_error(name, version, operation)
        if isinstance(error, NoWorker) and not self.redis_ok:
            why = self.redis_fault or "Redis does not answer."
            detail = f"{why} Without it, no worker can be reached."
            raise NoWorker(detail, retry_after=error.retry_after)
        raise error

    def answers(self, model: str, version: int, operations: Iterable[Operation]) -> bool:
        """Whether `choose` finds a version for any of the operations; makes no error if not."""
        number = str(version)
        return any(self._router.choose(model, number, one) is not None for one in operations)

    def models(self) -> list[ModelInfo]:
        """Every model of the catalog, the settings and the store with its present state."""
        return [self._router.model_info(name) for name in self._router.names()]

    def model(self, name: str) -> ModelInfo:
        """One of them.

        Raises:
            ModelNotFound: There is no such model.
        """
        return self._router.find(name)

    def models_page(self, limit: int, cursor: str | None) -> str:
        """A page of them as the JSON of `Page[ModelInfo]`.

        Raises:
            ValidationFailed: The cursor is not valid.
        """
        names = self._router.names_after(decode_name(cursor) if cursor is not None else None)
        shown = names[:limit]
        next_cursor = encode_cursor(shown[-1]) if len(names) > limit else None
        return page_json(map(self._router.model_json, shown), next_cursor)

    async def until_served(self, model: str, version: int, *, seconds: float) -> bool:
        """Wait until the live workers have loaded a version; False if none does in that time.

        Once one has, the others get a few seconds more: if that one is lost afterwards, the version
        still answers. Returns early if waiting is pointless: no worker is alive, or all that tried
        have failed.
        """
        until = time.monotonic() + seconds
        while True:
            await self.refresh()
            served = self._router.will_be_served(model, version)
            if served and self._router.is_awaited(model, version):
                until = min(until, time.monotonic() + _OTHER_WORKERS_SECONDS)
            elif served is not None:
                return served
            if time.monotonic() + _POLL_SECONDS > until:
                return served is True
            await asyncio.sleep(_POLL_SECONDS)

    async def refresh(self) -> None:
        """Read Redis and the store once; what is known afterwards is from after the call."""
        await self._check.refresh()

    def is_older_than(self, moment: float) -> bool:
        """Whether Redis and the store must be read to know them as of `moment`.

        Without Redis no version can be chosen, and reading would only wait for it.
        """
        return self.redis_ok and self._check.is_older_than(moment)

    async def _refresh(self) -> None:
        if self._lost and not await self._answers_again():
            await self._read_store_alone()
        else:
            try:
                await self._read()
                self.redis_ok, self._lost, self.redis_fault = True, False, ""
            except (RedisError, OSError) as error:
                self._note_fault(error)
                if self.redis_ok:
                    log.warning("redis_lost", error=type(error).__name__)
                self.redis_ok, self._lost = False, True
                await self._read_store_alone()
        self.refreshed_at = time.monotonic()

    async def _answers_again(self) -> bool:
        """Whether a Redis that was lost answers by now, which is not waited for.

        The store must not wait for it: a change of the store that was announced has to be known, or
        every request would be refused until Redis is back. The question goes on meanwhile: asked
        anew each time, it would never be answered by a Redis that is far away.
        """
        if self._probe is None:
            self._probe = asyncio.create_task(self._ping(), name="redis_probe")
        done, _ = await asyncio.wait({self._probe}, timeout=_LOST_SECONDS)
        if not done:
            return False
        probe, self._probe = self._probe, None
        if probe.cancelled():
            return False
        if (error := probe.exception()) is not None:
            self._note_fault(error)
        return error is None

    def _note_fault(self, error: BaseException) -> None:
        fault = redis_fault(error)
        self.redis_fault = "" if fault is None else fault[1]

    async def _ping(self) -> object:
        return await self._client.time()

    async def _read_store_alone(self) -> None:
        self._job_workers = ()
        store = await self._read_store(())
        self._router = VersionRouter(self._configured, store, ())

    async def _read(self) -> None:
        started, jumped = self.clock.start(), self.clock.jumped
        self.clock.observe(started, await self._client.time())
        if self.clock.jumped > jumped:
            self._kept_until = time.monotonic() + _KEPT_SECONDS
        await self._hold()
        heartbeats = await read_heartbeats_async(self._client)
        for _ in heartbeats.unreadable:
            # A worker of another release; `opsin doctor` reports the difference.
            log.warning("heartbeat_unreadable")
        ours = self._with_kept(self._ours(heartbeats.workers))
        workers = tuple(beat for beat in ours if not beat.queues)
        readable = not heartbeats.unreadable
        self._reads_origins = readable and all(beat.reads_origins for beat in workers)
        self._groups = Groups(workers, readable=readable)
        if self._pixels is not None:
            await self._share(self._pixels.name, workers if readable else ())
        self._job_workers = tuple(beat for beat in ours if beat.queues)
        # The store is read after the workers, and both are replaced in one step: so every version
        # that answers is known.
        store = await self._read_store(workers)
        self._router = VersionRouter(self._configured, store, workers)
        await self._read_queues()

    async def _hold(self) -> None:
        """Let the workers know whose Redis this is, before they can be sent anything."""
        if self._installation is None:
            return
        key, expires = redis_keys.INSTALLATION, int(INSTALLATION_EXPIRE_SECONDS * 1000)
        pipe = self._client.pipeline(transaction=False)
        if self._holds:
            pipe.pexpire(key, expires)
        pipe.set(key, self._installation, nx=True, px=expires)
        pipe.get(key)
        held = not is_foreign(self._installation, (await pipe.execute())[-1])
        if not held and (self._holds or not self.refreshed_at):
            log.error("foreign_redis", hint="another installation uses it; check OPSIN_REDIS_URL")
        self._holds = held

    def _ours(self, beats: tuple[WorkerBeat, ...]) -> tuple[WorkerBeat, ...]:
        """The workers that serve from this home, or do not say from which."""
        known = {None, self._installation}
        if self._installation is None or all(beat.installation in known for beat in beats):
            self._foreign = frozenset()
            return beats
        foreign = [beat for beat in beats if beat.installation not in known]
        for beat in foreign:
            if beat.id not in self._foreign:
                log.error("foreign_worker", host=beat.host, pid=beat.pid, hint="check OPSIN_HOME")
        self._foreign = frozenset(beat.id for beat in foreign)
        return tuple(beat for beat in beats if beat.installation in known)

    def _with_kept(self, beats: tuple[WorkerBeat, ...]) -> tuple[WorkerBeat, ...]:
        """With those known before, until they have sent a heartbeat again.

        All heartbeats expire at once when the clock of Redis is set forward.
        """
        if time.monotonic() > self._kept_until:
            return beats
        ids = {beat.id for beat in beats}
        known = (*self.workers, *self._job_workers)
        return (*beats, *(beat for beat in known if beat.id not in ids))

    async def _share(self, name: bytes, workers: tuple[WorkerBeat, ...]) -> None:
        """Let the workers know this process's memory, and look whether all of them read it."""
        read = bool(workers) and all(name.hex() in beat.shared_pixels for beat in workers)
        if read != self._read_shared_pixels:
            log.info("shared_pixels", used=read)
        self._read_shared_pixels = read
        now, expires = self.clock(), redis_keys.SHARED_PIXELS_EXPIRE_SECONDS
        pipe = self._client.pipeline(transaction=False)
        pipe.zadd(redis_keys.SHARED_PIXELS, {name: now})
        pipe.zremrangebyscore(redis_keys.SHARED_PIXELS, "-inf", now - expires)
        pipe.expire(redis_keys.SHARED_PIXELS, expires)
        await pipe.execute()

    async def _read_store(self, workers: tuple[WorkerBeat, ...]) -> StoreSnapshot:
        before = self._router.store
        loaded = {
            (model.name, model.version)
            for worker in workers
            for model in worker.models
            if model.operations and model.version is not None
        }
        try:
            return await asyncio.to_thread(before.refreshed, self._store, loaded)
        except (OSError, ValueError, OpsinError):
            log.exception("store_unreadable")
            return before

    async def _read_queues(self) -> None:
        queues = list(
            {
                QueueName(model.name, model.version, operation)
                for worker in self.workers
                for model in worker.models
                for operation in model.operations
                if model.version is not None
            }
        )
        found: list[Any] = []
        if queues:
            found = await self._queues_script(keys=[queue.key for queue in queues])
        depths, rates = dict.fromkeys(queues, 0), {}
        for place, depth, rate in zip(found[::3], found[1::3], found[2::3], strict=True):
            depths[queues[place]] = depth
            if rate:
                rates[queues[place]] = float(rate)
        self._depths, self._rates = depths, rates
