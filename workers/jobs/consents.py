"""The consents that a job needs when it begins; they may have been withdrawn since it was sent."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import Engine

from contracts.errors import NotFound
from contracts.inference.manifest import Manifest
from contracts.settings import Settings
from database.faces.face_policy import FacePolicy
from database.faces.standings import Standings
from database.faces.version_consents import VersionConsents
from models.faces.provenance import VERSION_FIELDS, subjects_of_version, takes_portraits
from models.store.store import Store


@dataclass(frozen=True, slots=True)
class Consents:
    """The consents of those whom the versions of the store were trained on."""

    store: Store
    versions: VersionConsents

    @classmethod
    def of(cls, settings: Settings, engine: Engine) -> Self:
        """Those of this installation."""

        def now() -> datetime:
            return datetime.now(UTC)

        versions = VersionConsents(FacePolicy(engine, now, settings), Standings(engine, now))
        return cls(Store(settings.store_home), versions)

    def require(self, manifest: Manifest) -> None:
        """Check them for one version; asks the database only if it was trained on people.

        Raises:
            Conflict: Somebody has no consent that is in force.
            Unavailable: The database does not answer.
        """
        if takes_portraits(manifest):
            self.versions.require(manifest, subjects_of_version(manifest))

    def require_for(self, request: Mapping[str, Any]) -> None:
        """Check them for the versions that the request of a job names.

        Raises:
            Conflict: As `require`.
            Unavailable: As `require`, or a version cannot be read at the moment.
        """
        model = str(request.get("model"))
        for version in filter(None, map(request.get, VERSION_FIELDS)):
            with suppress(NotFound):  # the job itself says so
                number = self.store.resolve(model, version)
                self.require(self.store.manifest(model, number))
