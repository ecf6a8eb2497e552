"""The networks' weights and the versions in the store: is there, and whole, what is to serve?"""

from collections.abc import Iterator
from pathlib import Path

from cli.checks.check import Check
from cli.commands.pulling import known_networks
from cli.output import CommandError
from contracts.errors import OpsinError
from contracts.settings import Settings
from models.catalog import Network
from models.store.manifest import DamagedManifestError, problems, read_manifest
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing

_VERIFY = "`opsin models verify {model}` looks closer and puts it aside; then promote another."


def store(settings: Settings, *, deep: bool) -> Iterator[Check]:
    """Looks at weights and versions.

    Args:
        settings: Where they are.
        deep: Whether to read every file and compare its digest.
    """
    shelves = Store(settings.store_home)
    try:
        networks = known_networks(settings)
    except CommandError as error:
        yield Check("models", "fail", error.message, "Correct OPSIN_MODELS.")
    else:
        for network in networks:
            yield _weights(Weights.of(settings), shelves, network)
    try:
        for model in _models(settings.store_home):
            yield from _model(shelves, model, deep=deep)
    except OSError as error:
        help_ = "`opsin doctor` above says who may read what; check the disk too."
        yield Check("store", "fail", f"cannot be read ({error.strerror})", help_)


def _models(root: Path) -> list[str]:
    """Every model that ever had a version: one whose last was found damaged is still asked for."""
    if not root.is_dir():
        return []
    return sorted(
        path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _weights(weights: Weights, shelves: Store, network: Network) -> Check:
    name = f"weights {network.name}"
    wanted = " ".join((network.weights, *network.needs))
    help_ = f"`opsin weights pull {wanted}`, or take it off OPSIN_MODELS."
    try:
        for other in network.needs:  # in the store lies the network alone
            weights.find(other)
    except WeightsMissing as missing:
        return Check(name, "fail", missing.detail, help_)
    try:
        return Check(name, "ok", weights.find(network.weights).source)
    except WeightsMissing as missing:
        if shelves.versions(network.name):
            return Check(name, "ok", "not here, but imported into the store already")
        if network.base_weights is None:
            return Check(name, "fail", missing.detail, help_)
        try:
            base = weights.find(network.base_weights)
        except WeightsMissing:
            return Check(name, "fail", missing.detail, help_)
    return Check(name, "warn", f"only the base ({base.source}): it embeds, it cannot classify")


def _model(shelves: Store, model: str, *, deep: bool) -> Iterator[Check]:
    name, versions = f"store {model}", shelves.versions(model)
    damaged = {one: found for one in versions if (found := _faults(shelves, model, one, deep=deep))}
    for version, found in damaged.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        detail = f"version {version} is damaged: {found[0]}{more}"
        yield Check(name, "fail", detail, _VERIFY.format(model=model))
    aside = shelves.quarantined(model)
    if aside:
        folder = ", ".join(str(one) for one in aside)
        help_ = f"`opsin restore` a backup elsewhere and copy it, or train it anew: {model}."
        yield Check(name, "warn", f"version {folder} was found damaged, in quarantine", help_)
    try:
        aliases = shelves.aliases(model)
    except ValueError as error:
        yield Check(name, "fail", f"{error}", f"`opsin models promote {model} VERSION`.")
        return
    astray = {alias: one for alias, one in aliases.items() if one not in versions}
    if astray:
        detail = ", ".join(
            f"{alias} stands on {one}, which is gone" for alias, one in astray.items()
        )
        help_ = f"`opsin models promote {model} VERSION` with one of: {versions}."
        yield Check(name, "fail", detail, help_)
    if not (damaged or aside or astray):
        count = "1 version" if len(versions) == 1 else f"{len(versions)} versions"
        yield Check(name, "ok", f"{count}, {', '.join(aliases) or 'no alias'}")


def _faults(shelves: Store, model: str, version: int, *, deep: bool) -> list[str]:
    """What is wrong with a version; without `deep`, as far as names and sizes tell."""
    try:
        folder = shelves.path(model, version)
        if deep:
            return problems(folder)
        records = read_manifest(folder).files
    except (DamagedManifestError, OpsinError) as error:
        return [str(error)]
    return [
        f"{name} is missing" if not (folder / name).is_file() else f"{name} has another size"
        for name, record in records.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != record.size
    ]
