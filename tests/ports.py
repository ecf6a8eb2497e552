"""Ports for servers that tests start."""

import os
import random
import socket

# Below those that Linux (from 32768) and macOS (from 49152) give to outgoing connections and to
# servers that ask for any: such a port may be taken again before a test's server has started.
_PORTS = range(10_000, 32_000)
_WORKERS = 8  # processes of pytest-xdist that share the ports
_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback address on which nothing listens, different for each call.

    It is also different in each process of pytest-xdist.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    ports = set(_PORTS[worker::_WORKERS]) - _given
    chance = random.SystemRandom()  # other tests on this machine begin elsewhere
    while ports:
        port = chance.choice(sorted(ports))
        ports.remove(port)
        _given.add(port)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
