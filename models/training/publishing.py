"""One job, one version: publishing that may be killed at any moment and done again.

The job's id in the manifest is the key. Whoever publishes looks for it first, alone with the
model, so a second attempt finds what the first one left and adds nothing.
"""

from collections.abc import Sequence
from pathlib import Path

from contracts.errors import VersionNotFound
from contracts.inference.manifest import Draft, Manifest
from models.store.store import Store


def published(store: Store, model: str, job_id: str) -> Manifest | None:
    """The version that a job has published, if it has."""
    for manifest in _manifests(store, model):
        if manifest.provenance.job_id == job_id:
            return manifest
    return None


def publish_once(store: Store, model: str, folder: Path, draft: Draft) -> Manifest:
    """Make a staging folder the next version, unless its job has published one before.

    Args:
        store: Where to.
        model: Its name; a new one makes a new model.
        folder: From `Store.staging`.
        draft: What the manifest shall say; names the job.

    Returns:
        The manifest of the job's one version.

    Raises:
        ValueError: The draft names no job.
    """
    job_id = draft.provenance.job_id
    if job_id is None:
        raise ValueError("only a job's version is published once")
    with store.alone(f"publish-{model}"):
        found = published(store, model, job_id)
        return found or store.manifest(model, store.publish(model, folder, draft))


def _manifests(store: Store, model: str) -> Sequence[Manifest]:
    """Those that can be read, the newest first."""
    found = []
    for version in reversed(store.versions(model)):
        try:
            found.append(store.manifest(model, version))
        except VersionNotFound:
            continue  # deleted this very moment, or damaged
    return found
