"""`opsin train --server`: the folder is sent as a dataset, and the training is a job there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.clients.http import ServerClient
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.commands.sent_folder import dataset_on_server
from cli.commands.training.train import summarize
from cli.output import notes
from contracts.settings import Settings

_UPLOAD_SECONDS = 3600.0


def train_on_server(
    settings: Settings, server: str, folder: Path, fields: Mapping[str, Any]
) -> None:
    """Train as a job of a server, follow it, and print the result.

    Args:
        folder: Class folders, or the id of a dataset that is there.
        fields: The requested fields of `POST /v1/trainings`.

    Raises:
        CommandError: It was refused, or has failed.
    """
    client = ServerClient(settings, server, seconds=_UPLOAD_SECONDS)
    jobs = JobsApi(settings, server)
    with dataset_on_server(client, jobs, folder, trainable=True) as dataset:
        job = client.json("POST", "/v1/trainings", json={**fields, "dataset_id": dataset})
    notes().print(f"[green]✓[/] {job['id']} is queued; Ctrl-C leaves it running")
    summarize(follow_job(jobs, job["id"]).result or {}, None)
