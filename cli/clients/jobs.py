"""The jobs of a running server."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cli.clients.answers import read_whole
from cli.clients.http import NoAnswerError, ServerClient
from contracts.jobs import FINISHED, Job
from contracts.pages import Page
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
        self._client = ServerClient(settings, server, seconds=_TIMEOUT_SECONDS)

    def page(self, kind: str | None, state: str | None, limit: int) -> list[Job]:
        filters = {"kind": kind, "state": state, "limit": limit}
        parameters = {name: value for name, value in filters.items() if value is not None}
        with self._client.stream("GET", "/v1/jobs", params=parameters) as answer:
            return Page[Job].model_validate_json(read_whole(answer)).items

    def get(self, job_id: str) -> Job:
        return self._job("GET", _path(job_id))

    def cancel(self, job_id: str) -> Job:
        return self._job("POST", f"{_path(job_id)}/cancel")

    def delete(self, job_id: str) -> None:
        self._client.request("DELETE", _path(job_id))

    def fetch(self, job_id: str, name: str, to: Path) -> None:
        """Write an artifact to a file, whole or not at all."""
        self._client.download(f"{_path(job_id)}/artifacts/{quote(name, safe='')}", to)

    def events(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of a job until it is finished; a broken stream is resumed."""
        last: str | None = None
        failures = 0
        while failures < _MAX_FAILURES:
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with self._client.stream(
                    "GET", f"{_path(job_id)}/events", headers=headers
                ) as answer:
                    for fields in _events(answer.iter_lines()):
                        last, failures = fields.get("id", last), 0
                        data = json.loads(fields["data"])
                        yield fields["event"], data
                        if fields["event"] == "state" and data["state"] in FINISHED:
                            return
            except NoAnswerError:
                if last is None:
                    raise
                # A restarted server still has all events of the job.
                failures += 1
                time.sleep(_RETRY_SECONDS)
        raise NoAnswerError(f"{self._client.url} no longer answers; the job goes on.")

    def _job(self, method: str, path: str) -> Job:
        with self._client.stream(method, path) as answer:
            return Job.model_validate_json(read_whole(answer))


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


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
