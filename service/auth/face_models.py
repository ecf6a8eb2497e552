"""Models that recognize people need the scope `faces`, whichever endpoint they are used through."""

from fastapi import Request

from contracts.inference.manifest import Manifest
from models.faces.provenance import recognizes_people, takes_portraits
from models.store.snapshot import ServedVersion
from service.auth.principal import Principal, principal_of


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
