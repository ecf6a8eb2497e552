"""`opsin datasets video`: frames of a video become images of a class, by a running server."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from cli.clients.http import ServerClient
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.options import AsJson, Key, Server
from cli.output import CommandError, notes, print_json
from cli.settings import load
from contracts.training.datasets import VIDEO, SplitName


def video(  # noqa: PLR0917 (typer reads options from the parameters)
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Its id, ds_….")],
    file: Annotated[Path, typer.Argument(metavar="VIDEO", help="mp4, mov, webm or avi.")],
    label: Annotated[str, typer.Option(help="The class of the images.")],
    split: Annotated[SplitName | None, typer.Option(help="Their split; drawn if omitted.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, max=30, help="Images per second.")] = 2.0,
    max_frames: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    region: Annotated[
        str, typer.Option(help="whole, face, or x,y,width,height in pixels of the video.")
    ] = "whole",
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Add frames of a video to a class of a dataset.

    It is a job: Ctrl-C leaves it running.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    settings = load(key=key)
    given = {"label": label, "split": split, "rate": rate, "max_frames": max_frames}
    parameters = {name: value for name, value in given.items() if value is not None}
    job = ServerClient(settings, server).json(
        "POST",
        f"/v1/datasets/{quote(dataset, safe='')}/videos",
        params=parameters | {"region": region},
        files=[(VIDEO, (file.name, content, "application/octet-stream"))],
    )
    jobs = JobsApi(settings, server)
    follow_job(jobs, job["id"])
    result = jobs.get(job["id"]).result or {}
    if as_json:
        print_json(result)
        return
    frames = result.get("frames", {})
    notes().print(
        f"[green]✓[/] {result.get('added')} images of {frames.get('read')} frames are added"
    )
