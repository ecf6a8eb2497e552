"""No key is logged, whatever a client does with it: searches the log of a real process."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.ports import free_port
from tests.service.parts import gray_png

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = "bootstrap-secret-91c7"
PROGRAM = """
from contracts.settings import Settings
from service.server import serve
from tests.service.parts import FakeServices
fakes = FakeServices()
fakes.with_keys()
fakes.dispatcher.breaks = ZeroDivisionError("on purpose")
settings = Settings(_env_file=None, port={port}, api_key="{key}", log_level="debug")
serve(settings, fakes.open_services)
"""


def test_keys_are_not_logged() -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(port=port, key=BOOTSTRAP)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        secrets = _use(f"http://127.0.0.1:{port}", port)
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=60)[0]
    finally:
        if process.poll() is None:
            process.kill()
    assert '"path": "/v1/keys"' in log
    assert '"path": "/v1/models/opsin_\\u2026"' in log or '"/v1/models/opsin_…"' in log
    assert "on purpose" in log  # a traceback was written, too
    for secret in secrets:
        assert secret not in log


def _use(url: str, port: int) -> list[str]:
    """Send valid, wrong and misplaced keys; returns their secrets."""
    until = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/healthz")
        except httpx.TransportError:
            assert time.monotonic() < until
            time.sleep(0.1)
        else:
            break
    admin = {"Authorization": f"Bearer {BOOTSTRAP}"}
    made = httpx.post(f"{url}/v1/keys", json={"name": "n", "scopes": ["infer"]}, headers=admin)
    key = made.json()["key"]
    wrong = "wrong-secret-4d5e6f"
    mine = {"X-API-Key": key}
    assert httpx.get(f"{url}/v1/models", headers=mine).status_code == 200
    assert httpx.get(f"{url}/v1/models", headers={"X-API-Key": wrong}).status_code == 401
    assert httpx.get(f"{url}/v1/models?api_key={key}").status_code == 400
    assert httpx.get(f"{url}/v1/models/{key}", headers=mine).status_code == 400
    broken = httpx.post(
        f"{url}/v1/classify", content=gray_png(), headers=mine | {"Content-Type": "image/png"}
    )
    assert broken.status_code == 500
    assert key not in broken.text
    with socket.create_connection(("127.0.0.1", port), timeout=60) as wire:
        wire.sendall(f"GET / HTTP/1.1\r\nX-API-Key {key}\r\n\r\n".encode())
        assert b"400" in wire.recv(65536)
    return [BOOTSTRAP, wrong, key[-48:]]
