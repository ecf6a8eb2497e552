"""Crops the faces out of images for versions that were trained on subjects.

Such a version has seen nothing but portraits, so an image is reduced to one in the same way before
it is classified, embedded or explained.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from contracts.errors import InternalError, OpsinError, PayloadTooLarge, ValidationFailed
from contracts.faces.faces import FacesRequest
from models.faces.provenance import takes_portraits
from models.store.snapshot import ServedVersion
from service.dependencies import Services
from service.faces.detection import detect_faces, main_face_index
from service.http.deadlines import Deadline
from service.http.uploads import Upload
from service.metrics.request_record import RequestRecord, recording

_REQUEST = FacesRequest(max_faces=2, portrait=True)


async def with_portraits(
    services: Services, network: ServedVersion, uploads: Sequence[Upload], deadline: Deadline
) -> list[Upload]:
    """The uploads as the version takes them: unchanged, or each reduced to its one face.

    Args:
        services: The application's services.
        network: The version.
        uploads: The images, each with its bytes or an error.
        deadline: The request's.

    Returns:
        The uploads in order; an image without a face, or with several, has an error.

    Raises:
        OpsinError: The only image has an error, or no worker finds faces now.
    """
    if not takes_portraits(network.manifest):
        return list(uploads)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_portrait(services, upload, deadline)) for upload in uploads]
    results = [task.result() for task in tasks]
    for error in (upload.data for upload in results):
        if isinstance(error, OpsinError) and (
            len(results) == 1 or not isinstance(error, ValidationFailed | PayloadTooLarge)
        ):
            raise error
    return results


async def _portrait(services: Services, upload: Upload, deadline: Deadline) -> Upload:
    if isinstance(upload.data, OpsinError):
        return upload
    try:
        # The request counts for its own version, and each of its images once.
        with recording(RequestRecord()):
            (detection,) = await detect_faces(services, [upload.data], _REQUEST, deadline)
        main_face_index(detection)
        if detection.portrait is None:
            raise InternalError("The worker sent no portrait. Upgrade the workers.")
    except OpsinError as error:
        return replace(upload, data=error)
    return replace(upload, data=detection.portrait)
