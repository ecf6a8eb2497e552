"""`/metrics`: the state of the installation in the Prometheus text format.

All of it is read from Redis and the database, so every API process reports the same and a scrape of
any of them is enough.
"""

from collections.abc import Iterable

from contracts.inference.registry import JobQueueInfo
from contracts.settings import RELEASE
from service.dependencies import Services
from service.system.readiness import job_queues_of, readiness_of

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Samples = Iterable[tuple[dict[str, str], float]]


async def metrics_of(services: Services) -> str:
    """All metrics."""
    readiness = await readiness_of(services)
    jobs = await job_queues_of(services) or []
    workers = services.workers
    lanes, beats = list(workers.queues()), [*workers.workers, *workers.job_workers]
    parts = {"redis": readiness.redis, "database": readiness.database, "worker": readiness.worker}
    metrics: list[tuple[str, str, Samples]] = [
        ("info", "The release.", [({"version": RELEASE}, 1)]),
        ("ready", "Whether the service can serve.", [({}, readiness.ready)]),
        (
            "part_ready",
            "Whether a part that the service needs answers.",
            [({"part": name}, state == "ok") for name, state in parts.items()],
        ),
        (
            "workers",
            "Live workers.",
            [
                ({"kind": "inference"}, len(workers.workers)),
                ({"kind": "job"}, len(workers.job_workers)),
            ],
        ),
        (
            "worker_heartbeat_timestamp_seconds",
            "When a worker last reported, by the clock of its host.",
            [({"worker": beat.id, "host": beat.host}, beat.beat_at) for beat in beats],
        ),
        (
            "model_ready",
            "Whether a model serves.",
            [({"model": model.name}, model.state == "ready") for model in workers.models()],
        ),
        (
            "queue_images",
            "Images that wait, by queue.",
            [({"queue": lane.name}, lane.depth) for lane in lanes],
        ),
        (
            "queue_drained_images_per_second",
            "How fast a queue was last emptied.",
            [({"queue": o.name}, o.drain_rate) for o in lanes if o.drain_rate is not None],
        ),
        ("jobs", "Unfinished jobs, by queue and state.", _jobs(jobs)),
    ]
    return "".join(_family(name, text, samples) for name, text, samples in metrics)


def _jobs(queues: Iterable[JobQueueInfo]) -> Samples:
    for queue in queues:
        yield {"queue": queue.name, "state": "queued"}, queue.queued
        yield {"queue": queue.name, "state": "running"}, queue.running


def _family(name: str, text: str, samples: Samples) -> str:
    lines = [f"# HELP opsin_{name} {text}", f"# TYPE opsin_{name} gauge"]
    for labels, value in samples:
        pairs = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        lines.append(f"opsin_{name}{f'{{{pairs}}}' if pairs else ''} {float(value)!r}")
    return "\n".join([*lines, ""])


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
