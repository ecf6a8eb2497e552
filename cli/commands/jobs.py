"""`opsin jobs`: look at the long tasks of a running server, follow and stop them, fetch files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from cli.clients.jobs import JobsApi
from cli.options import AsJson, Json, Key, Out, Server, To, Yes
from cli.output import (
    CommandError,
    answers,
    clock_time,
    confirm,
    confirm_on_terminal,
    notes,
    print_json,
    print_path,
)
from cli.progress_text import epoch_text, phase_text, stopped_early
from cli.settings import load
from cli.tables import Column, local_time, print_list
from contracts.jobs import Job

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as `opsin jobs list` shows it.")]

_COLORS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}

_SHOWN_FRACTION = 0.005  # less would be 0%

app = typer.Typer()


@app.command("list")
def list_jobs(  # noqa: PLR0917 (typer reads options from the parameters)
    kind: Annotated[str | None, typer.Option(help="Only this kind, e.g. training.")] = None,
    state: Annotated[str | None, typer.Option(help="Only this state, e.g. running.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many to show at most.")] = 20,
    as_json: Json = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Show jobs, newest first."""
    jobs = JobsApi(load(key=key), server).page(kind, state, limit)
    if as_json:
        print_json({"items": [job.model_dump(mode="json") for job in jobs]})
        return
    if not jobs:
        notes().print("There are no such jobs.")
        return
    columns = [
        *(Column("job", "id"), Column("kind"), Column("state")),
        *(Column("progress", "number"), Column("created", "time"), Column("about")),
    ]
    print_list(
        columns,
        [
            (
                *(job.id, job.kind, Text(job.state, _COLORS.get(job.state, ""))),
                *(_progress(job), local_time(job.created_at)),
                job.about or "-",
            )
            for job in jobs
        ],
    )


@app.command()
def show(job_id: JobId, as_json: AsJson = False, server: Server = None, key: Key = None) -> None:
    """Show one job: state, metrics, files, result."""
    job = JobsApi(load(key=key), server).get(job_id)
    if as_json:
        print_json(job.model_dump(mode="json"))
        return
    lines = [
        f"[bold]{job.id}[/]  {job.kind}  {_colored(job.state)}  {_progress(job)}",
        *([f"[red]{escape(job.error.code)}[/]: {escape(job.error.detail)}"] if job.error else []),
        *(escape(_metrics(row)) for row in job.metrics[-10:]),
        *(f"{escape(file.name)}  {file.media_type}  {file.size:,} bytes" for file in job.artifacts),
    ]
    console = answers()
    console.print("\n".join(lines))
    if console.is_terminal and _summarized(job):
        notes().print("[dim]--json prints the whole report.[/]")
    elif job.result:
        console.print(json.dumps(job.result, indent=2), markup=False)


def _summarized(job: Job) -> bool:
    """Print what a training has achieved; whether it is one, of a release that says so."""
    if job.kind != "training" or not job.result:
        return False
    from cli.commands.training.train import summarize  # which follows jobs itself

    try:
        summarize(job.result, None)
    except ValidationError:
        return False
    return True


@app.command()
def follow(job_id: JobId, server: Server = None, key: Key = None) -> None:
    """Watch a job until it ends; Ctrl-C leaves it running."""
    _summarized(follow_job(JobsApi(load(key=key), server), job_id))


def follow_job(api: JobsApi, job_id: str, *, only_progress: bool = False) -> Job:
    """Show a job's events until it has ended; the job as it is then.

    Args:
        only_progress: Whether to leave out metrics and artifacts.

    Raises:
        CommandError: It failed or was cancelled.
    """
    first = api.get(job_id)
    kind, console = first.kind, notes()
    place = _announced_place(first, console)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
        redirect_stdout=False,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(kind, total=1.0, detail=place)
        log = _JobLog(kind, bar.console)
        for name, data in api.events(job_id):
            if name == "progress":
                bar.update(task, completed=data["fraction"], detail=escape(_phase(data)))
                log.progress(data)
            elif name == "state":
                bar.update(task, description=f"{kind} {_colored(data['state'])}")
            elif not only_progress:
                log.entry(name, data)
    job = api.get(job_id)
    if job.error is not None:
        raise CommandError(f"{job.error.code}: {job.error.detail}")
    if job.state != "succeeded":
        raise CommandError(f"The job is {job.state}.")
    notes().print(f"[green]✓[/] {kind} {job.id} is done")
    return job


def _announced_place(job: Job, console: Console) -> str:
    """Its place in the queue; empty if it does not wait. Without a terminal it is printed."""
    if not job.queue_position:
        return ""
    place = f"place {job.queue_position}"
    if not console.is_terminal:
        console.print(f"{job.kind}: waits for its turn, {place} …", markup=False)
    return place


class _JobLog:
    """The lines that a followed job leaves on the terminal or in a log."""

    def __init__(self, kind: str, console: Console) -> None:
        self._kind, self._console = kind, console
        self._phase: str | None = None
        self._epochs: dict[str, object] = {}

    def progress(self, data: dict[str, Any]) -> None:
        """Print a phase as it begins, where no bar shows it."""
        phase = data.get("phase")
        self._epochs[str(phase)] = data.get("epochs")
        if phase not in {None, self._phase} and not self._console.is_terminal:
            self._phase = phase
            self._console.print(f"{self._kind}: {_phase_line(data)} …", markup=False)

    def entry(self, name: str, data: dict[str, Any]) -> None:
        """Print a row of metrics, or that a file was made."""
        text = _metrics(data, self._epochs) if name == "metrics" else f"made {data['name']}"
        self._console.print(escape(text))


@app.command()
def cancel(job_id: JobId, yes: Yes = False, server: Server = None, key: Key = None) -> None:
    """Stop a job; the files it has made are kept."""
    api = JobsApi(load(key=key), server)
    confirm_on_terminal(f"Cancel {job_id}?", yes=yes)
    job = api.cancel(job_id)
    state = (
        "will stop within one step, or once its libraries are loaded"
        if job.state == "running"
        else f"is {job.state}"
    )
    notes().print(f"[green]✓[/] {job.id} {state}")


@app.command()
def delete(job_id: JobId, yes: Yes = False, server: Server = None, key: Key = None) -> None:
    """Remove a finished job with its files."""
    api = JobsApi(load(key=key), server)
    confirm(f"Delete {job_id} and its files for good?", yes=yes)
    api.delete(job_id)
    notes().print(f"[green]✓[/] {escape(job_id)} is deleted")


@app.command()
def fetch(  # noqa: PLR0917 (typer reads options from the parameters)
    job_id: JobId,
    artifact: Annotated[str, typer.Argument(help="A file's name, as `opsin jobs show` lists it.")],
    out: Out = None,
    to: To = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """Download a file that a job made; an existing file is replaced."""
    path = out or to or Path(Path(artifact).name)
    if path.is_dir():
        path /= Path(artifact).name
    JobsApi(load(key=key), server).fetch(job_id, artifact, path)
    print_path(path)


def _colored(state: str) -> str:
    color = _COLORS.get(state)
    return f"[{color}]{state}[/]" if color else state


def _progress(job: Job) -> str:
    if job.state == "queued":
        return f"place {job.queue_position}" if job.queue_position else "waits"
    text = f"{job.progress.fraction:.0%}"
    left = job.progress.eta_seconds
    if job.state == "running" and left is not None:
        text += f", {_left(left)}"
    return text


def _left(seconds: float) -> str:
    """The time that is left; of what still runs it is never none."""
    return f"{clock_time(max(1.0, seconds))} left"


def _phase(data: dict[str, Any]) -> str:
    parts = [phase_text(data["phase"])] if data.get("phase") else []
    for single, total in (("epoch", "epochs"), ("step", "steps")):
        if data.get(single) is not None:
            of_total = f"/{data[total]}" if data.get(total) else ""
            parts.append(f"{single} {data[single]}{of_total}")
    if data.get("eta_seconds") is not None:
        parts.append(_left(data["eta_seconds"]))
    return " · ".join(parts)


def _phase_line(data: dict[str, Any]) -> str:
    """What a job begins to do, with how much of it is done, for a log."""
    parts = [f"{data['fraction']:.0%}"] if data["fraction"] >= _SHOWN_FRACTION else []
    if data.get("eta_seconds") is not None:
        parts.append(_left(data["eta_seconds"]))
    return phase_text(data["phase"]) + (f" ({', '.join(parts)})" if parts else "")


def _metrics(row: dict[str, Any], epochs: Mapping[str, object] | None = None) -> str:
    line = epoch_text(row, (epochs or {}).get(str(row.get("phase")))) or "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if value is not None and name != "stopped_early"
    )
    early = stopped_early(row)
    return line if early is None else f"{line}\n{early}"
