"""Models that recognise people need the scope `faces`, whichever endpoint they are used through."""

from fastapi import Request

from models.faces.provenance import recognises_people
from models.store.snapshot import ServedVersion
from service.auth.principal import principal_of


def require_face_scope(request: Request, network: ServedVersion) -> None:
    """Check the scope for a version that was chosen for a request.

    Raises:
        Forbidden: The version recognises people and the key does not have the scope.
    """
    if recognises_people(network.manifest):
        principal_of(request).require("faces")
