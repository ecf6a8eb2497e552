"""The names that processes meet under: Celery tasks and queues, Redis keys."""

import hashlib
from dataclasses import dataclass
from typing import Self, cast

from contracts.inference.inference import Operation

TASK_BATCH = "opsin.drain"
"""Tells a worker that images wait in a queue or a group; for its arguments, see `batch_args`."""

TASK_RUN_JOB = "opsin.run_job"
TASK_CONVERT = "opsin.convert"

TASK_NOTIFY = "opsin.ring"
"""Tells a job worker that a job waits in one of its queues; the jobs are in the database."""

CONVERSION_QUEUE = "conversions"
"""The Celery queue of conversions, which any worker can do whichever models it serves."""

TRAINING_QUEUE = "training"
"""The queue of jobs that take minutes to hours and all cores."""

IMAGE_QUEUE = "pictures"
"""The queue of jobs that take seconds to minutes and make images."""

DATASET_QUEUE = "datasets"
"""The queue of jobs that read whole datasets, for seconds to hours."""

FACE_QUEUE = "faces"
"""The queue of jobs that a person waits for, such as an enrollment."""


def inference_queue(model: str) -> str:
    """The Celery queue that the workers configured for `model` consume."""
    return f"inference.{model}"


def own_queue(worker_id: str) -> str:
    """The Celery queue of a single worker, for tasks that only it can do."""
    return f"worker.{worker_id}"


@dataclass(frozen=True, slots=True)
class QueueName:
    """The queue of one model, version and operation, and the Redis keys that belong to it."""

    model: str
    version: int
    operation: Operation

    @property
    def key(self) -> str:
        """The list of the images that wait."""
        return f"lane:{self.model}:{self.version}:{self.operation}"

    @property
    def scheduled_key(self) -> str:
        """Set while a task for this queue is on its way to a worker."""
        return f"{self.key}:scheduled"

    @property
    def notify_key(self) -> str:
        """A list of at most one entry, which wakes a worker that waits for more images.

        It only saves time: if it is lost, the scheduled task still answers what waits.
        """
        return f"{self.key}:bell"

    @property
    def rate_key(self) -> str:
        """The images per second that a worker last answered from this queue."""
        return f"{self.key}:rate"

    @classmethod
    def of_key(cls, key: str) -> Self:
        """The queue whose `key` that is."""
        model, version, operation = key.removeprefix("lane:").rsplit(":", 2)
        return cls(model, int(version), cast("Operation", operation))


@dataclass(frozen=True, slots=True)
class QueueGroup:
    """Queues whose images may run in one batch, since their versions have one base.

    The images stay in their own queues. A worker that processes a group takes images from those
    that are ready, in turn.

    Attributes:
        name: What the workers announce for a version; the same on every host.
    """

    name: str

    @property
    def key(self) -> str:
        """What the keys of the group begin with."""
        return f"group:{self.name}"

    @property
    def ready_key(self) -> str:
        """The keys of the queues that contain images: a sorted set, by when they are due."""
        return f"{self.key}:ready"

    @property
    def scheduled_key(self) -> str:
        """Set while a task for this group is on its way to a worker."""
        return f"{self.key}:scheduled"

    @property
    def notify_key(self) -> str:
        """As that of a queue."""
        return f"{self.key}:bell"


def source_of(key: str) -> QueueName | QueueGroup:
    """The queue or the group whose `key` that is."""
    name = key.removeprefix("group:")
    return QueueName.of_key(key) if name == key else QueueGroup(name)


def batch_args(queue: QueueName, group: QueueGroup | None = None) -> list[str | int]:
    """The arguments of a batch task.

    Args:
        queue: What waits, or one of the group's queues that do.
        group: What to process in place of the queue; understood by workers whose heartbeat says so.
    """
    args: list[str | int] = [queue.model, queue.version, queue.operation]
    return args if group is None else [*args, group.name]


SCHEDULED_EXPIRE_MS = 3000
"""After this time, a task that was lost with its worker no longer counts as scheduled."""

NOTIFY_EXPIRE_MS = 3000

READY_EXPIRE_MS = 3600 * 1000
"""A name that is left over costs nothing but its place, and is skipped when it is taken."""


def scheduled_in(celery_queue: str) -> str:
    """What has a task in that Celery queue: keys of queues and groups, a sorted set by expiry.

    So a worker need not look at the `scheduled_key` of everything that it could process.
    """
    return f"scheduled:{celery_queue}"


def notify_in(celery_queue: str) -> str:
    """As `QueueName.notify_key`, for a new task in that Celery queue."""
    return f"bell:{celery_queue}"


ABANDONED_PREFIX = b"abandoned:"


def abandoned(item_id: bytes) -> bytes:
    """Set when the client of that item has gone; the worker drops the item."""
    return ABANDONED_PREFIX + item_id


def claims(worker_id: str) -> str:
    """The set of items that a worker has taken and not yet answered."""
    return f"claims:{worker_id}"


def lost_claims(worker_id: str) -> str:
    """Those claims whose images the worker does not have: what it was sent did not arrive.

    The API queues them again. Expires, and is written again while there are any.
    """
    return f"claims:{worker_id}:lost"


def replies(api_id: str) -> str:
    """The Redis list on which one API process receives its replies."""
    return f"replies:{api_id}"


def taken_replies(api_id: str) -> str:
    """The list of replies that were sent to an API process, until it is known that they arrived."""
    return f"replies:{api_id}:taken"


WORKERS = "workers"
"""The set of ids of workers that have sent a heartbeat; some may have expired since."""


def heartbeat_key(worker_id: str) -> str:
    """The last heartbeat of a worker, as JSON; expires when the worker is gone."""
    return f"worker:{worker_id}"


INSTALLATION = "installation"
"""The id of the home whose API uses this Redis; see `contracts.queue.installation`."""


CHANGES = "changes"
"""The change feed: a stream of what has changed; see `contracts.queue.changes`."""

API_PROCESSES = "api-processes"
"""The set of ids of API processes that follow the change feed; some may have stopped since."""


def api_process(api_id: str) -> str:
    """The id of the last change that an API process has applied; expires with the process."""
    return f"api-process:{api_id}"


SHARED_PIXELS = "shared-pixels"
"""The names of `SharedPixels`: a sorted set, by when their API process was last seen alive."""

SHARED_PIXELS_EXPIRE_SECONDS = 10


def session(token_digest: str) -> str:
    """A session of the console; expires when it is not used."""
    return f"session:{token_digest}"


def sessions_of(key_id: str) -> str:
    """The sessions of a key, a sorted set by their start; some may have ended since."""
    return f"sessions:{key_id}"


EPOCH = "epoch"
"""Absent after Redis was wiped; see `service.queue.client.QueueClient.server_epoch`."""


JOB_INPUT = "images"
"""The file in a job's folder with its decoded images; they are not in Redis."""


def conversion(model: str, version: int, kind: str) -> str:
    """The state of a conversion; present while it runs and shortly after it has ended."""
    return f"conversion:{model}:{version}:{kind}"


def face_failures(party: str) -> str:
    """When a subject or a device last failed to log in by face: a sorted set of times."""
    return f"faces:failures:{party}"


def face_attempts(party: str) -> str:
    """The attempts of a subject or a device that are in progress: a sorted set."""
    return f"faces:attempts:{party}"


def face_lock(party: str) -> str:
    """Present while a subject, a device or an address is locked out."""
    return f"faces:lock:{party}"


def face_locks(party: str) -> str:
    """How often a party was locked recently; each lock is twice as long as the one before."""
    return f"faces:locks:{party}"


def face_devices(subject_id: str) -> str:
    """The devices that recently matched as a subject: a sorted set of keyed hashes."""
    return f"faces:known:{subject_id}"


def erased(subject_id: str) -> str:
    """Present once a subject was erased; then nothing about it is written to Redis any more.

    The key holds a digest, so that not even the id stays in Redis.
    """
    return f"erased:{hashlib.sha256(subject_id.encode()).hexdigest()[:32]}"


ERASED_SECONDS = 30 * 24 * 3600
"""As long as the longest expiry of anything written about a subject; ids are never reused."""


def challenge(challenge_id: str) -> str:
    """A liveness challenge that has not been answered yet."""
    return f"challenge:{challenge_id}"


def challenge_answer(key_hash: str) -> str:
    """The challenge that a request with that Idempotency-Key was given, without its nonce."""
    return f"challenge-answer:{key_hash}"


def used_challenge(challenge_id: str) -> str:
    """A challenge that an enrollment has used, while that may still fail through our fault."""
    return f"challenge-used:{challenge_id}"


def challenge_actions(subject_id: str, purpose: str) -> str:
    """The actions that every challenge for that subject asks for at present."""
    return f"challenge-asked:{purpose}:{subject_id}"


def challenge_draws(subject_id: str, device: str = "") -> str:
    """How many times actions were chosen for a subject within the hour.

    Those for a device that the subject is known by are counted apart.
    """
    return f"challenges-drawn:{subject_id}" + (f":{device}" if device else "")


def challenges_issued(client: str, subject_id: str = "") -> str:
    """How many challenges a client was recently given, in all or for one subject."""
    return f"challenges:{client}:{subject_id}"


def recent_clips(subject_id: str, purpose: str = "login") -> str:
    """Perceptual hashes of the clips sent for a subject, newest first; erased with the subject."""
    return f"clips:{subject_id}" + ("" if purpose == "login" else f":{purpose}")
