"""Confined decoders that are forked instead of started, so that fuzzing tries fifty per second.

`models.confined_process` starts an interpreter for each clip and each HEIF or AVIF image, which
imports PyAV for a quarter of a second. In production that is little compared with the clip; here it
would be nine tenths of the time. `forked_decoders` replaces the start. The same `main` then runs
with the same limits, in a process that decodes one file and ends; and the same reader reads its
output.
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
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from models import confined_process
from tests.flow.installation import ROOT

_MESSAGE_BYTES = 65536
_POLL_SECONDS = 0.001


class _Forked:
    """A decoder with the interface of `subprocess.Popen`."""

    def __init__(self, server: socket.socket, clip: int, request: dict[str, Any]) -> None:
        read, write = os.pipe()
        self.stdout = os.fdopen(read, "rb", buffering=0)
        try:
            socket.send_fds(server, [json.dumps(request).encode()], [clip, write])
            self._pid = int(server.recv(64))
        finally:
            os.close(write)

    def poll(self) -> int | None:
        """Unknown, since it is a child of the server."""
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
def forked_decoders() -> Iterator[None]:
    """While entered, all decoder processes come from one server."""
    ours, theirs = socket.socketpair()

    def begin(command: Sequence[str], *, env: Mapping[str, str], **_: Any) -> _Forked:
        _, _, script, file, *arguments = command
        request: dict[str, Any] = {"script": Path(script).stem, "arguments": arguments}
        return _Forked(ours, int(file), request | {"env": dict(env)})

    stand_in = SimpleNamespace(Popen=begin, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    with ours, theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.forked_decoder", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            with mock.patch.object(confined_process, "subprocess", stand_in):
                yield
        finally:
            server.kill()
            server.wait(10)


def _serve(requests: socket.socket) -> None:
    """Fork for each clip until the client has gone."""
    import av  # noqa: F401  imported once for all forks
    import pi_heif  # noqa: F401
    from PIL import AvifImagePlugin  # noqa: F401

    from models.faces.liveness import video_child
    from models.images import isolated_child

    mains = {"video_child": video_child.main, "isolated_child": isolated_child.main}

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children are not waited for
    while True:
        message, files, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 2)
        if not message:
            return
        request = json.loads(message)
        pid = os.fork()
        if pid == 0:
            os.environ.clear()
            os.environ.update(request["env"])
            os.dup2(files[1], 1)
            os.closerange(requests.fileno(), requests.fileno() + 1)
            os._exit(_decode(mains[request["script"]], [str(files[0]), *request["arguments"]]))
        for file in files:
            os.close(file)
        requests.send(str(pid).encode())


def _decode(main: Any, arguments: list[str]) -> int:
    try:
        return int(main(arguments))
    except BaseException:  # noqa: BLE001  as an interpreter would end
        return 1


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
