"""What jobs on faces need on this installation, checked before they are accepted."""

from contracts.errors import ModelNotReady, OpsinError
from contracts.faces.faces import FACE_MODEL, FINDER_WEIGHTS
from models.weights.catalog import Weights
from service.dependencies import Services
from service.faces.detection import current_embedder
from service.faces.subjects import embedder_in_force
from service.threads import run_in_threadpool


async def require_analyzer(services: Services) -> None:
    """Check that a job can find and embed faces.

    A worker that serves faces has loaded both, so that nothing else is checked then.

    Raises:
        ModelNotReady: The face embedder has not been imported, or the weights that find faces are
            missing.
    """
    if not _is_served(services) and await embedder_in_force(services) is None:
        raise _no_embedder(services)
    await require_finder(services)


async def require_finder(services: Services) -> None:
    """Check that a job can find faces; as for `require_analyzer`.

    Raises:
        ModelNotReady: The weights that find faces are missing.
    """
    if not _is_served(services):
        await run_in_threadpool(Weights.of(services.settings).find, FINDER_WEIGHTS)


def _is_served(services: Services) -> bool:
    try:
        current_embedder(services)
    except OpsinError:
        return False
    return True


def _no_embedder(services: Services) -> ModelNotReady:
    if FACE_MODEL in services.settings.models:
        info = services.workers.model(FACE_MODEL)
        if info.state == "unavailable" and info.reason and services.workers.workers:
            return ModelNotReady(f"Faces cannot be analyzed. {info.reason}")
        return ModelNotReady(f"'{FACE_MODEL}' is being imported. Retry soon.", retry_after=10)
    return ModelNotReady(
        f"Faces cannot be analyzed: '{FACE_MODEL}' is not installed. The operator adds it to "
        "OPSIN_MODELS and restarts the service."
    )
