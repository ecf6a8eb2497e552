"""Draining a lane: one Celery task answers everybody who waits, a batch at a time.

No timer makes anyone wait: an idle worker takes a lone image at once, and while it computes the
next ones gather by themselves, so the busier it is the fuller its batches are.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Protocol, get_args

import numpy as np
import structlog

from contracts.errors import OpsinError
from contracts.inference.inference import LaneOperation, Operation
from contracts.queue.messages import Item, Reply
from workers.inference.loaded_models import Held, Predictor
from workers.inference.queue import Answer, LaneName, Lanes

log = structlog.get_logger()

# Other lanes and jobs get their turn after this long, however much still comes in this one.
_TURN_SECONDS = 0.25
# A stop is noticed after this long at the latest.
_LISTEN_SECONDS = 0.1
_RATE_SMOOTHING = 0.3
_ORDER: tuple[LaneOperation, ...] = get_args(LaneOperation)
_VECTORS: tuple[Operation, ...] = get_args(Operation)
# One picture of a study may take minutes: what this worker does not hold, another one may take.
# Pictures with faces are large, and hold any number of them; a clip has hundreds.
_LIMITS: dict[LaneOperation, int] = {"faces": 4, "clip": 1, "study": 1}


class Answerer(Protocol):
    """Answers what is not a plain vector, such as explanations and faces."""

    def __call__(
        self,
        lane: LaneName,
        predictor: Predictor,
        items: Sequence[Item],
        give_way: Callable[[], None],
    ) -> Sequence[Answer]:
        """One answer an item, all of one note; `give_way` lets quicker lanes go first."""
        ...


class Drain:
    """Empties lanes into one worker's networks.

    Args:
        lanes: The Redis end.
        held: The versions in memory.
        batch_limit: Most images in one batch.
        linger_seconds: How long to wait for the next image before returning to Celery.
        stopping: Set when the worker was told to stop; the batch in hand is still answered.
        schedule: Sends another drain task of a lane.
        pass_on: Sends a drain of a version that is not held here to a worker that holds it;
            False if there is none.
        is_past: Whether no alias stands on a lane's version any more.
        answerers: Who answers the lanes that give no plain vector.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        lanes: Lanes,
        held: Held,
        *,
        batch_limit: int,
        linger_seconds: float,
        stopping: Event,
        schedule: Callable[[LaneName], None],
        pass_on: Callable[[LaneName], bool],
        is_past: Callable[[LaneName], bool],
        answerers: Mapping[LaneOperation, Answerer],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lanes = lanes
        self._held = held
        self._batch_limit = batch_limit
        self._linger_seconds = linger_seconds
        self._stopping = stopping
        self._schedule = schedule
        self._pass_on = pass_on
        self._is_past = is_past
        self._answerers = answerers
        self._clock = clock
        self._rates: dict[LaneName, float] = {}
        self._computing = 0
        self._last = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """For how long nothing has been computed; 0 while something is."""
        return 0.0 if self._computing else time.monotonic() - self._last

    def relieve(self, before: LaneOperation = "explain") -> None:
        """Drain every lane whose task waits: what a job does before each of its batches.

        Args:
            before: Only lanes that come before this one, which all answer in a moment.
        """
        quicker = _ORDER[: _ORDER.index(before)]
        waiting = [lane for lane in self._all() if lane.operation in quicker]
        for lane in self._lanes.scheduled(waiting):
            self(lane)

    def _all(self) -> list[LaneName]:
        """Every lane of what is held now."""
        return [
            LaneName(model, version, operation)
            for model, version in self._held.all()
            for operation in _ORDER
        ]

    def __call__(self, lane: LaneName) -> int:
        """Answer what waits in `lane`, for one turn; return how many images that were."""
        predictor = self._held.get(lane.model, lane.version)
        if predictor is None:
            self._refuse(lane)
            return 0
        others = [name for name in self._all() if name != lane]
        # More than its knee would run in pieces, and the first would wait for the last.
        most = min(self._batch_limit, predictor.batch_sizes[-1])
        limit = _LIMITS.get(lane.operation, most)
        self._lanes.begin(lane)
        answered, turn_ends = 0, time.monotonic() + _TURN_SECONDS
        while items := self._next_batch(lane, others, limit):
            answered += self._answer(lane, predictor, items)
            if self._stopping.is_set() or time.monotonic() > turn_ends:
                # What still comes is the next task's, of this worker or another. It stands in
                # line behind jobs and other lanes, which endless traffic would keep out.
                if self._lanes.schedule(lane):
                    self._schedule(lane)
                break
        return answered

    def _refuse(self, lane: LaneName) -> None:
        """A drain of a version that is not held here: another worker's, a later one's, or nobody's.

        The lane is left as it is, so no image is lost, unless it can be said for sure that nobody
        will ever come: then those who wait are told at once, and the API asks the next version.
        """
        if self._pass_on(lane):
            return
        self._lanes.begin(lane)  # the next nudge sends another drain
        if not self._is_past(lane):
            log.info("drain_left", lane=lane.key)
            return
        past = (
            "model_not_ready",
            f"Version {lane.version} of '{lane.model}' was taken out of service. Send it again.",
        )
        while items := self._lanes.take(lane, self._batch_limit):
            replies = [Reply(item.id, lane.version, 1, 0, 0, error=past) for item in items]
            self._lanes.answer(lane, list(zip(items, replies, strict=True)), 1.0)

    def _next_batch(self, lane: LaneName, others: Sequence[LaneName], limit: int) -> list[Item]:
        """The next images, waiting a moment for them unless another lane or a stop is pending."""
        lingers_until = time.monotonic() + self._linger_seconds
        while not (items := self._lanes.take_unless(lane, limit, others)):
            left = lingers_until - time.monotonic()
            if items is None or left <= 0 or self._stopping.is_set():
                return []
            rung = self._lanes.listen([lane, *others], min(left, _LISTEN_SECONDS))
            if rung not in (None, lane.key):
                return []  # another lane's drain is on its way, and gets its turn
        return items

    def _answer(self, lane: LaneName, predictor: Predictor, items: list[Item]) -> int:
        """Run and answer one batch, less what is past its deadline; return its size."""
        now = self._clock()
        late = [item for item in items if item.deadline <= now]
        self._lanes.drop(late)
        alive = [item for item in items if item.deadline > now]
        for group in _alike(alive):
            began = time.monotonic()
            self._computing += 1  # lanes that go first are answered within
            try:
                replies = self._run(lane, predictor, group, now)
            finally:
                self._computing -= 1
                self._last = time.monotonic()
            rate = len(group) / max(time.monotonic() - began, 1e-6)
            before = self._rates.get(lane)
            self._rates[lane] = before + _RATE_SMOOTHING * (rate - before) if before else rate
            self._lanes.answer(lane, list(zip(group, replies, strict=True)), self._rates[lane])
        return len(alive)

    def _run(
        self, lane: LaneName, predictor: Predictor, items: Sequence[Item], now: float
    ) -> list[Reply]:
        began = time.monotonic()
        try:
            answers = self._compute(lane, predictor, items)
        except OpsinError as error:
            told = (error.code, error.detail)
            return [Reply(item.id, predictor.version, 1, 0, 0, error=told) for item in items]
        except Exception:
            log.exception("batch_failed", lane=lane.key, size=len(items))
            if len(items) == 1:
                failed = ("internal_error", "The network failed on this image.")
                return [Reply(items[0].id, predictor.version, 1, 0, 0, error=failed)]
            # One image's fault must not fail its neighbours.
            return [self._run(lane, predictor, [item], now)[0] for item in items]
        seconds = time.monotonic() - began
        return [
            Reply(
                item.id,
                predictor.version,
                len(items),
                max(0.0, now - item.enqueued),
                seconds,
                vector=answer.vector,
                note=answer.note,
            )
            for item, answer in zip(items, answers, strict=True)
        ]

    def _compute(
        self, lane: LaneName, predictor: Predictor, items: Sequence[Item]
    ) -> Sequence[Answer]:
        for operation in _VECTORS:
            if lane.operation == operation:
                vectors = predictor.run(operation, np.stack([item.pixels for item in items]))
                answers: Sequence[Answer] = [Answer(vector) for vector in vectors]
                break
        else:
            answer = self._answerers[lane.operation]
            answers = answer(lane, predictor, items, lambda: self.relieve(lane.operation))
        if not all(np.isfinite(answer.vector).all() for answer in answers):
            raise FloatingPointError(f"{lane.key} gave a value that is not a number")
        return answers


def _alike(items: Sequence[Item]) -> list[list[Item]]:
    """The items in groups of one picture size and note, so that each group is one array."""
    groups: dict[tuple[tuple[int, ...], bytes], list[Item]] = {}
    for item in items:
        groups.setdefault((item.pixels.shape, item.note), []).append(item)
    return list(groups.values())
