"""The options of `opsin jobs …`; what they do is in `cli.commands.jobs`."""

from pathlib import Path
from typing import Annotated

import typer

JobId = Annotated[str, typer.Argument(metavar="JOB", help="As `opsin jobs list` names it.")]
Server = Annotated[
    str | None, typer.Option(help="Ask this server, e.g. http://gpu:8000. Default: this machine's.")
]


def build() -> typer.Typer:
    """The group of commands."""
    jobs = typer.Typer(help="The long tasks of a running server.", no_args_is_help=True)
    jobs.command("list")(_list)
    jobs.command("show")(_show)
    jobs.command("follow")(_follow)
    jobs.command("cancel")(_cancel)
    jobs.command("delete")(_delete)
    jobs.command("fetch")(_fetch)
    return jobs


def _list(
    kind: Annotated[str | None, typer.Option(help="Only this kind, e.g. training.")] = None,
    state: Annotated[str | None, typer.Option(help="Only this state, e.g. running.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most to show.")] = 20,
    server: Server = None,
) -> None:
    """Show jobs, newest first."""
    from cli.commands import jobs
    from cli.settings import load

    jobs.show_list(jobs.JobsApi(load(), server), kind, state, limit)


def _show(
    job: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's JSON.")] = False,
    server: Server = None,
) -> None:
    """Show one job: state, metrics, files, result."""
    from cli.commands import jobs
    from cli.settings import load

    jobs.show(jobs.JobsApi(load(), server), job, as_json=as_json)


def _follow(job: JobId, server: Server = None) -> None:
    """Watch a job until it ends; Ctrl-C leaves it running."""
    from cli.commands import jobs
    from cli.settings import load

    jobs.follow(jobs.JobsApi(load(), server), job)


def _cancel(job: JobId, server: Server = None) -> None:
    """Stop a job; what it made is kept."""
    from cli.commands import jobs
    from cli.settings import load

    jobs.cancel(jobs.JobsApi(load(), server), job)


def _delete(job: JobId, server: Server = None) -> None:
    """Clear a finished job away, with its files."""
    from cli.commands import jobs
    from cli.settings import load

    jobs.delete(jobs.JobsApi(load(), server), job)


def _fetch(
    job: JobId,
    artifact: Annotated[str, typer.Argument(help="A file's name, as `opsin jobs show` lists it.")],
    to: Annotated[Path | None, typer.Option(help="A file or folder. Default: here.")] = None,
    server: Server = None,
) -> None:
    """Write a file that a job made."""
    from cli.commands import jobs
    from cli.settings import load

    jobs.fetch(jobs.JobsApi(load(), server), job, artifact, to)
