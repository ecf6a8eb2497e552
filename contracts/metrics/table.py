"""All metrics of Opsin. `docs/reference/metrics.md` lists the same; a test compares the two.

Labels have few values: never a subject, a job, a key or anything else that a client can choose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

Merge = Literal["sum", "max", "min", "process", "scrape"]
"""How the values of several processes become one: added, the extreme one, or all of them, each with
the labels of its process. `scrape`: read from Redis, the store and the database when asked."""

PREFIX = "opsin_"
PROCESS_LABELS = ("process", "host", "id")

_QUEUE = ("model", "version", "operation")
# Powers of about 2.5 from a millisecond to a minute: a cached heatmap to a slow explanation.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)
_LOAD_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: Without the prefix.
        labels: Names of its labels, besides those of a process.
        merge: How the values of several processes become one.
        buckets: Upper bounds, for a histogram.
        elsewhere: What it is called in Triton or TensorFlow Serving.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"
    buckets: tuple[float, ...] = ()
    elsewhere: str = ""

    @property
    def is_retained(self) -> bool:
        """Whether what a process has counted still counts when the process is gone."""
        return self.kind != "gauge" and self.merge == "sum"

    def owner(self, labels: Sequence[str]) -> tuple[str, str] | None:
        """The model and version that a series belongs to and goes with.

        The version is empty if the series belongs to the model as a whole; None if to neither.
        """
        if self.labels[:1] != ("model",) or not labels or not labels[0]:
            return None
        return labels[0], labels[1] if self.labels[1:2] == ("version",) else ""


def _counter(name: str, text: str, *labels: str, elsewhere: str = "") -> Family:
    return Family(name, "counter", text, labels, elsewhere=elsewhere)


def _seconds(name: str, text: str, *labels: str, elsewhere: str = "") -> Family:
    return Family(name, "histogram", text, labels, buckets=SECONDS, elsewhere=elsewhere)


def _gauge(name: str, text: str, *labels: str, merge: Merge = "sum", elsewhere: str = "") -> Family:
    return Family(name, "gauge", text, labels, merge, elsewhere=elsewhere)


_HTTP = (
    _counter(
        "http_requests_total",
        "HTTP requests, by operation of the OpenAPI document and status.",
        *("operation", "status"),
        elsewhere="TF Serving: `:tensorflow:serving:request_count`",
    ),
    _seconds(
        "http_request_seconds",
        "From the arrival of a request to its last byte.",
        "operation",
        elsewhere="TF Serving: `:tensorflow:serving:request_latency` (microseconds)",
    ),
    _gauge("http_requests_in_progress", "HTTP requests that are being answered."),
    _counter("refused_requests_total", "Requests refused by a limit (429), by code.", "reason"),
)

_INFERENCE = (
    _counter(
        "requests_total",
        "Inference requests by outcome; `reason` is the error's code, empty for a success.",
        *(*_QUEUE, "outcome", "reason"),
        elsewhere="Triton: `nv_inference_request_success`, `nv_inference_request_failure{reason}`",
    ),
    _seconds(
        "request_seconds",
        "Inference requests, from arrival to last byte.",
        *_QUEUE,
        elsewhere="Triton: `nv_inference_request_duration_us`",
    ),
    _counter(
        "images_total",
        "Images of inference requests; `reason` is the error's code, empty for a success.",
        *(*_QUEUE, "reason"),
        elsewhere="Triton: `nv_inference_count`",
    ),
    _seconds(
        "decode_seconds",
        "Decoding one image, with the wait for a thread.",
        *_QUEUE,
        elsewhere="Triton: `nv_inference_compute_input_duration_us`",
    ),
    _seconds("render_seconds", "Drawing the heatmaps of one request.", *_QUEUE),
    _gauge(
        "pending_images",
        "Images that API processes wait for.",
        *_QUEUE,
        elsewhere="Triton: `nv_inference_pending_request_count`",
    ),
    _counter(
        "heatmap_cache_requests_total", "Heatmaps looked up in the cache: hit or miss.", "reason"
    ),
    _gauge("heatmap_cache_bytes", "Memory of the cached heatmaps."),
    _counter("requeued_images_total", "Images queued again because their worker was lost."),
)

_WORKER = (
    _counter(
        "executions_total",
        "Batches that workers have run.",
        *_QUEUE,
        elsewhere="Triton: `nv_inference_exec_count`",
    ),
    _counter(
        "computed_images_total",
        "Images that workers have run; `reason` is the error's code, empty for a success.",
        *(*_QUEUE, "reason"),
        elsewhere="Triton: `nv_inference_count`",
    ),
    _counter(
        "dropped_images_total", "Images that workers dropped unanswered.", *(*_QUEUE, "reason")
    ),
    _seconds(
        "queue_seconds",
        "From queuing an image to the start of its batch.",
        *_QUEUE,
        elsewhere="Triton: `nv_inference_queue_duration_us`",
    ),
    _seconds(
        "compute_seconds",
        "One batch in the network.",
        *_QUEUE,
        elsewhere="Triton: `nv_inference_compute_infer_duration_us`",
    ),
    _seconds(
        "reply_seconds",
        "Sending the replies of one batch.",
        *_QUEUE,
        elsewhere="Triton: `nv_inference_compute_output_duration_us`",
    ),
    Family(
        "batch_images",
        "histogram",
        "Images in one batch.",
        _QUEUE,
        buckets=_BATCH,
        elsewhere="Triton: `nv_inference_count / nv_inference_exec_count`",
    ),
    _counter("version_loads_total", "Versions loaded, by outcome.", *("model", "outcome")),
    Family(
        "version_load_seconds",
        "histogram",
        "Loading and warming up a version.",
        ("model",),
        buckets=_LOAD_SECONDS,
        elsewhere="TF Serving: `:tensorflow:cc:saved_model:load_latency`",
    ),
    _counter("version_evictions_total", "Versions dropped from memory.", "model"),
)

_JOBS = (
    _counter(
        "jobs_ended_total",
        "Jobs that have ended; `reason` is the code of a failure.",
        *("operation", "outcome", "reason"),
    ),
    _counter("training_epochs_total", "Epochs trained, by phase.", "phase"),
    _counter("training_images_total", "Images seen by trainings, by phase.", "phase"),
    _counter(
        "dataset_files_total",
        "Files of datasets; `reason` is why one was refused, empty if it was admitted.",
        "reason",
    ),
    _gauge(
        "jobs",
        "Jobs in the database, by operation, queue and state.",
        *("operation", "queue", "state"),
        merge="scrape",
    ),
    _gauge("job_queue_age_seconds", "Age of the oldest queued job.", "queue", merge="scrape"),
    _gauge(
        "job_overdue_seconds",
        "For how long the lease of a running job has not been renewed, at most.",
        merge="scrape",
    ),
)

_FACES = (
    _counter("face_enrollments_total", "Enrollments by outcome.", *("outcome", "reason")),
    _counter("face_logins_total", "Logins by decision.", *("decision", "reason")),
    _counter("face_lockouts_total", "Lockouts that began."),
)

_STATE = (
    _gauge("info", "The release.", "version", merge="scrape"),
    _gauge("ready", "Whether the service can serve.", merge="scrape"),
    _gauge("part_ready", "Whether a part of the service answers.", "part", merge="scrape"),
    _gauge("workers", "Live workers.", "kind", merge="scrape"),
    _gauge(
        "worker_heartbeat_timestamp_seconds",
        "When a worker last reported, by the clock of its host.",
        *("worker", "host"),
        merge="scrape",
    ),
    _gauge("model_ready", "Whether a model serves.", "model", merge="scrape"),
    _gauge(
        "loaded_workers", "Workers that have loaded a version.", "model", "version", merge="scrape"
    ),
    _gauge(
        "queue_images",
        "Images that wait in Redis.",
        *_QUEUE,
        merge="scrape",
        elsewhere="TF Serving: `:tensorflow:serving:batching_session:queue_size`",
    ),
    _gauge(
        "queue_drained_images_per_second",
        "How fast a queue was last emptied by one worker.",
        *_QUEUE,
        merge="scrape",
    ),
    _gauge("queue_limit_images", "Images that may wait in one queue.", merge="max"),
    _gauge("store_versions", "Versions in the store.", "model", merge="scrape"),
    _gauge("home_free_bytes", "Free space on the disk of OPSIN_HOME.", merge="min"),
    _gauge("home_bytes", "Size of the disk of OPSIN_HOME.", merge="min"),
)

_DEPENDENCIES = (
    _counter("redis_errors_total", "Failed calls of Redis, by kind of error.", "reason"),
    _counter("redis_retries_total", "Calls of Redis that were repeated."),
    _counter("redis_connections_total", "Connections opened to Redis; all but the first again."),
    _counter("database_errors_total", "Failed statements, by kind of error.", "reason"),
    _counter(
        "database_retries_total",
        "Broken connections to the database that were replaced before a statement was sent.",
    ),
    _counter("database_connections_total", "Connections opened to the database."),
    _gauge("metrics_processes", "Processes whose metrics are in this answer.", merge="scrape"),
)

_PROCESS = (
    Family("process_cpu_seconds_total", "counter", "CPU time.", merge="process"),
    _gauge("process_resident_memory_bytes", "Resident memory.", merge="process"),
    _gauge("process_open_fds", "Open descriptors.", merge="process"),
    _gauge("process_max_fds", "Limit of open descriptors.", merge="process"),
    _gauge("process_threads", "Threads.", merge="process"),
    _gauge("process_start_time_seconds", "Unix time of its start.", merge="process"),
    _gauge(
        "event_loop_lag_seconds",
        "By how much the event loop was late at most within the last second.",
        merge="process",
    ),
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(*_HTTP, *_INFERENCE, *_WORKER, *_JOBS),
        *(*_FACES, *_STATE, *_DEPENDENCIES, *_PROCESS),
    )
}
