"""The faces of a running server, as `opsin faces` asks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from cli.output import CommandError
from cli.settings import address, key_headers
from contracts.problem import Problem
from contracts.settings import Settings

_SPARE_SECONDS = 5.0
_MOST_PAGES = 500

Answer = dict[str, Any]
Part = tuple[str, tuple[str, bytes, str]]


class FacesApi:
    """One server. Each call has a deadline; a refusal is a `CommandError` with the server's words.

    Args:
        settings: For the key, the address and the deadline.
        server: Another server's address.
    """

    def __init__(self, settings: Settings, server: str | None) -> None:
        self.url = (server or address(settings)).rstrip("/")
        self._headers = key_headers(settings)
        self._seconds = settings.default_timeout_ms / 1000 + _SPARE_SECONDS

    def get(self, path: str, **parameters: str | int) -> Answer:
        """What is at an address below `/v1/faces`."""
        return self._ask("GET", path, params=parameters)

    def post(self, path: str, body: Answer) -> Answer:
        """Send JSON."""
        return self._ask("POST", path, json=body)

    def put(self, path: str, body: Answer) -> Answer:
        """Replace what is there."""
        return self._ask("PUT", path, json=body)

    def delete(self, path: str, **parameters: str) -> Answer:
        """Remove what is there."""
        return self._ask("DELETE", path, params=parameters)

    def send(self, path: str, parts: Sequence[Part], fields: dict[str, str]) -> Answer:
        """Send files, and fields beside them, as a form."""
        plain = [(name, (None, value)) for name, value in fields.items()]
        return self._ask("POST", path, files=[*plain, *parts])

    def items(self, path: str) -> list[Answer]:
        """All pages of a list."""
        found: list[Answer] = []
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            more: dict[str, str | int] = {"cursor": cursor} if cursor else {}
            page = self.get(path, limit=200, **more)
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return found

    def _ask(self, method: str, path: str, **options: Any) -> Answer:
        try:
            # The service is on this machine or was named: a proxy has no part in it.
            with httpx.Client(timeout=self._seconds, trust_env=False) as client:
                answer = client.request(
                    method, f"{self.url}/v1/faces{path}", headers=self._headers, **options
                )
        except httpx.ConnectError:
            raise CommandError(
                f"Nobody answers at {self.url}. Start the service with `opsin up`, or name "
                "another one with --server."
            ) from None
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise CommandError(f"{self.url} did not answer: {why}.") from error
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> Answer:
        try:
            if not answer.is_success:
                problem = Problem.model_validate_json(answer.content)
                reasons = "".join(f" {one.loc[-1]}: {one.msg}." for one in problem.errors or ())
                raise CommandError(f"{problem.title}. {problem.detail}{reasons}")
            return dict(answer.json()) if answer.content else {}
        except (ValueError, ValidationError):
            raise CommandError(
                f"{self.url} did not answer as Opsin does. Is it of this version?"
            ) from None


def part(field: str, file: Path) -> Part:
    """A file for a form; what it really is, the server sniffs."""
    try:
        return field, (file.name, file.read_bytes(), "application/octet-stream")
    except OSError as error:
        raise CommandError(f"{file} cannot be read ({error.strerror}).") from None
