"""A TCP proxy whose connections can go silent, as if a NAT entry had vanished, or be cut."""

import socket
import threading
import time
from contextlib import suppress
from typing import Self

from sqlalchemy import make_url

from tests.ports import free_port


class SilentProxy:
    """Passes on what flows between its port on the loopback address and a server's.

    Args:
        url: The address of a server on the loopback address.

    Attributes:
        url: The address of the same server through this proxy.
        answered: Set when the server has answered what was last sent over a cut connection.
    """

    def __init__(self, url: str) -> None:
        address, port = make_url(url), free_port()
        self.url = address.set(port=port).render_as_string(hide_password=False)
        self._target = ("127.0.0.1", address.port or 0)
        self._listener = socket.create_server(("127.0.0.1", port))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._silent: set[socket.socket] = set()
        self._cut: tuple[bytes, float | None] | None = None
        self._cut_servers: set[socket.socket] = set()
        self.answered = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> int:
        """Drop what flows over the present connections from now on; returns how many there are.

        It is still read, and so acknowledged. New connections work.
        """
        with self._lock:
            self._silent |= self._open
            return len(self._open) // 2

    def cut(self, word: bytes, *, passed_on: float | None) -> None:
        """End the next connection that sends `word`, for its client at once.

        Args:
            passed_on: Seconds after which the server gets it; None if never.
        """
        self._cut = (word, passed_on)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # close() would not end a waiting accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    self._open |= {client, server}
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source in self._cut_servers:
                    self.answered.set()
                if self._cut and self._cut[0] in data:
                    (_, passed_on), self._cut = self._cut, None
                    source.shutdown(socket.SHUT_RDWR)
                    self._cut_servers.add(sink)
                    if passed_on is not None:
                        time.sleep(passed_on)
                        sink.sendall(data)
                    break
                if source not in self._silent:
                    sink.sendall(data)
        with self._lock:
            self._open.discard(source)
            is_silent = source in self._silent
            self._silent.discard(source)
        with suppress(OSError):
            if not is_silent:
                sink.shutdown(socket.SHUT_WR)
        if sink not in self._open:
            source.close()
            sink.close()
