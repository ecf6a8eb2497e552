"""Responses that several routes share: an accepted job, and a file that a job made."""

from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask

from contracts.errors import NotFound
from contracts.held_files import HeldFile
from contracts.jobs import Job
from database.jobs.files import JobFiles
from service.http.files import FileContent, file_response

LOCATION: dict[str, Any] = {
    "Location": {"description": "The URL of the job.", "schema": {"type": "string"}}
}
"""The header of `job_response`, for a route's `responses`."""

# Types that a browser may display. It downloads everything else, whatever it takes it for.
_INLINE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "text/plain"})


def job_response(job: Job) -> JSONResponse:
    """202 with the job and its URL."""
    return JSONResponse(job.model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{job.id}"})


def artifact_response(request: Request, job: Job, name: str, files: JobFiles) -> Response:
    """A file of a job; a replacement during the response has no effect, or ends it.

    Raises:
        NotFound: The job has no such artifact.
    """
    artifact = next((artifact for artifact in job.artifacts if artifact.name == name), None)
    if artifact is None:
        raise NotFound(f"Job {job.id} has no artifact '{name[:64]}'; its `artifacts` list all.")
    file = HeldFile(partial(files.open_artifact, job.id, artifact.name))
    disposition = "inline" if artifact.media_type in _INLINE_TYPES else "attachment"
    found = file.stat
    # A replacement is another file with another time.
    etag = f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'
    return file_response(
        request,
        FileContent(found.st_size, etag, file.read, data=file.content),
        media_type=artifact.media_type,
        headers={
            "Content-Disposition": f'{disposition}; filename="{artifact.name}"',
            "X-Content-Type-Options": "nosniff",
        },
        close=BackgroundTask(file.close),
    )
