"""A real Prometheus that scrapes an installation once a second, with the rules of `deploy/`."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.metrics.exposition import Merged, exposition
from tests.flow.installation import ROOT
from tests.ports import free_port

DEPLOY = ROOT / "deploy"
RULES = [str(DEPLOY / "prometheus" / name) for name in ("rules.yml", "alerts.yml")]

Labels = frozenset[tuple[str, str]]


@contextmanager
def exposing(read: Callable[[], Merged]) -> Iterator[str]:
    """`/metrics` of what is read for each scrape; yields its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            accept = self.headers.get("Accept", "")
            content, media_type = exposition(read().families(lambda *_: True), accept)
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Prometheus:
    """A running one, asked by its HTTP API."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def query(self, expression: str) -> dict[Labels, float]:
        """The present value of each series."""
        answer = self._client.get("/api/v1/query", params={"query": expression})
        content: dict[str, Any] = answer.json()
        assert content["status"] == "success", (expression, content)
        return {
            frozenset(one["metric"].items()): float(one["value"][1])
            for one in content["data"]["result"]
        }

    def value(self, expression: str) -> float:
        """That of the only series; 0 if there is none."""
        values = list(self.query(expression).values())
        assert len(values) <= 1, expression
        return values[0] if values else 0.0

    def names(self) -> list[str]:
        """Of all metrics of Opsin that were ever scraped."""
        values = self._client.get("/api/v1/label/__name__/values").json()["data"]
        return [name for name in values if name.startswith("opsin_")]

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()


@contextmanager
def scraping(target: str, folder: Path, rules: Sequence[str] = RULES) -> Iterator[Prometheus]:
    """Scrape `target` (host and port) until the end of the block."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is missing; apt-get install prometheus")
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": list(rules),
        "scrape_configs": [{"job_name": "opsin", "static_configs": [{"targets": [target]}]}],
    }
    folder.mkdir()
    (folder / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.json'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
            env={name: os.environ[name] for name in ("PATH",)},
        )
    prometheus = Prometheus(f"http://{address}")
    try:
        deadline = time.monotonic() + 60
        while not prometheus.is_ready():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.wait(60)


def dashboard_queries() -> list[tuple[str, str]]:
    """Each dashboard's file and query, with its variables filled in as Grafana does."""
    queries = []
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"].replace("$__rate_interval", "1m")
                for name in ("model", "operation"):
                    expression = expression.replace(f"${name}", ".*")
                queries.append((path.name, expression))
    return queries
