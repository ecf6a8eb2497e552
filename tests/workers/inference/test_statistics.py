from contracts.queue.heartbeat import BatchStatistics, WorkerBeat
from workers.inference.statistics import InferenceStatistics


def record(statistics: InferenceStatistics, model: str, *, size: int, at: float) -> None:
    statistics.record(model, 1, size=size, queue_seconds=0.5, compute_seconds=0.25, at=at)


def test_batches_are_counted_by_version_and_size() -> None:
    statistics = InferenceStatistics()
    for size in (1, 4, 4):
        record(statistics, "pets", size=size, at=100 + size)
    statistics.record_failure("pets", 1)
    statistics.record_failure("birds", 2)
    pets, birds = statistics.read()
    assert (pets.model, pets.version, pets.images, pets.failed) == ("pets", 1, 9, 1)
    assert (pets.queue_seconds, pets.last_at) == (1.5, 104)
    assert pets.batches == (
        BatchStatistics(size=1, batches=1, compute_seconds=0.25),
        BatchStatistics(size=4, batches=2, compute_seconds=0.5),
    )
    assert (birds.model, birds.images, birds.failed) == ("birds", 0, 1)


def test_only_so_many_versions_are_counted() -> None:
    statistics = InferenceStatistics()
    for number in range(300):
        record(statistics, f"model-{number}", size=1, at=number)
    record(statistics, "model-299", size=1, at=301)
    names = [one.model for one in statistics.read()]
    assert names == [f"model-{number}" for number in range(44, 300)]


def test_a_heartbeat_of_an_earlier_release_has_no_statistics() -> None:
    text = '{"id": "w", "host": "h", "pid": 1, "release": "1", "started_at": 0, "beat_at": 0}'
    assert WorkerBeat.model_validate_json(text).statistics == ()
