"""The faces of a running server."""

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
_MAX_PAGES = 500

JsonObject = dict[str, Any]
FilePart = tuple[str, tuple[str, bytes, str]]


class FacesApi:
    """One server; each call has a deadline, and a refusal is a `CommandError` with its words.

    Args:
        server: The server's URL; this machine's if None.
    """

    def __init__(self, settings: Settings, server: str | None) -> None:
        self.url = (server or address(settings)).rstrip("/")
        self._headers = key_headers(settings)
        self._seconds = settings.default_timeout_ms / 1000 + _SPARE_SECONDS

    def get(self, path: str, **parameters: str | int) -> JsonObject:
        """Read a path below `/v1/faces`."""
        return self._request("GET", path, params=parameters)

    def post(self, path: str, body: JsonObject) -> JsonObject:
        return self._request("POST", path, json=body)

    def put(self, path: str, body: JsonObject) -> JsonObject:
        return self._request("PUT", path, json=body)

    def delete(self, path: str, **parameters: str) -> JsonObject:
        return self._request("DELETE", path, params=parameters)

    def send(self, path: str, parts: Sequence[FilePart], fields: dict[str, str]) -> JsonObject:
        """Send files and fields as a form."""
        plain = [(name, (None, value)) for name, value in fields.items()]
        return self._request("POST", path, files=[*plain, *parts])

    def items(self, path: str) -> list[JsonObject]:
        """All pages of a list."""
        items: list[JsonObject] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            more: dict[str, str | int] = {"cursor": cursor} if cursor else {}
            page = self.get(path, limit=200, **more)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return items

    def _request(self, method: str, path: str, **options: Any) -> JsonObject:
        try:
            # The service is on this machine or was named by the user: no proxy is involved.
            with httpx.Client(timeout=self._seconds, trust_env=False) as client:
                answer = client.request(
                    method, f"{self.url}/v1/faces{path}", headers=self._headers, **options
                )
        except httpx.ConnectError:
            raise CommandError(
                f"No server answers at {self.url}. Start the service with `opsin up`, or name "
                "another one with --server."
            ) from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise CommandError(f"{self.url} did not answer: {reason}.") from error
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> JsonObject:
        try:
            if not answer.is_success:
                problem = Problem.model_validate_json(answer.content)
                reasons = "".join(f" {one.loc[-1]}: {one.msg}." for one in problem.errors or ())
                raise CommandError(f"{problem.title}. {problem.detail}{reasons}")
            return dict(answer.json()) if answer.content else {}
        except (ValueError, ValidationError):
            raise CommandError(
                f"{self.url} did not answer as Opsin does. Does it run this version?"
            ) from None


def file_part(field: str, file: Path) -> FilePart:
    """A file for a form; the server detects what it really is."""
    try:
        return field, (file.name, file.read_bytes(), "application/octet-stream")
    except OSError as error:
        raise CommandError(f"{file} cannot be read ({error.strerror}).") from None
