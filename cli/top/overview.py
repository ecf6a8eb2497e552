"""From two looks at a service to what it does now: rates, latencies, queues, jobs, processes."""

from datetime import UTC, datetime
from typing import Any

from cli.top.reading import Reading

Row = dict[str, Any]


def overview(before: Reading, now: Reading) -> Row:
    """What happened between two looks, and the state at the second; JSON.

    A number that cannot be known is null: a latency without a request, a rate of a series that is
    new.
    """
    change = _Change(before, now)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(change.seconds, 3),
        "release": next((labels["version"] for labels, _ in now.matching("info")), None),
        "ready": now.get("ready") == 1,
        "http": {
            "requests_per_second": change.rate("http_requests_total"),
            "in_progress": _whole(now.get("http_requests_in_progress")),
            "refused_per_second": change.rate("refused_requests_total"),
        },
        "models": _models(change),
        "queues": _queues(now),
        "jobs": {"queues": _job_queues(now), "running": [_job(job) for job in now.jobs]},
        "workers": _workers(now),
        "processes": _processes(change),
    }


class _Change:
    """Two looks at the same metrics."""

    def __init__(self, before: Reading, now: Reading) -> None:
        self.before, self.now = before, now
        self.seconds = max(now.at - before.at, 1e-3)

    def increase(self, name: str, **labels: str) -> float:
        """By how much counters have grown; one that began again counts whole."""
        grown = 0.0
        for found, value in self.now.matching(name, **labels):
            known = self.before.get(name, **found) or 0.0
            grown += value - known if value >= known else value
        return grown

    def rate(self, name: str, **labels: str) -> float:
        return round(self.increase(name, **labels) / self.seconds, 2)

    def mean(self, name: str, **labels: str) -> float | None:
        """Of a histogram."""
        count = self.increase(f"{name}_count", **labels)
        return round(self.increase(f"{name}_sum", **labels) / count, 5) if count else None

    def quantile(self, share: float, name: str, **labels: str) -> float | None:
        """Of a histogram, between the bounds of its bucket in proportion, as Prometheus does."""
        bounds = {float(found["le"]) for found, _ in self.now.matching(f"{name}_bucket", **labels)}
        counts = [
            (bound, self.increase(f"{name}_bucket", **labels, le=_le(bound)))
            for bound in sorted(bounds)
        ]
        if not counts or not counts[-1][1]:
            return None
        wanted, lower, below = share * counts[-1][1], 0.0, 0.0
        for bound, count in counts:
            if count >= wanted:
                if bound == float("inf"):
                    return lower
                part = (wanted - below) / (count - below) if count > below else 1.0
                return round(lower + (bound - lower) * part, 5)
            lower, below = bound, count
        return lower


def _le(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(bound)


def _models(change: _Change) -> list[Row]:
    """One row for each version and operation that was ever asked."""
    known = {
        (found["model"], found["version"], found["operation"])
        for found, _ in change.now.matching("requests_total")
        if found["model"]
    }
    rows = []
    for model, version, operation in sorted(known):
        labels = {"model": model, "version": version, "operation": operation}
        good = change.rate("requests_total", **labels, outcome="success")
        every = change.rate("requests_total", **labels)
        rows.append(
            {
                **labels,
                "requests_per_second": every,
                "failures_per_second": round(every - good, 2),
                "images_per_second": change.rate("images_total", **labels),
                "seconds_p50": change.quantile(0.5, "request_seconds", **labels),
                "seconds_p95": change.quantile(0.95, "request_seconds", **labels),
                "queue_seconds": change.mean("queue_seconds", **labels),
                "compute_seconds": change.mean("compute_seconds", **labels),
                "batch_images": change.mean("batch_images", **labels),
                "requests": _whole(change.now.sum("requests_total", **labels)),
            }
        )
    return rows


def _queues(now: Reading) -> list[Row]:
    """The queues of images in which some wait, or that were emptied lately."""
    rows = []
    for labels, waiting in sorted(
        now.matching("queue_images"), key=lambda one: sorted(one[0].items())
    ):
        rate = now.get("queue_drained_images_per_second", **labels)
        if waiting or rate is not None:
            rows.append({**labels, "waiting": _whole(waiting), "drained_images_per_second": rate})
    return rows


def _job_queues(now: Reading) -> list[Row]:
    names = {labels["queue"] for labels, _ in now.matching("jobs")}
    return [
        {
            "queue": name,
            "queued": _whole(now.sum("jobs", queue=name, state="queued")),
            "running": _whole(now.sum("jobs", queue=name, state="running")),
            "oldest_seconds": now.get("job_queue_age_seconds", queue=name),
        }
        for name in sorted(names)
    ]


def _job(job: Row) -> Row:
    progress = job.get("progress") or {}
    return {
        "id": job["id"],
        "kind": job["kind"],
        "phase": progress.get("phase"),
        "fraction": progress.get("fraction"),
        "eta_seconds": progress.get("eta_seconds"),
        "attempt": job.get("attempt"),
    }


def _workers(now: Reading) -> list[Row]:
    system = now.system
    beats = [("inference", beat) for beat in system.get("workers", ())]
    beats += [("job", beat) for beat in system.get("job_workers", ())]
    return [
        {
            "id": beat["id"],
            "kind": kind,
            "host": beat["host"],
            "pid": beat["pid"],
            "release": beat["release"],
            "models": [
                f"{held['name']}:{held['version']}" for held in beat["models"] if held["operations"]
            ],
            "queues": beat["queues"],
        }
        for kind, beat in beats
    ]


def _processes(change: _Change) -> list[Row]:
    now, rows = change.now, []
    for labels, memory in now.matching("process_resident_memory_bytes"):
        lag = now.get("event_loop_lag_seconds", **labels)
        rows.append(
            {
                **labels,
                "cores": change.rate("process_cpu_seconds_total", **labels),
                "memory_bytes": _whole(memory),
                "threads": _whole(now.get("process_threads", **labels)),
                "open_files": _whole(now.get("process_open_fds", **labels)),
                "event_loop_lag_seconds": lag if labels["process"] == "api" else None,
            }
        )
    order = {"api": 0, "worker": 1, "jobs": 2, "job": 3}
    return sorted(rows, key=lambda row: (order.get(row["process"], 9), row["host"], row["id"]))


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
