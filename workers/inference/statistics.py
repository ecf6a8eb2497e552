"""Counts what each version has answered, for the statistics of the Open Inference Protocol."""

from dataclasses import dataclass, field
from threading import Lock

from contracts.queue.heartbeat import BatchStatistics, VersionStatistics

_MAX_VERSIONS = 256
"""Of those that are counted; a heartbeat holds all of them."""


@dataclass(slots=True)
class _Counts:
    images: int = 0
    failed: int = 0
    queue_seconds: float = 0.0
    last_at: float = 0.0
    # Number of batches and their seconds, by size; no batch is larger than OPSIN_MAX_BATCH_SIZE.
    batches: dict[int, tuple[int, float]] = field(default_factory=dict)


class InferenceStatistics:
    """Counts since the worker started. Any thread may record and read."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[tuple[str, int], _Counts] = {}

    def record(
        self,
        model: str,
        version: int,
        *,
        size: int,
        queue_seconds: float,
        compute_seconds: float,
        at: float,
    ) -> None:
        """Count one batch.

        Args:
            model: The model's name.
            version: Its version.
            size: Images in the batch.
            queue_seconds: The waiting times of its images, added up.
            compute_seconds: How long the batch took.
            at: Unix time in seconds.
        """
        with self._lock:
            counts = self._counts_of(model, version)
            counts.images += size
            counts.queue_seconds += queue_seconds
            counts.last_at = at
            batches, seconds = counts.batches.get(size, (0, 0.0))
            counts.batches[size] = (batches + 1, seconds + compute_seconds)

    def record_failure(self, model: str, version: int) -> None:
        """Count an image that the network failed on."""
        with self._lock:
            self._counts_of(model, version).failed += 1

    def _counts_of(self, model: str, version: int) -> _Counts:
        counts = self._counts.setdefault((model, version), _Counts())
        if len(self._counts) > _MAX_VERSIONS:
            others = (key for key in self._counts if key != (model, version))
            del self._counts[min(others, key=lambda key: self._counts[key].last_at)]
        return counts

    def read(self) -> tuple[VersionStatistics, ...]:
        """The counts of every version."""
        with self._lock:
            return tuple(
                VersionStatistics(
                    model=model,
                    version=version,
                    images=counts.images,
                    failed=counts.failed,
                    queue_seconds=counts.queue_seconds,
                    last_at=counts.last_at,
                    batches=tuple(
                        BatchStatistics(size=size, batches=batches, compute_seconds=seconds)
                        for size, (batches, seconds) in sorted(counts.batches.items())
                    ),
                )
                for (model, version), counts in self._counts.items()
            )
