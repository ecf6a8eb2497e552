"""All large images of a process count in one budget, wherever they are decoded or drawn on."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from contracts.errors import DeadlineExceeded
from contracts.settings import Settings
from models.images.gate import Gate, at_once
from service.lifespan import open_services
from tests.tables import make_tables
from tests.valkey import RealValkey

PIXELS = 30_000_000


def work(*, large: Gate = at_once) -> None:
    with large(PIXELS):
        pass


def test_datasets_uploads_and_heatmaps_wait_for_each_other(
    tmp_path: Path, valkey: RealValkey
) -> None:
    settings = Settings(_env_file=None, home=tmp_path, redis_url=valkey.url)
    make_tables(settings.database)

    async def use() -> None:
        async with open_services(settings) as services:
            calls = (
                partial(services.decoder.run_image, work),
                partial(services.renderer.run, work, pixels=PIXELS),
            )
            with services.datasets.store.limits.large_image(settings.max_image_pixels):
                for call in calls:
                    with pytest.raises(DeadlineExceeded):
                        await call(deadline_seconds=0.3)
            for call in calls:
                await call(deadline_seconds=30)

    asyncio.run(use())
