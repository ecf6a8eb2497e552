"""What was learned of a person: the versions that a training of subjects made.

The weights of a network that tells people apart came from their faces, so erasing a person erases
those versions as well; nothing can be taken out of a network by itself.
"""

from contextlib import suppress
from dataclasses import dataclass

from contracts.errors import VersionInUse, VersionNotFound
from contracts.inference.manifest import CHAMPION, Manifest
from models.store.store import Store

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Learned:
    """A version that was trained on somebody's frames."""

    model: str
    version: int


def learned_of(store: Store, subject_id: str) -> list[Learned]:
    """All versions that were trained on a subject, int8 copies among them."""
    return [
        Learned(model, manifest.version)
        for model in store.models()
        for manifest in _manifests(store, model)
        if _names(manifest, subject_id)
    ]


def subjects_of(store: Store) -> set[str]:
    """Everybody whom some version was trained on."""
    return {
        subject_id
        for model in store.models()
        for manifest in _manifests(store, model)
        for subject_id in _subjects(manifest)
    }


def erase(store: Store, subject_id: str) -> list[Learned]:
    """Remove them for good; their aliases go, and the champion falls back.

    It falls back to the newest version of the model that the subject is no part of, so that the
    others are still served; where there is none, the model is served no more.

    Returns:
        What is gone.
    """
    gone = learned_of(store, subject_id)
    for one in gone:
        # Somebody else may be deleting it too.
        with suppress(VersionNotFound):
            _erase(store, one, subject_id)
    return gone


def _erase(store: Store, one: Learned, subject_id: str) -> None:
    for tries in range(_TRIES, 0, -1):
        for alias, version in store.aliases(one.model).items():
            if version == one.version:
                _move(store, one.model, alias, subject_id)
        try:
            return store.delete(one.model, one.version)
        except VersionInUse:  # an alias was set between the two
            if tries == 1:
                raise
    return None


def _move(store: Store, model: str, alias: str, subject_id: str) -> None:
    others = [one.version for one in _manifests(store, model) if not _names(one, subject_id)]
    if alias == CHAMPION and others:
        store.promote(model, max(others), alias)
    else:
        store.drop_alias(model, alias)


def _names(manifest: Manifest, subject_id: str) -> bool:
    return subject_id in _subjects(manifest)


def _subjects(manifest: Manifest) -> list[str]:
    spec = manifest.provenance.spec or {}
    return spec.get("subjects") or []


def _manifests(store: Store, model: str) -> list[Manifest]:
    """Those that can be read."""
    found = []
    for version in store.versions(model):
        with suppress(VersionNotFound):
            found.append(store.manifest(model, version))
    return found
