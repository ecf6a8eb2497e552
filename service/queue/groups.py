"""Which queues are processed as a group: those whose versions share a base in every worker."""

from collections import defaultdict
from collections.abc import Sequence
from typing import get_args

from contracts.inference.inference import VectorOperation
from contracts.queue.heartbeat import WorkerBeat
from contracts.queue.redis_keys import QueueGroup, QueueName

_Version = tuple[str, int]

_OPERATIONS: tuple[str, ...] = get_args(VectorOperation)


class Groups:
    """The groups at one moment.

    A task for a group goes to any worker of its Celery queue, which then takes images of all of
    its queues. So a version belongs to one only if each worker that has loaded any version of the
    group has loaded this one too, and if no worker says otherwise; and there are groups only while
    all workers understand them.

    Args:
        workers: The live inference workers.
        readable: Whether the heartbeats of all workers could be read.
    """

    def __init__(self, workers: Sequence[WorkerBeat] = (), *, readable: bool = True) -> None:
        self._groups: dict[_Version, QueueGroup] = {}
        if not readable or not all(worker.reads_groups for worker in workers):
            return
        announced: defaultdict[_Version, set[str | None]] = defaultdict(set)
        members: dict[str, set[_Version]] = {}
        for worker in workers:
            own: defaultdict[str, set[_Version]] = defaultdict(set)
            for model in worker.models:
                if model.version is None or not model.operations:
                    continue
                announced[model.name, model.version].add(model.group)
                if model.group is not None:
                    own[model.group].add((model.name, model.version))
            for name, versions in own.items():
                members[name] = members.get(name, versions) & versions
        for name, versions in members.items():
            group = QueueGroup(name)
            self._groups |= {one: group for one in versions if announced[one] == {name}}

    def of(self, queue: QueueName) -> QueueGroup | None:
        """The group of a queue; None if it is processed by itself."""
        if queue.operation not in _OPERATIONS:
            return None
        return self._groups.get((queue.model, queue.version))
