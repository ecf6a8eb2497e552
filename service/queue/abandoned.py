"""Marks images whose clients have gone, so that workers that take them drop them.

Only what waits in a queue is marked: a mark that no worker finds stays until the image's deadline,
and a client that hangs up in vain a hundred times a second would fill the memory of Redis.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.exceptions import RedisError

from contracts.queue.messages import Item
from service.detached import DetachedTasks
from service.queue.client import QueueClient
from service.queue.replies import Replies

log = structlog.get_logger()


class AbandonedItems:
    """What one API process marks.

    Args:
        queues: Where the marks are.
        replies: What is awaited.
    """

    def __init__(self, queues: QueueClient, replies: Replies) -> None:
        self._queues = queues
        self._replies = replies
        self._marking = DetachedTasks()
        self._pushing: set[bytes] = set()
        self._left: dict[bytes, float] = {}

    @contextmanager
    def pushing(self, items: Sequence[Item]) -> Iterator[set[bytes]]:
        """While images are being pushed, those that are left are not marked; afterwards they are.

        Yields:
            Receives the ids of those for which there was no room, which are never marked.
        """
        ids = {item.id for item in items}
        refused: set[bytes] = set()
        self._pushing |= ids
        try:
            yield refused
        finally:
            self._pushing -= ids
            for item_id in refused:
                self._replies.forget(item_id)
            left = {item_id: self._left.pop(item_id) for item_id in ids & self._left.keys()}
            queued = [item_id for item_id in left if item_id not in refused]
            if queued:
                self._start(queued, max(left.values()))

    def leave(self, items: Sequence[Item], seconds: float) -> None:
        """Forget the images; those still awaited, because the client left, are marked.

        Args:
            items: Of a request that has ended.
            seconds: How long they may wait in the queue.
        """
        unanswered = [item.id for item in items if item.id in self._replies.pending]
        for item_id in unanswered:
            self._replies.forget(item_id)
        self._left |= {item_id: seconds for item_id in unanswered if item_id in self._pushing}
        queued = [item_id for item_id in unanswered if item_id not in self._pushing]
        if queued:
            self._start(queued, seconds)

    def _start(self, ids: Sequence[bytes], seconds: float) -> None:
        # Not awaited: a Redis that has gone silent would delay the answer past its deadline.
        self._marking.start(self._mark(ids, max(seconds, 1)))

    async def _mark(self, ids: Sequence[bytes], seconds: float) -> None:
        try:
            await self._queues.abandon(ids, seconds=seconds)
        except (RedisError, OSError):
            log.warning("not_abandoned", count=len(ids))
