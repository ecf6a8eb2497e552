"""A file that a job made, as an answer: opened once, so that a replacement cannot mix two."""

import os
from collections.abc import Iterator

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from contracts.errors import NotFound
from contracts.jobs import Job
from database.jobs.files import JobFiles

_CHUNK = 256 * 1024
# What a browser may show; all else it shall only save, whatever it thinks it is.
_SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "text/plain"})


def artifact_response(job: Job, name: str, files: JobFiles) -> Response:
    """The file of that name.

    Raises:
        NotFound: The job has none of that name.
    """
    found = next((one for one in job.artifacts if one.name == name), None)
    if found is None:
        raise NotFound(f"Job {job.id} has no artifact '{name[:64]}'; its `artifacts` list all.")
    file = files.open_artifact(job.id, found.name)
    place = "inline" if found.media_type in _SHOWN else "attachment"
    return StreamingResponse(
        _chunks(file),
        media_type=found.media_type,
        headers={
            "Content-Length": str(os.fstat(file).st_size),
            "Content-Disposition": f'{place}; filename="{found.name}"',
            "Cache-Control": "private, no-cache",
            "X-Content-Type-Options": "nosniff",
        },
        background=BackgroundTask(_close, file),
    )


def _chunks(file: int) -> Iterator[bytes]:
    while chunk := os.read(file, _CHUNK):
        yield chunk


def _close(file: int) -> None:
    os.close(file)
