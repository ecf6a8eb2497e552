"""A form of a large video is in memory once, and not at all where its words are refused."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from contracts.errors import SubjectNotFound
from service.faces.form import TEXT, Allowed, Form, _Reader

MIB = 2**20
FIELDS = {"subject_id": TEXT, "video": Allowed(64 * MIB)}
CHUNK = bytes(range(256)) * 256


async def body(chunks: int) -> AsyncIterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="subject_id"\r\n\r\nsub_a\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
    for _ in range(chunks):
        yield CHUNK
    yield b"\r\n--b--\r\n"


def read(chunks: int) -> Form:
    reader = _Reader("multipart/form-data; boundary=b", FIELDS, {})
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


def test_who_is_not_there_sends_no_video() -> None:
    told: list[str] = []
    taken = 0

    async def nobody(word: str) -> None:
        told.append(word)
        raise SubjectNotFound("There is no subject of that id.")

    async def counted() -> AsyncIterator[bytes]:
        nonlocal taken
        async for chunk in body(32):
            taken += 1
            yield chunk

    reader = _Reader("multipart/form-data; boundary=b", FIELDS, {"subject_id": nobody})
    with pytest.raises(SubjectNotFound):
        asyncio.run(reader.read(counted()))
    assert told == ["sub_a"]
    assert taken == 2, "a word ends where the boundary after it is"
