"""Pixels in shared memory: bounded, never another item's, and gone with their process."""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from contracts.queue.messages import Item, MalformedMessageError
from contracts.queue.shared_pixels import SharedPixels, SharedPixelsReader, open_shared_pixels

SIDE = 128
LENGTH = SIDE * SIDE * 3
IMAGE = np.arange(LENGTH, dtype=np.uint32).astype(np.uint8).reshape(SIDE, SIDE, 3)
OWNER = """
import time, numpy as np
from contracts.queue.shared_pixels import SharedPixels
shared = SharedPixels()
print(shared.put(bytes(range(16)), np.full((128, 128, 3), 7, np.uint8)).hex(), flush=True)
time.sleep(600)
"""


def item_id(number: int) -> bytes:
    return number.to_bytes(16, "little")


@pytest.fixture
def shared() -> Iterator[SharedPixels]:
    with closing(SharedPixels(slots=2, slot_bytes=64 * 1024)) as shared:
        yield shared


def test_an_item_with_a_handle_is_read_whole(shared: SharedPixels) -> None:
    item = Item(item_id(1), 2.0, 1.0, "replies:x", IMAGE[:, ::-1], 2, 3, b"{}")
    raw = item.pack(shared.put(item.id, item.pixels))
    assert len(raw) < 128
    read = Item.unpack(raw, SharedPixelsReader().read)
    assert np.array_equal(read.pixels, item.pixels)
    assert read.pack() == item.pack()
    for cut in (raw[:-1], raw + b"x"):
        with pytest.raises(MalformedMessageError):
            Item.unpack(cut, SharedPixelsReader().read)
    with pytest.raises(MalformedMessageError):
        Item.unpack(raw)


def test_it_is_bounded_and_used_again(shared: SharedPixels) -> None:
    assert not shared.put(item_id(1), np.zeros((256, 256, 3), np.uint8))
    handles = [shared.put(item_id(number), IMAGE) for number in range(3)]
    assert [bool(handle) for handle in handles] == [True, True, False]
    shared.release(item_id(0))
    shared.release(item_id(0))
    shared.release(item_id(2))
    assert shared.put(item_id(3), IMAGE) == handles[0]
    assert not shared.put(item_id(4), IMAGE)


def test_a_slot_that_was_used_again_is_not_read(shared: SharedPixels) -> None:
    reader = SharedPixelsReader()
    handle = shared.put(item_id(1), IMAGE)
    assert np.array_equal(reader.read(handle, item_id(1), LENGTH), IMAGE.ravel())
    shared.release(item_id(1))
    assert shared.put(item_id(2), IMAGE) == handle
    with pytest.raises(MalformedMessageError):
        reader.read(handle, item_id(1), LENGTH)


def test_what_is_overwritten_while_it_is_read_is_not_taken(shared: SharedPixels) -> None:
    stop, reader, (read, torn) = Event(), SharedPixelsReader(), (0, 0)
    handle = shared.put(item_id(0), np.zeros_like(IMAGE))

    def overwrite() -> None:
        number = 0
        while not stop.is_set():
            shared.release(item_id(number))
            number = (number + 1) % 4
            assert shared.put(item_id(number), np.full_like(IMAGE, number)) == handle

    writer = Thread(target=overwrite)
    writer.start()
    try:
        while read < 200 or not torn:
            try:
                pixels = reader.read(handle, item_id(3), LENGTH)
            except MalformedMessageError:
                torn += 1
                continue
            read += 1
            assert (pixels == 3).all()
    finally:
        stop.set()
        writer.join()


def test_the_memory_of_a_process_that_was_killed_is_closed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        handle = bytes.fromhex(owner.stdout.readline())
        reader, name = SharedPixelsReader(), handle[:16]
        reader.follow([name])
        assert reader.names == (name.hex(),)
        assert (reader.read(handle, bytes(range(16)), LENGTH) == 7).all()
        assert mapped()
        owner.send_signal(signal.SIGKILL)
        owner.wait(60)
        reader.follow([])  # its name has expired
        assert reader.names == ()
        assert not mapped()
        with pytest.raises(MalformedMessageError):
            reader.read(handle, bytes(range(16)), LENGTH)
    finally:
        owner.kill()
        owner.wait()
        owner.communicate()


def mapped() -> bool:
    """Whether this process holds a memory, by a mapping or a file descriptor."""
    files = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return "opsin-pixels" in Path("/proc/self/maps").read_text() + "".join(files)


def test_other_files_are_not_opened(tmp_path: Path) -> None:
    """As when a process in another namespace has the same id."""
    (tmp_path / "opsin-pixels").write_bytes(bytes(8192))
    memory = os.memfd_create("opsin-pixels")
    os.ftruncate(memory, 8192)
    with (tmp_path / "opsin-pixels").open("rb") as file:
        for descriptor in (file.fileno(), memory, 10_000):
            name = struct.pack("<8sII", bytes(8), os.getpid(), descriptor)
            reader = SharedPixelsReader()
            reader.follow([name])
            assert reader.names == ()
    os.close(memory)


def test_the_memory_of_another_process_with_the_same_numbers_is_not_read(
    shared: SharedPixels,
) -> None:
    handle = shared.put(item_id(1), IMAGE)
    with pytest.raises(MalformedMessageError):
        SharedPixelsReader().read(bytes(8) + handle[8:], item_id(1), LENGTH)


def test_a_system_without_nameless_files_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_shared_pixels()
    assert opened is not None
    opened.close()
    monkeypatch.delattr(os, "memfd_create")  # as on macOS
    assert open_shared_pixels() is None
