"""What a model's versions cost that no worker has loaded: there may be hundreds of them."""

from pathlib import Path
from unittest.mock import create_autospec

import pytest
from redis.asyncio import Redis

from models.store.store import Store
from service.protocols.availability import model_status, repository_states
from service.queue.version_routing import VersionRouter
from service.queue.workers import WorkerRegistry
from tests.service.queue import test_version_routing as routing

store = routing.store


@pytest.fixture
def workers(store: Store, tmp_path: Path) -> WorkerRegistry:
    """One worker, which has loaded version 1; the champion is 2, and 3 has no alias."""
    workers = WorkerRegistry(create_autospec(Redis, instance=True), ("pets",), store)
    workers._router = routing.router(store, routing.worker("w1", routing.loaded(1)))
    return workers


def test_a_version_is_as_an_alias_and_the_workers_say(workers: WorkerRegistry) -> None:
    info = next(info for info in workers.models() if info.name == "pets")
    first, champion, unused = repository_states(workers, info)
    assert (first.state, first.reason) == ("READY", "")
    assert (champion.state, bool(champion.reason)) == ("UNAVAILABLE", True)
    assert (unused.state, "No alias" in unused.reason) == ("UNAVAILABLE", True)


def test_for_a_version_that_nothing_uses_no_error_is_made(
    workers: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each names all models and versions, which nobody reads: 400 versions took 12 ms."""
    info = next(info for info in workers.models() if info.name == "pets")
    monkeypatch.setattr(VersionRouter, "not_available_error", None)
    monkeypatch.setattr(VersionRouter, "names", None)
    first, unused = model_status(workers, info, [1, 3])
    assert (first.state, unused.state) == ("AVAILABLE", "END")
    assert "No alias" in unused.status.error_message
