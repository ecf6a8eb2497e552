"""The networks' weights and the versions in the store: whether they are there and undamaged."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cli.checks.check import Check
from cli.output import CommandError
from cli.startup import known_networks
from contracts.errors import OpsinError
from contracts.settings import Settings
from models.catalog import Network
from models.store.manifest import DamagedManifestError, find_problems, read_manifest
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing

_VERIFY = "`opsin models verify {model}` moves it to quarantine; then promote another."


def store(settings: Settings, *, deep: bool) -> Iterator[Check]:
    """Check weights and versions.

    Args:
        deep: Whether to read every file and compare its digest.
    """
    model_store = Store(settings.store_home)
    try:
        networks = known_networks(settings)
    except CommandError as error:
        yield Check("models", "fail", error.message, "Correct OPSIN_MODELS.")
    else:
        checks = [_weights(Weights.of(settings), model_store, each) for each in networks]
        # The others work without it, as long as one of them classifies.
        works = any(
            check.state == "ok" and network.classes is not None
            for check, network in zip(checks, networks, strict=True)
        )
        for check in checks:
            yield replace(check, state="warn") if works and check.state == "fail" else check
    try:
        for model in _models(settings.store_home):
            yield from _model(model_store, model, deep=deep)
    except OSError as error:
        help_ = "See `permissions` above; check the disk too."
        yield Check("store", "fail", f"cannot be read ({error.strerror})", help_)


def _models(root: Path) -> list[str]:
    """Every model that ever had a version, even if its last one was found damaged."""
    if not root.is_dir():
        return []
    return sorted(
        path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _weights(weights: Weights, model_store: Store, network: Network) -> Check:
    name = f"weights {network.name}"
    names = " ".join((network.weights, *network.needs))
    help_ = f"`opsin weights pull {names}`, or remove it from OPSIN_MODELS."
    try:
        for other in network.needs:  # the store holds only the network itself
            weights.find(other)
    except WeightsMissing as missing:
        return Check(name, "fail", missing.detail, help_)
    try:
        return Check(name, "ok", weights.find(network.weights).source)
    except WeightsMissing as missing:
        if model_store.versions(network.name):
            return _stored(model_store, network, name, names)
        return _base(weights, network, name, missing.detail, help_)


def _stored(model_store: Store, network: Network, name: str, names: str) -> Check:
    if network.classes is not None and not _classifies(model_store, network.name):
        detail = "only the base, in the store: it embeds, it cannot classify"
        return Check(name, "warn", detail, f"`opsin weights pull {names}`.")
    return Check(name, "ok", "not here, but the network is in the store")


def _base(weights: Weights, network: Network, name: str, detail: str, help_: str) -> Check:
    if network.base_weights is None:
        return Check(name, "fail", detail, help_)
    try:
        base = weights.find(network.base_weights)
    except WeightsMissing:
        return Check(name, "fail", detail, help_)
    return Check(name, "warn", f"only the base ({base.source}): it embeds, it cannot classify")


def _classifies(model_store: Store, model: str) -> bool:
    """Whether a network's champion has classes; a damaged one is reported elsewhere."""
    try:
        return model_store.manifest(model, model_store.resolve(model)).classes is not None
    except (OpsinError, ValueError):
        return True


def _model(model_store: Store, model: str, *, deep: bool) -> Iterator[Check]:
    name, versions = f"store {model}", model_store.versions(model)
    manifests = model_store.manifests(model, of_erased=True)
    refused = [one.version for one in manifests if model_store.refuses(one)]
    if refused:
        numbers = ", ".join(map(str, refused))
        detail = f"version {numbers} is refused: it was trained on people who were erased"
        help_ = "The service deletes it within minutes; its log says why if it does not."
        yield Check(name, "warn", detail, help_)
    checked = [version for version in versions if version not in refused]
    faults = {version: _faults(model_store, model, version, deep=deep) for version in checked}
    damaged = {version: texts for version, texts in faults.items() if texts}
    for version, texts in damaged.items():
        more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
        detail = f"version {version} is damaged: {texts[0]}{more}"
        yield Check(name, "fail", detail, _VERIFY.format(model=model))
    quarantined = model_store.quarantined(model)
    if quarantined:
        numbers = ", ".join(str(version) for version in quarantined)
        help_ = f"`opsin restore` a backup into another home and copy it, or train {model} again."
        yield Check(name, "warn", f"version {numbers} was found damaged, in quarantine", help_)
    try:
        aliases = model_store.aliases(model)
    except ValueError as error:
        help_ = f"After moving it away: `opsin models promote {model} VERSION`."
        yield Check(name, "fail", f"{error}", help_)
        return
    dangling = {alias: number for alias, number in aliases.items() if number not in versions}
    if dangling:
        detail = ", ".join(
            f"{alias} points to {number}, which is missing" for alias, number in dangling.items()
        )
        help_ = f"`opsin models promote {model} VERSION` with one of: {versions}."
        yield Check(name, "fail", detail, help_)
    if not (refused or damaged or quarantined or dangling):
        count = "1 version" if len(versions) == 1 else f"{len(versions)} versions"
        yield Check(name, "ok", f"{count}, {', '.join(aliases) or 'no alias'}")


def _faults(model_store: Store, model: str, version: int, *, deep: bool) -> list[str]:
    """What is wrong with a version; without `deep`, judged by names and sizes only."""
    try:
        folder = model_store.path(model, version)
        if deep:
            return find_problems(folder)
        records = read_manifest(folder).files
    except (DamagedManifestError, OpsinError) as error:
        return [str(error)]
    except OSError as error:
        return [f"its files cannot be read: {error.strerror}"]
    return [
        f"{name} is missing" if not (folder / name).is_file() else f"{name} has another size"
        for name, record in records.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != record.size
    ]
