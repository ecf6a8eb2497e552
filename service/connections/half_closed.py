"""Tells a client that has closed only its sending half from one that has gone.

Both look the same until something is sent to them: one that has gone answers with a reset, after
which the kernel knows the connection as closed.
"""

import asyncio
import select
import sys


def has_peer_gone(transport: asyncio.Transport, *, unknown: bool = True) -> bool:
    """Whether the other side has reset the connection; elsewhere than on Linux, `unknown`."""
    return _is_set(transport, 0, unknown=unknown)


def has_peer_ended(transport: asyncio.Transport) -> bool:
    """Whether the other side will send no more than what has arrived, which is yet to be read."""
    return sys.platform == "linux" and _is_set(transport, select.POLLRDHUP, unknown=False)


def _is_set(transport: asyncio.Transport, event: int, *, unknown: bool) -> bool:
    connection = transport.get_extra_info("socket")
    if connection is None or sys.platform != "linux":
        return unknown
    state = select.poll()  # cheap, as a thousand connections are asked four times a second
    state.register(connection.fileno(), event)
    return bool(state.poll(0))
