"""Finds and deletes the model versions that were trained on a subject's frames.

A person's data cannot be removed from trained weights, so erasing a person deletes those versions.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from contracts.errors import VersionInUse, VersionNotFound
from contracts.faces.faces import FACE_MODEL
from contracts.inference.manifest import CHAMPION, Manifest
from models.store.store import AliasMovedError, Store, unmoved

_TRIES = 5
VERSION_FIELDS = ("version", "against")
"""The fields of a job's request that name versions of its `model`."""


@dataclass(frozen=True, slots=True)
class TrainedVersion:
    """A version that was trained on a subject's frames."""

    model: str
    version: int


def recognizes_people(manifest: Manifest) -> bool:
    """Whether a version's outputs say who a person is: a face embedder, or trained on subjects."""
    return manifest.network == FACE_MODEL or bool(subjects_of_version(manifest))


def has_versions_of_people(store: Store, model: str) -> bool:
    """Whether a version of a model recognizes people; damaged ones do not count.

    Raises:
        Unavailable: A manifest cannot be read at the moment.
    """
    for version in store.numbers(model):
        with suppress(VersionNotFound):
            if recognizes_people(store.manifest(model, version, of_erased=True)):
                return True
    return False


def takes_portraits(manifest: Manifest) -> bool:
    """Whether a version was trained on portraits of subjects, see `models.faces.portrait`."""
    return bool(subjects_of_version(manifest))


def without_subjects(manifest: Manifest) -> Manifest:
    """The manifest without what names the subjects, such as the weights of its classes."""
    subjects = subjects_of_version(manifest)
    if not subjects:
        return manifest
    spec = {
        name: None if any(one in json.dumps(value) for one in subjects) else value
        for name, value in (manifest.provenance.spec or {}).items()
    }
    provenance = manifest.provenance.model_copy(update={"spec": spec})
    return manifest.model_copy(update={"provenance": provenance})


def versions_trained_on(store: Store, subject_id: str) -> list[TrainedVersion]:
    """All versions that were trained on a subject, including int8 copies."""
    return [
        TrainedVersion(model, manifest.version)
        for model in store.models()
        for manifest in store.manifests(model, of_erased=True)
        if subject_id in subjects_of_version(manifest)
    ]


def subjects_of(store: Store) -> set[str]:
    """All subjects that some version was trained on."""
    return {
        subject_id
        for model in store.models()
        for manifest in store.manifests(model, of_erased=True)
        for subject_id in subjects_of_version(manifest)
    }


def require_named(store: Store, request: Mapping[str, Any]) -> None:
    """Check that the versions named in a job's request exist and were trained on nobody erased.

    The published face embedder knows nobody.

    Raises:
        NotFound: One was deleted, or trained on an erased person.
        Unavailable: It cannot be read who was erased.
    """
    if (model := str(request.get("model"))) == FACE_MODEL:
        return
    for version in filter(None, map(request.get, VERSION_FIELDS)):
        store.resolve(model, version)


def require_readable(store: Store) -> None:
    """Check that no version is left out because its manifest cannot be read at the moment.

    Those that are damaged or in quarantine are never served again, and do not count.

    Raises:
        Unavailable: A manifest cannot be read; the version may be trained on anybody.
    """
    for model in store.names():
        for version in store.numbers(model):
            with suppress(VersionNotFound):
                store.manifest(model, version, of_erased=True)


def erase(store: Store, subject_id: str) -> list[TrainedVersion]:
    """Delete all versions that were trained on a subject, and their aliases.

    The champion alias moves back to the version without the subject that was champion last, so that
    the model is still served; if there is none, the model is no longer served until a version is
    promoted. One that was refused or never promoted does not become champion.

    Those that are damaged or in quarantine are deleted too, if anything in them names the subject.

    Returns:
        The deleted versions.
    """
    trained_versions = versions_trained_on(store, subject_id)
    for trained in trained_versions:
        with suppress(VersionNotFound):  # another process may be deleting it too
            _delete(store, trained, subject_id)
    damaged = [
        TrainedVersion(model, version)
        for model in store.names()
        for version in store.delete_damaged(model, f'"{subject_id}"')
    ]
    return trained_versions + damaged


def _delete(store: Store, trained: TrainedVersion, subject_id: str) -> None:
    for tries_left in reversed(range(_TRIES)):
        for alias, version in store.aliases(trained.model).items():
            if version == trained.version:
                with suppress(AliasMovedError):
                    _move_alias(store, trained, alias, subject_id)
        try:
            return store.delete(trained.model, trained.version)
        except VersionInUse:  # an alias was set in between
            if not tries_left:
                raise
    return None


def _move_alias(store: Store, trained: TrainedVersion, alias: str, subject_id: str) -> None:
    model, check = trained.model, unmoved(trained.version)
    usable = {
        manifest.version
        for manifest in store.manifests(model)
        if subject_id not in subjects_of_version(manifest)
    }
    former = [version for version in store.former_champions(model) if version in usable]
    if alias == CHAMPION and former:
        store.promote(model, former[0], alias, check=check)
    else:
        store.drop_alias(model, alias, check=check)


def subjects_of_version(manifest: Manifest) -> list[str]:
    """The ids of the subjects that a version was trained on; usually none."""
    return manifest.provenance.subjects
