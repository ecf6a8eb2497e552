"""An upload that the disk does not take."""

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.errors import Unavailable
from service.datasets.archive_form import ArchiveForm


async def sent(size: int) -> AsyncIterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="archive"; filename="a.zip"\r\n\r\n'
    for _ in range(size // 65_536):
        yield bytes(65_536)
    yield b"\r\n--b--\r\n"


def save(target: Path, size: int) -> ArchiveForm:
    form = ArchiveForm("multipart/form-data; boundary=b", limit=1 << 30)
    asyncio.run(form.save(sent(size), target))
    return form


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        with pytest.raises(Unavailable, match="no room") as told:
            save(tmp_path / "full", 4 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.retry_after is not None
    assert save(tmp_path / "whole", 4 << 20).size == 4 << 20
