"""The job behind `/v1/faces/detect` with `Prefer: respond-async`."""

from typing import Any

from contracts.faces.faces import LONGEST_SIDE
from contracts.faces.recognition import DetectedFaces
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import Work
from models.faces.detection.finder import open_finder
from models.faces.detection.request import IMAGE, DetectionJobRequest
from models.faces.detection.scaling import in_original
from models.images.decode import decode_reduced
from models.weights.catalog import Weights


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Detect the faces in the job's image; `work.request` is a `DetectionJobRequest`.

    Returns:
        A `DetectedFaces` as JSON.

    Raises:
        WeightsMissing: The weights of the face finder are missing; says what to do.
        OpsinError: The image cannot be read.
        WorkStoppedError: The job was cancelled.
    """
    request = DetectionJobRequest.model_validate(work.request)
    data = (work.folder / IMAGE).read_bytes()
    work.progress(Progress(fraction=0, phase="model"))
    finder = open_finder(Weights.of(settings), threads=settings.job_threads)
    image = decode_reduced(data, longest_side=LONGEST_SIDE, max_pixels=settings.max_image_pixels)
    work.check()
    found = finder.find(image.pixels, request.limit)
    result = DetectedFaces(
        width=image.width,
        height=image.height,
        faces=list(in_original((detected.face for detected in found.faces), image)),
        total=found.total,
    )
    work.progress(Progress(fraction=1, phase="faces"))
    return result.model_dump(mode="json")
