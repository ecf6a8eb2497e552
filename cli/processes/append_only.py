"""Mends the append-only file of the embedded Valkey, where Valkey itself refuses to start.

After a rewrite of the file, a short write on a full disk leaves a hole of zeros in it: Valkey cuts
off what it has written, and goes on behind that (`openNewIncrAofForAppend` in its aof.c opens the
file without O_APPEND). What it needs then, `valkey-check-aof`, is not in the wheel.
"""

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from contracts.files import flush_entries

_FILES = "appendonlydir/*.incr.aof"
_COMMAND = re.compile(rb"\*(\d+)\r\n")
_ARGUMENT = re.compile(rb"\$(\d+)\r\n")
_NOTE = re.compile(rb"#[^\n]*\n")
_NOT_ZERO = re.compile(rb"[^\0]")
_PIECE = 2**20


def mend(folder: Path) -> str | None:
    """Remove what is not a command from the files.

    Args:
        folder: Of a Valkey that does not run.

    Returns:
        What was done; None if nothing had to be.

    Raises:
        OSError: A file cannot be read or written.
    """
    lost = holes = 0
    for path in sorted(folder.glob(_FILES)):
        size = path.stat().st_size
        with path.open("rb") as file:
            if not size:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                damage = list(_damage(content))
        if not damage:
            continue
        if not _without(path, damage):  # there is no room for a copy
            damage = [(damage[0][0], size)]
            os.truncate(path, damage[0][0])
        holes += len(damage)
        lost += size - damage[-1][0] if damage[-1][1] == size else 0
    if not holes:
        return None
    rest = f"; {lost:,} bytes behind it could not be read and are lost" if lost else ""
    return f"The append-only file of Valkey was damaged and is mended{rest}."


def _damage(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where each part begins and ends that is not a command.

    A last command that is cut off is not damage: Valkey leaves it out by itself.
    """
    at, size = 0, len(content)
    while at < size:
        if content[at] == 0:
            found = _NOT_ZERO.search(content, at)
            end = size if found is None or found[0] != b"*" else found.start()
            yield at, end
            at = end
        elif note := _NOTE.match(content, at):
            at = note.end()
        elif (after := _end_of_command(content, at)) is None:
            yield at, size
            return
        else:
            at = after


def _end_of_command(content: mmap.mmap, start: int) -> int | None:
    """Where a command ends; None if there is none. One that is cut off ends with the file."""
    size = len(content)
    command = _COMMAND.match(content, start)
    if command is None:
        return size if size - start < 32 and content[start : start + 1] == b"*" else None
    at = command.end()
    for _ in range(int(command[1])):
        argument = _ARGUMENT.match(content, at)
        if argument is None:
            return size if size - at < 32 else None
        at = argument.end() + int(argument[1]) + 2
        if at > size:
            return size
        if content[at - 2 : at] != b"\r\n":
            return None
    return at


def _without(path: Path, damage: list[tuple[int, int]]) -> bool:
    """Replace a file by a copy without some parts; False if there is no room for it."""
    copy, kept, start = path.with_suffix(".mended"), list[tuple[int, int]](), 0
    for begin, end in damage:
        kept.append((start, begin))
        start = end
    kept.append((start, path.stat().st_size))
    try:
        with path.open("rb") as file, copy.open("wb") as target:
            for begin, end in kept:
                file.seek(begin)
                for at in range(begin, end, _PIECE):
                    target.write(file.read(min(_PIECE, end - at)))
            target.flush()
            os.fsync(target.fileno())
    except OSError:
        with suppress(OSError):
            copy.unlink()
        return False
    copy.replace(path)
    flush_entries(path.parent)
    return True
