"""Sends a folder of labeled images to a server, as a dataset."""

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rich.markup import escape

from cli.clients.http import RefusedError, ServerClient
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.output import CommandError, notes, waiting
from cli.streams import shown


@contextmanager
def dataset_on_server(
    client: ServerClient, jobs: JobsApi, folder: Path, *, trainable: bool = False
) -> Iterator[str]:
    """The id of a dataset that is there, or that becomes of a folder.

    If the server refuses what the block asks it to do with a folder, it does not keep the dataset.

    Args:
        folder: Class folders, or the id itself.
        trainable: Whether it must be possible to train on a folder's images.

    Raises:
        CommandError: It is neither, or nothing can be learned from the folder; then the server does
            not keep it.
    """
    if folder.is_dir():
        sent = _send_folder(client, jobs, folder, trainable=trainable)
        try:
            yield sent
        except RefusedError:
            with suppress(CommandError):
                client.request("DELETE", f"/v1/datasets/{sent}")
            raise
        return
    if not str(folder).startswith("ds_"):
        raise CommandError(
            f"{folder} is neither a folder with one folder of images for each class nor the id "
            "of a dataset, ds_…."
        )
    yield str(folder)


def _send_folder(client: ServerClient, jobs: JobsApi, folder: Path, *, trainable: bool) -> str:
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
        sent = follow_job(jobs, sent["id"]).result or {}
    if trainable and not sent["trainable"]:
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
