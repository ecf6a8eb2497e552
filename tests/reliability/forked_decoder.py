"""Decoders of clips that are forked and not started, so that fuzzing tries fifty a second.

`models.faces.liveness.video` starts an interpreter for each clip, which reads OpenCV for a quarter
of a second: in production little beside the clip, here nine tenths of all time. `forking` puts
another way of beginning in its place. What then runs is the same `video_child.main`, within the
same limits, in a process that meets one clip and ends; and the same reader takes what it says.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from unittest import mock

from models.faces.liveness import video
from tests.flow.running import ROOT

_MESSAGE_BYTES = 65536
_POLL_SECONDS = 0.001


class _Forked:
    """A decoder, seen as `subprocess.Popen` shows one."""

    def __init__(self, server: socket.socket, clip: int, told: dict[str, Any]) -> None:
        read, write = os.pipe()
        self.stdout = os.fdopen(read, "rb", buffering=0)
        try:
            socket.send_fds(server, [json.dumps(told).encode()], [clip, write])
            self._pid = int(server.recv(64))
        finally:
            os.close(write)

    def poll(self) -> int | None:
        """Unknown: it is its server's child."""
        return None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.kill(self._pid, 0)
                time.sleep(_POLL_SECONDS)


@contextmanager
def forking() -> Iterator[None]:
    """While this is entered, `read_frames` has its decoders from one server."""
    ours, theirs = socket.socketpair()

    def begin(command: Sequence[str], *, env: Mapping[str, str], **_: Any) -> _Forked:
        return _Forked(ours, int(command[-2]), {"limits": command[-1], "env": dict(env)})

    stand_in = SimpleNamespace(Popen=begin, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    with ours, theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.forked_decoder", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            with mock.patch.object(video, "subprocess", stand_in):
                yield
        finally:
            server.kill()
            server.wait(10)


def _serve(asked: socket.socket) -> None:
    """Fork for each clip until nobody asks any more."""
    import cv2  # noqa: F401  once, for all that are forked

    from models.faces.liveness import video_child

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        message, files, _, _ = socket.recv_fds(asked, _MESSAGE_BYTES, 2)
        if not message:
            return
        told = json.loads(message)
        pid = os.fork()
        if pid == 0:
            os.environ.clear()
            os.environ.update(told["env"])
            os.dup2(files[1], 1)
            os.closerange(asked.fileno(), asked.fileno() + 1)
            os._exit(_decode(video_child.main, [str(files[0]), told["limits"]]))
        for file in files:
            os.close(file)
        asked.send(str(pid).encode())


def _decode(main: Any, arguments: list[str]) -> int:
    try:
        return int(main(arguments))
    except BaseException:  # noqa: BLE001  as an interpreter of its own would end
        return 1


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
