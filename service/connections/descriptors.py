"""Keeps some of the process's open files for everything that is not a connection.

The system's limit is often 1,024, and 256 on macOS. Once connections have used it up, nobody can
connect, and neither the database nor a model can be opened.
"""

import resource
from contextlib import suppress

RESERVED = 288
"""Open files of a busy process besides its connections.

70 when it is idle, with sixteen listeners for each of two addresses, 50 connections to Redis, 30
files of the database, one for each of 70 threads that read or write, 16 for decoders, 4 uploads to
disk and `contracts.held_files.MAX_HELD` downloads. Whatever else is sent slowly is in memory.
"""
LEAVING_SHARE = 4
"""One in so many connections may be leaving beside the rest: closed, but not read to the end."""


def allowed_connections(wanted: int) -> int:
    """How many connections the process may have: as many as wanted if the system allows it.

    Raises the process's own limit on open files as far as needed and permitted.
    """
    needed = needed_files(wanted)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < needed:
        within = needed if hard < 0 else min(needed, hard)
        with suppress(OSError, ValueError):  # macOS has a further limit, which it does not name
            resource.setrlimit(resource.RLIMIT_NOFILE, (within, hard))
            soft = within
    return possible_connections(wanted, soft)


def possible_connections(wanted: int, limit: int) -> int:
    """How many of the connections are possible with a limit on open files; negative: none."""
    if limit < 0 or limit >= needed_files(wanted):
        return wanted
    return max(1, (limit - RESERVED) * LEAVING_SHARE // (LEAVING_SHARE + 1))


def needed_files(connections: int) -> int:
    """The open files of a process with so many connections."""
    return connections + connections // LEAVING_SHARE + RESERVED
