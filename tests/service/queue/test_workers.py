"""The list of models, as requests read it."""

from pathlib import Path
from unittest.mock import create_autospec

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisGone

from contracts.inference.registry import ModelInfo
from contracts.pages import Page
from models.store.store import Store
from service.queue.version_routing import VersionRouter
from service.queue.workers import WorkerRegistry
from tests.service.queue import test_version_routing as routing

pytestmark = pytest.mark.anyio

store = routing.store


@pytest.fixture
def workers(store: Store, tmp_path: Path) -> WorkerRegistry:
    """No worker, and no Redis: only the store is read."""
    gone = create_autospec(Redis, instance=True)
    gone.time.side_effect = RedisGone
    return WorkerRegistry(gone, ("pets",), store)


async def test_a_page_of_models_is_that_of_their_json(workers: WorkerRegistry) -> None:
    await workers.refresh()
    models, count = workers.models(), len(workers.models())
    for limit, cursor in ((50, "0"), (2, "0"), (2, "2"), (1, str(count - 1)), (3, "999999999")):
        page = Page[ModelInfo].of(models, limit, cursor)
        found = Page[ModelInfo].model_validate_json(workers.models_page(limit, cursor))
        assert found == page, (limit, cursor)


async def test_models_are_described_once_and_anew_after_each_change(
    workers: WorkerRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 64 clients that list 500 models over and over made the others wait."""
    described, describe = list[str](), VersionRouter._model_info

    def counted(self: VersionRouter, name: str) -> ModelInfo:
        described.append(name)
        return describe(self, name)

    monkeypatch.setattr(VersionRouter, "_model_info", counted)
    await workers.refresh()
    first = workers.models_page(50, "0")
    assert '"aliases":{"champion":2}' in first
    for _ in range(3):
        assert workers.models_page(50, "0") == first
    assert len(described) == len(workers.models())
    store.promote("pets", 3)
    await workers.refresh()
    assert '"aliases":{"champion":3}' in workers.models_page(50, "0")
    assert workers.model("pets").aliases == {"champion": 3}
