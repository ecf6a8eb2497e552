"""The names that processes meet under: Celery tasks and queues, Redis keys."""

import hashlib

TASK_DRAIN = "opsin.drain"
TASK_RUN_JOB = "opsin.run_job"
TASK_CONVERT = "opsin.convert"
TASK_RING = "opsin.ring"
"""Tells a job worker that something waits in one of its queues; the jobs are in the database."""

CONVERSION_QUEUE = "conversions"
"""The Celery queue of conversions, which any worker can do whatever it holds."""

TRAINING_QUEUE = "training"
"""The queue of what takes minutes to hours and all cores."""

PICTURE_QUEUE = "pictures"
"""The queue of what takes seconds to minutes and makes pictures."""

FACE_QUEUE = "faces"
"""The queue of what somebody waits for, such as an enrollment."""


def inference_queue(model: str) -> str:
    """The Celery queue that the workers configured for `model` consume."""
    return f"inference.{model}"


def own_queue(worker_id: str) -> str:
    """The Celery queue of one worker alone, for what only it can do."""
    return f"worker.{worker_id}"


def lane(model: str, version: int, operation: str) -> str:
    """The Redis list on which the images of one model, version and operation wait."""
    return f"lane:{model}:{version}:{operation}"


def lane_flag(lane_key: str) -> str:
    """Set while a drain of that lane is on its way to a worker."""
    return f"{lane_key}:scheduled"


def lane_bell(lane_key: str) -> str:
    """A list of at most one mark, put there by a push; who lingers is woken by it.

    It only makes a drain sooner: where it is lost, the scheduled drain comes for what waits.
    """
    return f"{lane_key}:bell"


def lane_rate(lane_key: str) -> str:
    """The images a second that lane was last seen to drain."""
    return f"{lane_key}:rate"


def abandoned(item_id: bytes) -> bytes:
    """Set when the client of that item has gone; the worker drops the item."""
    return ABANDONED_PREFIX + item_id


ABANDONED_PREFIX = b"abandoned:"


def claims(worker_id: str) -> str:
    """The set of items a worker has taken and not yet answered."""
    return f"claims:{worker_id}"


def replies(api_id: str) -> str:
    """The Redis list on which one API process receives its answers."""
    return f"replies:{api_id}"


def worker_beat(worker_id: str) -> str:
    """The last sign of life of a worker, as JSON; expires when the worker is gone."""
    return f"worker:{worker_id}"


WORKERS = "workers"
"""The set of ids of workers that have given a sign of life; a beat may be gone already."""


EPOCH = "epoch"
"""Gone when the data of a Redis were wiped; see `service.queue.client.Lanes.incarnation`."""


def job_input(job_id: str) -> str:
    """The decoded images of a queued job."""
    return f"job:{job_id}:input"


JOB_INPUT = "images"
"""The file of a job's folder with the same, for when Redis has lost them."""


def conversion(model: str, version: int, kind: str) -> str:
    """How the conversion of a version fares; there while one is under way or has just failed."""
    return f"conversion:{model}:{version}:{kind}"


def face_failures(party: str) -> str:
    """When a subject or a device last failed to log in by face: a sorted set of moments."""
    return f"faces:failures:{party}"


def face_attempts(party: str) -> str:
    """The attempts of a subject or a device that are being judged now: a sorted set."""
    return f"faces:attempts:{party}"


def face_lock(party: str) -> str:
    """There while a subject or a device may not try."""
    return f"faces:lock:{party}"


BELL_EXPIRE_MS = 3000
"""A bell that nobody heard is silent after this long."""


FLAG_EXPIRE_MS = 3000
"""A drain that was lost with its worker stops being waited for after this long."""


def erased(subject_id: str) -> str:
    """There once a subject was erased: nothing of it is written to Redis any more.

    By a digest, so that not even the id stays there.
    """
    return f"erased:{hashlib.sha256(subject_id.encode()).hexdigest()[:32]}"


ERASED_SECONDS = 30 * 24 * 3600
"""As long as the longest of what is written of a subject; no id is ever given twice."""


def challenge(challenge_id: str) -> str:
    """A liveness challenge that was not answered yet."""
    return f"challenge:{challenge_id}"


def challenge_asked(subject_id: str, purpose: str) -> str:
    """The actions that every challenge for that subject asks for at present."""
    return f"challenge-asked:{purpose}:{subject_id}"


def challenges_drawn(subject_id: str) -> str:
    """How often actions were chosen for a subject within the hour."""
    return f"challenges-drawn:{subject_id}"


def challenges_made(client: str, subject_id: str = "") -> str:
    """How many challenges a client was given of late, in all or for one subject."""
    return f"challenges:{client}:{subject_id}"


def clips_seen(subject_id: str) -> str:
    """How the clips looked that were sent for a subject, newest first; goes with the subject."""
    return f"clips:{subject_id}"
