"""The jobs of a running server."""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from cli.output import CommandError
from cli.settings import address, key_headers
from contracts.jobs import FINISHED, Job
from contracts.pages import Page
from contracts.problem import Problem
from contracts.settings import Settings

_TIMEOUT_SECONDS = 30.0
_MAX_FAILURES = 30  # in a row
_RETRY_SECONDS = 1.0


class JobsApi:
    """The jobs of one server; a refusal is a `CommandError` with the server's words.

    Args:
        server: The server's URL; this machine's if None.
    """

    def __init__(self, settings: Settings, server: str | None) -> None:
        self._url = (server or address(settings)).rstrip("/")
        self._headers = key_headers(settings)

    def page(self, kind: str | None, state: str | None, limit: int) -> list[Job]:
        filters = {"kind": kind, "state": state, "limit": limit}
        parameters = {name: value for name, value in filters.items() if value is not None}
        with self._request("GET", "/v1/jobs", params=parameters) as answer:
            return Page[Job].model_validate_json(answer.read()).items

    def get(self, job_id: str) -> Job:
        with self._request("GET", f"/v1/jobs/{job_id}") as answer:
            return Job.model_validate_json(answer.read())

    def cancel(self, job_id: str) -> Job:
        with self._request("POST", f"/v1/jobs/{job_id}/cancel") as answer:
            return Job.model_validate_json(answer.read())

    def delete(self, job_id: str) -> None:
        with self._request("DELETE", f"/v1/jobs/{job_id}"):
            pass

    def fetch(self, job_id: str, name: str, to: Path) -> None:
        """Write an artifact to a file, whole or not at all."""
        part = to.with_name(f".{to.name}.{secrets.token_hex(4)}.part")
        try:
            with (
                self._request("GET", f"/v1/jobs/{job_id}/artifacts/{name}") as answer,
                part.open("xb") as file,
            ):
                for chunk in answer.iter_bytes():
                    file.write(chunk)
            part.replace(to)
        except OSError as error:
            raise CommandError(f"Cannot write {to} ({error.strerror}).") from None
        finally:
            part.unlink(missing_ok=True)

    def events(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of a job until it is finished; a broken stream is resumed."""
        last: str | None = None
        failures = 0
        while failures < _MAX_FAILURES:
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with self._request("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
                    for fields in _events(answer.iter_lines()):
                        last, failures = fields.get("id", last), 0
                        data = json.loads(fields["data"])
                        yield fields["event"], data
                        if fields["event"] == "state" and data["state"] in FINISHED:
                            return
            except httpx.TransportError:
                # A restarted server still has all events of the job.
                failures += 1
                time.sleep(_RETRY_SECONDS)
        raise CommandError(f"{self._url} no longer answers; the job goes on.")

    @contextmanager
    def _request(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        headers = self._headers | options.pop("headers", {})
        try:
            with (
                httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False) as client,
                client.stream(method, self._url + path, headers=headers, **options) as answer,
            ):
                if not answer.is_success:
                    raise CommandError(_refusal(answer))
                yield answer
        except httpx.ConnectError:
            if "Last-Event-ID" in headers:
                raise
            raise CommandError(
                f"No server answers at {self._url}. Start the service with `opsin up`, or name "
                "another one with --server."
            ) from None
        except ValidationError:
            raise CommandError(f"{self._url} did not answer as this Opsin does.") from None


def _events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The fields of each server-sent event."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            if "event" in fields and "data" in fields:
                yield fields
            fields = {}


def _refusal(answer: httpx.Response) -> str:
    try:
        return Problem.model_validate_json(answer.read()).sentence
    except ValidationError:
        return f"The server answered {answer.status_code}."
