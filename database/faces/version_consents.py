"""The consents of those whom a version was trained on."""

from collections.abc import Collection
from dataclasses import dataclass

from contracts.errors import Conflict
from contracts.inference.manifest import Manifest
from database.faces.face_policy import FacePolicy
from database.faces.standings import Standings, has_consent


@dataclass(frozen=True, slots=True)
class VersionConsents:
    """Whether a version may be used, by the policy in force and the consents given."""

    policy: FacePolicy
    standings: Standings

    def require(self, manifest: Manifest, subjects: Collection[str]) -> None:
        """Check that everybody whom a version was trained on has consented, if that is required.

        Args:
            manifest: The version's.
            subjects: Ids of those whom it was trained on.

        Raises:
            Conflict: Somebody has no consent that is in force.
            Unavailable: The database does not answer.
        """
        policy = self.policy.get()
        if not policy.consent_required:
            return
        standings = self.standings.of(set(subjects))
        consenting = {one for one, standing in standings.items() if has_consent(standing, policy)}
        if set(subjects) - consenting:
            raise Conflict(
                f"Version {manifest.version} of '{manifest.model}' was trained on a person without "
                "a consent that is in force, which this service requires. Record the consent, or "
                "train again without that person and promote the new version."
            )
