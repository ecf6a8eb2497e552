"""A small, real worker and API, so that `opsin up` can be tried in a second without TensorFlow.

`python stand_in.py up` runs the real `cli.commands.up.Service` with these as its children.
"""

import http.server
import json
import os
import signal
import sys
import time
from pathlib import Path

from cli.commands.up import Service
from cli.home import Home
from cli.output import notes
from cli.processes.signals import StopSignals
from cli.settings import load
from cli.startup import require_free_port
from models.processes import end_with_parent

FAILS = os.environ.get("STAND_IN") == "fail"
READY = {"ready": not FAILS, "redis": "ok", "database": "ok", "worker": "none" if FAILS else "ok"}
MODEL = {
    "name": "squeezenet",
    "network": "squeezenet",
    "state": "unavailable",
    "reason": "no weights [here]",
    "aliases": {},
    "versions": [],
    "classes": None,
    "input_size": [227, 227],
    "operations": [],
    "licence": "BSD-3-Clause",
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = {"/readyz": READY, "/healthz": {}, "/v1/models": {"items": [MODEL]}}
        content = body.get(self.path.split("?")[0])
        self.send_response(404 if content is None else 200)
        self.send_header("X-Request-Id", "1")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing."""


def serve() -> None:
    settings = load()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with http.server.ThreadingHTTPServer((settings.host, settings.port), Handler) as server:
        server.serve_forever()


def worker() -> None:
    settings = load()
    if "--jobs" in sys.argv:
        end_with_parent(1)
        time.sleep(600)
    if FAILS:
        sys.exit("no TensorFlow here")
    end_with_parent(1)
    sys.stdout.write(f"worker on {settings.redis_url} with {settings.queue_limit}\n")
    sys.stdout.flush()
    time.sleep(600)


def up() -> None:
    settings = load()
    home = Home(settings.home)
    home.prepare()
    with home.locked(), StopSignals() as signals:
        require_free_port(settings)

        def command(*words: str) -> tuple[str, ...]:
            return (sys.executable, str(Path(__file__)), *words)

        Service(settings, home, notes(), signals, verbose=True, command=command).run()


if __name__ == "__main__":
    {"serve": serve, "worker": worker, "up": up}[sys.argv[1]]()
