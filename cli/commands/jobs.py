"""`opsin jobs`: look at the long tasks of a running server, follow them, stop them, fetch files."""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.output import CommandError, answers, notes
from cli.settings import address, key_headers
from contracts.jobs import FINISHED, Job
from contracts.pages import Page
from contracts.problem import Problem
from contracts.settings import Settings

_SECONDS = 30.0
_MOST_FAILURES = 30  # in a row
_RETRY_SECONDS = 1.0
_COLORS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


class JobsApi:
    """The jobs of one server.

    Args:
        settings: For the key and the address.
        server: Another server's address.
    """

    def __init__(self, settings: Settings, server: str | None) -> None:
        self._url = (server or address(settings)).rstrip("/")
        self._headers = key_headers(settings)

    def page(self, kind: str | None, state: str | None, limit: int) -> list[Job]:
        given = {"kind": kind, "state": state, "limit": limit}
        asked = {name: value for name, value in given.items() if value is not None}
        with self._asking("GET", "/v1/jobs", params=asked) as answer:
            return Page[Job].model_validate_json(answer.read()).items

    def get(self, job_id: str) -> Job:
        with self._asking("GET", f"/v1/jobs/{job_id}") as answer:
            return Job.model_validate_json(answer.read())

    def cancel(self, job_id: str) -> Job:
        with self._asking("POST", f"/v1/jobs/{job_id}/cancel") as answer:
            return Job.model_validate_json(answer.read())

    def delete(self, job_id: str) -> None:
        with self._asking("DELETE", f"/v1/jobs/{job_id}"):
            pass

    def fetch(self, job_id: str, name: str, to: Path) -> None:
        """Write an artifact to a file, whole or not at all."""
        part = to.with_name(f".{to.name}.{secrets.token_hex(4)}.part")
        try:
            with (
                self._asking("GET", f"/v1/jobs/{job_id}/artifacts/{name}") as answer,
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
        """What happens to a job until it is finished; a broken stream is resumed."""
        last: str | None = None
        failures = 0
        while failures < _MOST_FAILURES:
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with self._asking("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
                    for fields in _events(answer.iter_lines()):
                        last, failures = fields.get("id", last), 0
                        data = json.loads(fields["data"])
                        yield fields["event"], data
                        if fields["event"] == "state" and data["state"] in FINISHED:
                            return
            except httpx.TransportError:
                # Restarted, it has the whole life of the job still.
                failures += 1
                time.sleep(_RETRY_SECONDS)
        raise CommandError(f"{self._url} does not answer any more; the job goes on.")

    @contextmanager
    def _asking(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        headers = self._headers | options.pop("headers", {})
        try:
            with (
                httpx.Client(timeout=_SECONDS, trust_env=False) as client,
                client.stream(method, self._url + path, headers=headers, **options) as answer,
            ):
                if not answer.is_success:
                    raise CommandError(_refusal(answer))
                yield answer
        except httpx.ConnectError:
            if "Last-Event-ID" in headers:
                raise
            raise CommandError(
                f"Nobody answers at {self._url}. Start the service with `opsin up`, or name "
                "another one with --server."
            ) from None
        except ValidationError:
            raise CommandError(f"{self._url} did not answer as this Opsin does.") from None


def show_list(api: JobsApi, kind: str | None, state: str | None, limit: int) -> None:
    """Prints jobs, newest first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("job", "kind", "state", "progress", "made"):
        table.add_column(heading, no_wrap=True)
    for job in api.page(kind, state, limit):
        table.add_row(
            job.id,
            job.kind,
            _colored(job.state),
            _short(job),
            f"{job.created_at.astimezone():%Y-%m-%d %H:%M}",
        )
    if not table.rows:
        notes().print("There are no such jobs.")
        return
    answers().print(table)


def show(api: JobsApi, job_id: str, *, as_json: bool) -> None:
    """Prints one job."""
    job = api.get(job_id)
    if as_json:
        answers().print(job.model_dump_json(indent=2), markup=False)
        return
    lines = [
        f"[bold]{job.id}[/]  {job.kind}  {_colored(job.state)}  {_short(job)}",
        *([f"[red]{escape(job.error.code)}[/]: {escape(job.error.detail)}"] if job.error else []),
        *(escape(_row(row)) for row in job.metrics[-10:]),
        *(f"{escape(one.name)}  {one.media_type}  {one.size:,} bytes" for one in job.artifacts),
        *([escape(json.dumps(job.result, indent=2))] if job.result else []),
    ]
    answers().print("\n".join(lines))


def follow(api: JobsApi, job_id: str) -> None:
    """Shows a job as it goes on, until it has ended.

    Raises:
        CommandError: It failed or was cancelled.
    """
    kind = api.get(job_id).kind
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=notes(),
    ) as bar:
        task = bar.add_task(kind, total=1.0, detail="")
        for name, data in api.events(job_id):
            if name == "progress":
                bar.update(task, completed=data["fraction"], detail=escape(_detail(data)))
            elif name == "state":
                bar.update(task, description=f"{kind} {_colored(data['state'])}")
            else:
                text = _row(data) if name == "metrics" else f"made {data['name']}"
                bar.console.print(escape(text))
    job = api.get(job_id)
    if job.error is not None:
        raise CommandError(f"{job.error.code}: {job.error.detail}")
    if job.state != "succeeded":
        raise CommandError(f"The job is {job.state}.")
    notes().print(f"[green]✓[/] {job.id}")


def cancel(api: JobsApi, job_id: str) -> None:
    """Asks for a job to end."""
    job = api.cancel(job_id)
    told = "will stop within one step" if job.state == "running" else f"is {job.state}"
    notes().print(f"[green]✓[/] {job.id} {told}")


def delete(api: JobsApi, job_id: str) -> None:
    """Clears a finished job away, its files too."""
    api.delete(job_id)
    notes().print(f"[green]✓[/] {job_id} is deleted")


def fetch(api: JobsApi, job_id: str, name: str, to: Path | None) -> None:
    """Writes an artifact to a file, by default of its own name here; an older one is replaced."""
    path = to or Path(Path(name).name)
    if path.is_dir():
        path /= Path(name).name
    api.fetch(job_id, name, path)
    answers().print(str(path), markup=False)


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


def _colored(state: str) -> str:
    color = _COLORS.get(state)
    return f"[{color}]{state}[/]" if color else state


def _short(job: Job) -> str:
    if job.state == "queued":
        return f"place {job.queue_position}" if job.queue_position else "waits"
    told = f"{job.progress.fraction:.0%}"
    left = job.progress.eta_seconds
    if job.state == "running" and left is not None:
        told += f", {_duration(left)} left"
    return told


def _detail(data: dict[str, Any]) -> str:
    parts = [data["phase"]] if data.get("phase") else []
    for one, many in (("epoch", "epochs"), ("step", "steps")):
        if data.get(one) is not None:
            parts.append(f"{one} {data[one]}" + (f"/{data[many]}" if data.get(many) else ""))
    if data.get("eta_seconds") is not None:
        parts.append(f"{_duration(data['eta_seconds'])} left")
    return " · ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _row(row: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if value is not None
    )
