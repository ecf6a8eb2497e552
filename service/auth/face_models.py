"""Models that recognize people need the scope `faces`, whichever endpoint they are used through.

Where a consent is required, a version that was trained on people is not used unless all of them
have one in force: what it has learned of one of them cannot be left out of its answers.
"""

from fastapi import Request

from contracts.inference.manifest import Manifest
from database.faces.version_consents import VersionConsents
from models.faces.provenance import recognizes_people, subjects_of_version, takes_portraits
from models.store.snapshot import ServedVersion
from service.auth.principal import Principal, principal_of
from service.dependencies import Services
from service.threads import run_in_threadpool


def require_face_scope(request: Request, network: ServedVersion) -> None:
    """Check the scope for a version that was chosen for a request.

    Raises:
        Forbidden: The version recognizes people and the key does not have the scope.
    """
    require_scope_for(principal_of(request), network.manifest)


def require_scope_for(principal: Principal, manifest: Manifest) -> None:
    """As `require_face_scope`, for a version that a job will use: its patterns are faces too.

    Raises:
        Forbidden: As `require_face_scope`.
    """
    if recognizes_people(manifest):
        principal.require("faces")


def require_scope_to_download(principal: Principal, manifest: Manifest) -> None:
    """Check the scope for the files of a version, which name the subjects and recognize them.

    A published face embedder is no secret.

    Raises:
        Forbidden: The version was trained on subjects and the key does not have the scope.
    """
    if takes_portraits(manifest):
        principal.require("faces")


async def require_usable(services: Services, principal: Principal, manifest: Manifest) -> None:
    """Check the scope and the consents for a version that a job will use.

    Raises:
        Forbidden: As `require_face_scope`.
        Conflict: As `require_consents`.
    """
    require_scope_for(principal, manifest)
    await require_consents(services, manifest)


async def require_consents(services: Services, manifest: Manifest) -> None:
    """Check that everybody whom a version was trained on has consented, where that is required.

    Only a version that was trained on subjects costs a look at the database.

    Raises:
        Conflict: Somebody has no consent that is in force.
        Unavailable: The database does not answer.
    """
    if takes_portraits(manifest):
        faces = services.faces.repositories
        consents = VersionConsents(faces.policy, faces.standings)
        await run_in_threadpool(consents.require, manifest, subjects_of_version(manifest))


async def require_still_usable(services: Services, manifest: Manifest) -> None:
    """Check once more, just before a response is sent, what was checked before the upload.

    The upload and the queue may have taken minutes. Meanwhile a consent may have ended, or a
    subject was erased and the version deleted, perhaps by another process. Only a version that was
    trained on subjects costs anything.

    Raises:
        VersionNotFound: The version was deleted, or somebody whom it was trained on was erased.
        Conflict: As `require_consents`.
        Unavailable: As `require_consents`, or it cannot be read who was erased.
    """
    if takes_portraits(manifest):
        await run_in_threadpool(services.store.path, manifest.model, manifest.version)
        await require_consents(services, manifest)
