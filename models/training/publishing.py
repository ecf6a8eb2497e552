"""Publishes a version exactly once per job, even if the process is killed and runs again.

The key is the job's id in the manifest. Publishing looks for it first, under a lock of the model,
so that a second attempt finds the version of the first one and adds none.
"""

from pathlib import Path

from contracts.inference.manifest import Draft, Manifest
from models.store.store import Store


def find_published(store: Store, model: str, job_id: str) -> Manifest | None:
    """The version that a job has published, or None.

    Also if somebody was erased meanwhile: the job then finds that out and deletes the version.
    """
    for manifest in reversed(store.manifests(model, of_erased=True)):
        if manifest.provenance.job_id == job_id:
            return manifest
    return None


def publish_once(store: Store, model: str, folder: Path, draft: Draft) -> Manifest:
    """Publish a staging folder as the next version, unless its job has published one before.

    Args:
        store: The store.
        model: Name of the model; it is created if necessary.
        folder: From `Store.staging`.
        draft: The draft of the manifest, with the job's id.

    Returns:
        The manifest of the job's version.

    Raises:
        ValueError: The draft has no job id.
    """
    job_id = draft.provenance.job_id
    if job_id is None:
        raise ValueError("only a job's version is published once")
    with store.lock(f"publish-{model}"):
        if existing := find_published(store, model, job_id):
            return existing
        return store.manifest(model, store.publish(model, folder, draft), of_erased=True)
