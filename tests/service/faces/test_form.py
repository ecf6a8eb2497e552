"""A form of a large video is in memory once."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

from service.faces.form import TEXT, Allowed, Form, _Reader

MIB = 2**20
CHUNK = bytes(range(256)) * 256


async def body(chunks: int) -> AsyncIterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="subject_id"\r\n\r\nsub_a\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
    for _ in range(chunks):
        yield CHUNK
    yield b"\r\n--b--\r\n"


def read(chunks: int) -> Form:
    reader = _Reader(
        "multipart/form-data; boundary=b", {"subject_id": TEXT, "video": Allowed(64 * MIB)}
    )
    return asyncio.run(reader.read(body(chunks)))


def test_what_was_read_is_not_copied() -> None:
    chunks = 32 * MIB // len(CHUNK)
    tracemalloc.start()
    try:
        form = read(chunks)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert form.text("subject_id") == "sub_a"
    assert form.files("video") == [CHUNK * chunks]
    assert most < 1.5 * 32 * MIB
