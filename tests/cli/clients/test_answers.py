"""A server that is not Opsin, or no longer, sends without end."""

import http.server

import pytest

from cli.clients import answers, api
from cli.clients.api import Api
from cli.clients.http import ServerClient
from cli.clients.jobs import JobsApi
from cli.output import CommandError
from contracts.settings import Settings
from tests.cli.serving import serving

_MOST = 2_000_000


class Endless(http.server.BaseHTTPRequestHandler):
    """Sends fifty times as much as is kept."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Request-Id", "x")
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b" " * 1_000_000)
        except OSError:
            return

    def log_message(self, *_: object) -> None: ...


def test_an_endless_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers.read_whole, "__defaults__", (_MOST,))
    monkeypatch.setattr(api, "_MAX_BYTES", _MOST)
    settings = Settings(_env_file=None)
    refused = []
    with serving(Endless) as url:
        for ask in (
            lambda: ServerClient(settings, url).json("GET", "/v1/system"),
            lambda: JobsApi(settings, url).get("job_1"),
        ):
            try:
                ask()
            except CommandError as error:
                refused.append(error.message)
        is_opsin = Api(settings, url).is_opsin()
    assert ["no answer of Opsin" in message for message in refused] == [True, True]
    assert not is_opsin
