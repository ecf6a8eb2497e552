"""`opsin train --server`: the folder is sent as a dataset, and the training is a job there."""

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rich.markup import escape

from cli.clients.http import ServerClient
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.commands.training.train import summarize
from cli.output import CommandError, notes, waiting
from cli.streams import shown
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
    dataset = str(folder)
    if folder.is_dir():
        dataset = _send_folder(client, jobs, folder)
    elif not dataset.startswith("ds_"):
        raise CommandError(
            f"{folder} is neither a folder with one folder of images for each class nor the id "
            "of a dataset, ds_…."
        )
    job = client.json("POST", "/v1/trainings", json={**fields, "dataset_id": dataset})
    notes().print(f"[green]✓[/] {job['id']} is queued; Ctrl-C leaves it running")
    follow_job(jobs, job["id"])
    summarize(jobs.get(job["id"]).result or {}, None)


def _send_folder(client: ServerClient, jobs: JobsApi, folder: Path) -> str:
    """The id of the dataset that a server made of a folder.

    Raises:
        CommandError: Nothing can be learned from it; then the server does not keep it.
    """
    name = shown(folder.resolve().name)
    console = notes()
    with tempfile.TemporaryFile() as archive:
        with waiting(console, f"Packing {name}"):
            _pack(folder, archive)
        archive.seek(0)
        with waiting(console, f"Sending {name}"):
            parts = {"name": (None, name), "archive": ("folder.zip", archive, "application/zip")}
            sent = client.json("POST", "/v1/datasets", files=parts)
    if sent["id"].startswith("job_"):
        follow_job(jobs, sent["id"])
        sent = jobs.get(sent["id"]).result or {}
    if not sent["trainable"]:
        client.request("DELETE", f"/v1/datasets/{sent['id']}")
        raise CommandError(f"{folder}: {sent.get('reason') or 'nothing can be learned from it'}")
    console.print(f"[green]✓[/] {escape(sent['name'])} is the dataset {sent['id']}")
    return str(sent["id"])


def _pack(folder: Path, file: BinaryIO) -> None:
    """Write a folder's files into a zip; images are compressed already."""
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    archive.write(path, shown(path.relative_to(folder)))
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read ({error.strerror}).") from None
