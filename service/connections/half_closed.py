"""Tells a client that has closed only its sending half from one that has gone.

Both look the same until something is sent to them: one that has gone answers with a reset, after
which the kernel knows the connection as closed.
"""

import asyncio
import socket

_CLOSED = 7  # TCP_CLOSE in Linux's include/net/tcp_states.h


def has_peer_gone(transport: asyncio.Transport, *, unknown: bool = True) -> bool:
    """Whether the other side has reset the connection; elsewhere than on Linux, `unknown`."""
    connection = transport.get_extra_info("socket")
    try:
        info: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except (AttributeError, OSError):
        return unknown
    return info[0] == _CLOSED
