"""The list of models, as requests read it."""

import shutil
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
from tests.cli.backup.furnished import publish
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
    for limit in (1, 2, count, 200):
        found, cursor = list[ModelInfo](), None
        while True:
            page = Page[ModelInfo].model_validate_json(workers.models_page(limit, cursor))
            assert len(page.items) == min(limit, count - len(found))
            found += page.items
            if (cursor := page.next_cursor) is None:
                break
        assert found == models


async def test_a_model_that_is_made_or_deleted_between_two_pages_shifts_no_other(
    workers: WorkerRegistry, store: Store
) -> None:
    for name in ("birds", "cats", "dogs", "eels"):
        publish(store, name)
    await workers.refresh()
    names = [one.name for one in workers.models()]
    at = names.index("cats")
    cursor = Page[ModelInfo].model_validate_json(workers.models_page(at + 1, None)).next_cursor
    for gone in ("birds", "cats"):
        shutil.rmtree(store.path(gone, 1).parent)
    publish(store, "ants")
    publish(store, "cows")
    await workers.refresh()
    rest = Page[ModelInfo].model_validate_json(workers.models_page(200, cursor))
    assert [one.name for one in rest.items] == ["cows", *names[at + 1 :]]


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
    first = workers.models_page(50, None)
    assert '"aliases":{"champion":2}' in first
    for _ in range(3):
        assert workers.models_page(50, None) == first
    assert len(described) == len(workers.models())
    store.promote("pets", 3)
    await workers.refresh()
    assert '"aliases":{"champion":3}' in workers.models_page(50, None)
    assert workers.model("pets").aliases == {"champion": 3}
