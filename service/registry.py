"""Finds a model and its version among those that the workers tell of, ready or not."""

from contracts.errors import ModelNotFound, ModelNotReady, VersionNotFound
from contracts.registry import ModelInfo
from service.services import Presence


def model_named(presence: Presence, name: str) -> ModelInfo:
    """The model of that name.

    Raises:
        ModelNotFound: There is none; the message lists those there are.
    """
    models = presence.models()
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models)
    raise ModelNotFound(f"There is no model '{name[:64]}'. Known: {known}.")


def version_of(info: ModelInfo, version: str | None) -> int:
    """The version of that number or alias; None is the champion.

    Raises:
        VersionNotFound: The model has no such version.
        ModelNotReady: It has none at all yet.
    """
    if not info.versions:
        why = info.reason or "It is still loading."
        raise ModelNotReady(f"'{info.name}' has no version yet. {why}", retry_after=5)
    asked = version or "champion"
    for number in info.versions:
        if str(number) == asked or info.aliases.get(asked) == number:
            return number
    known = ", ".join([*map(str, info.versions), *info.aliases])
    raise VersionNotFound(f"'{info.name}' has no version '{asked[:64]}'. It has: {known}.")
