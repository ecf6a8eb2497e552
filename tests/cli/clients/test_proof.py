"""The command line's own key, which only a service that knows it gets to see."""

import http.server
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from cli.access import write_cli_key
from cli.clients.api import Api
from cli.clients.http import RefusedError, ServerClient
from cli.clients.proof import _knows, proven_headers
from contracts.key_proof import CHALLENGE_HEADER, PROOF_HEADER, KeyChallenge
from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.keys import digest_of
from tests.cli.serving import serving
from tests.service.conftest import listening
from tests.service.parts import FakeServices

KEY = "opsin_0123456789ab_" + "c" * 48


def _settings(home: Path, url: str) -> Settings:
    return Settings(_env_file=None, home=home, port=int(url.rpartition(":")[2]))


class Impostor(http.server.BaseHTTPRequestHandler):
    """Opened the port while the service was down, and writes down what it is sent."""

    seen: list[str]
    proof = ""

    def do_GET(self) -> None:
        self.seen.append(str(self.headers))
        self.send_response(200 if self.path == "/healthz" else 401)
        self.send_header("X-Request-Id", "1")
        self.send_header(PROOF_HEADER, self.proof)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing."""


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[tuple[type[Impostor], Settings]]:
    class Handler(Impostor):
        seen: list[str] = []  # noqa: RUF012 (of this test alone)

    with serving(Handler) as url:
        write_cli_key(tmp_path, KEY)
        yield Handler, _settings(tmp_path, url)


@pytest.mark.parametrize("proof", ["", "0" * 64])
def test_a_program_that_took_the_port_never_sees_the_key(
    impostor: tuple[type[Impostor], Settings], proof: str
) -> None:
    handler, settings = impostor
    handler.proof = proof
    with pytest.raises(RefusedError):
        ServerClient(settings, None).json("GET", "/v1/models")
    Api(settings).models()
    assert len(handler.seen) == 4
    assert "c" * 48 not in "".join(handler.seen)


def test_the_answer_to_one_challenge_answers_no_other() -> None:
    digest = digest_of(KEY)
    first, second = KeyChallenge.new(KEY), KeyChallenge.new(KEY)
    assert first is not None
    assert second is not None
    assert first.proof(digest, 8000) == KeyChallenge.parse(str(first)).proof(digest, 8000)  # type: ignore[union-attr]
    others = {second.proof(digest, 8000), first.proof(digest, 8001), first.proof(bytes(32), 8000)}
    assert first.proof(digest, 8000) not in others
    for text in ("", "x", f"{first} ", str(first).upper(), str(first)[:-1]):
        assert KeyChallenge.parse(text) is None or text == str(first)


def test_the_own_service_proves_that_it_knows_the_key(tmp_path: Path) -> None:
    fakes, settings = FakeServices(), Settings(_env_file=None, home=tmp_path)
    keys = fakes.with_keys()
    first = keys.create(NewKey(name="n", scopes=["admin"]), actor=COMMAND).key or ""
    with listening(settings, fakes) as url, httpx.Client() as client:
        later = keys.create(NewKey(name="n", scopes=["admin"]), actor=COMMAND)
        assert _knows(client, url, first, settings.port)
        assert _knows(client, url, later.key or "", settings.port), "made since the last look"
        assert not _knows(client, url, KEY, settings.port)
        assert not _knows(client, url, first, settings.port + 1)
        assert not _knows(client, url, first[:-1] + ("0" if first[-1] == "1" else "1"), 8000)
        malformed = client.get(f"{url}/healthz", headers={CHALLENGE_HEADER: "x"})
        assert malformed.status_code == 200
        assert PROOF_HEADER not in malformed.headers


def test_a_key_that_the_user_names_needs_no_proof(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path, api_key=SecretStr("0123456789abcdef"))
    with httpx.Client() as client:
        assert proven_headers(client, settings, "http://nobody.invalid") == {
            "Authorization": "Bearer 0123456789abcdef"
        }
