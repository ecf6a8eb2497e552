"""What a training starts from: a version (`from_version`), or weights by layer name.

Checks it before the training is queued, with messages that say which part does not fit. Needs no
TensorFlow.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from contracts.errors import NotFound, NotTrainable, ValidationFailed
from contracts.inference.manifest import Manifest
from contracts.training.training_options import Head, VersionChoice, VersionRef
from contracts.training.trainings import TrainableNetwork, TrainingRequest
from models.store.labels import read_labels
from models.store.store import Store
from models.training.layer_names import convolution_names
from models.weights.catalog import Weights

WEIGHT_NETWORKS: Mapping[str, TrainableNetwork] = {
    "efficientnet_lite0": "efficientnet_lite0",
    "squeezenet": "squeezenet",
    "vgg16": "vgg16",
    "vgg16_notop": "vgg16",
    "vgg19": "vgg19",
    "vgg19_notop": "vgg19",
}
"""The published weights that `initial_weights` may name, and the network of each."""

_INHERITED = (
    *("network", "strategy", "unfreeze_from", "image_size", "color_mode", "centering"),
    *("resize", "head", "pool_dropout"),
)
_VGG: frozenset[TrainableNetwork] = frozenset({"vgg16", "vgg19", "vgg19_bn"})
_ANY_SIZE = frozenset({"squeezenet", "efficientnet_lite0"})  # their own tops average over the maps
_REFERENCE: TypeAdapter[VersionChoice | None] = TypeAdapter(VersionChoice | None)


def complete(sent: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """A body whose missing fields are filled in from the version that it goes on from.

    Fields of the body win, also inside `head`. Aliases become numbers, so that the training stays
    the same if the alias moves.

    Raises:
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
        NotTrainable: The version was not trained here.
    """
    completed = dict(sent)
    parent = _reference(sent, "from_version")
    if parent is not None:
        parent = _resolved(parent, store)
        spec = trained_spec(store, parent).model_dump(mode="json")
        completed = _inherit(spec, sent)
        completed["from_version"] = parent.model_dump()
    weights = sent.get("initial_weights")
    if isinstance(weights, dict):
        reference = _reference(sent, "initial_weights")
        if reference is not None:
            completed["initial_weights"] = _resolved(reference, store).model_dump()
    return completed


def _inherit(spec: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    inherited = {name: spec[name] for name in _INHERITED if spec.get(name) is not None}
    if sent.get("strategy") not in {None, "fine_tuning"}:
        inherited.pop("unfreeze_from", None)
    if isinstance(sent.get("head"), dict) and isinstance(inherited.get("head"), dict):
        head = inherited["head"]
        if "units" in sent["head"] and isinstance(head["dropout"], list):
            head = {name: value for name, value in head.items() if name != "dropout"}
        sent = {**sent, "head": head | sent["head"]}
    return inherited | {name: value for name, value in sent.items() if value is not None}


def _reference(sent: Mapping[str, Any], field: str) -> VersionRef | None:
    """The version that a field names; None if there is none, or validation will refuse it."""
    try:
        value = _REFERENCE.validate_python(sent.get(field))
        if value is None or isinstance(value, VersionRef):
            return value
        return VersionRef(model=sent.get("model", ""), version=value)
    except ValidationError:
        return None


def _resolved(reference: VersionRef, store: Store) -> VersionRef:
    number = store.resolve(reference.model, reference.version)
    return VersionRef(model=reference.model, version=number)


def trained_spec(store: Store, reference: VersionRef) -> TrainingRequest:
    """The training that made a version.

    Raises:
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
        NotTrainable: It was not trained here, or on enrolled subjects.
    """
    manifest = _manifest(store, reference)
    spec = manifest.provenance.spec
    what = f"Version {manifest.version} of '{manifest.model}'"
    if not spec:
        raise NotTrainable(
            f"{what} was not trained here, so nothing can go on from it. To start from published "
            "weights, leave from_version out."
        )
    if spec.get("subjects"):
        raise NotTrainable(
            f"{what} was trained on enrolled subjects, whose erasure must leave nothing behind. "
            "Train on the subjects again."
        )
    try:
        return TrainingRequest.model_validate(spec)
    except ValidationError:
        raise NotTrainable(f"{what} was trained by another release; train it again.") from None


def check_beginning(
    request: TrainingRequest, classes: Collection[str], store: Store, weights: Weights
) -> None:
    """Check that a training can start from what it names.

    Args:
        request: Completed by `complete`.
        classes: Those it will learn.
        store: Where versions are.
        weights: Where published weights are looked for.

    Raises:
        ValidationFailed: The network, its head, its input or the classes do not fit.
        NotTrainable: The version was not trained here.
        WeightsMissing: The published weights are not on this machine.
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
    """
    if request.parent is not None:
        parent = trained_spec(store, request.parent)
        manifest = _manifest(store, request.parent)
        _check_same_network(request, parent, f"version {manifest.version} of '{manifest.model}'")
        folder = store.path(manifest.model, manifest.version)
        labels = [label.id for label in read_labels(folder)]
        _check_same_classes(request, labels, classes)
    elif isinstance(request.initial_weights, VersionRef):
        source = trained_spec(store, request.initial_weights)
        if source.color_mode != request.color_mode:
            raise ValidationFailed(
                f"initial_weights: the version takes {source.color_mode} images, the training "
                f'{request.color_mode}. Send "color_mode": "{source.color_mode}".'
            )
        _check_same_layers(request, source.network)
    elif request.initial_weights is not None:
        _check_file(request, request.initial_weights, weights)


def _manifest(store: Store, reference: VersionRef) -> Manifest:
    return store.manifest(reference.model, store.resolve(reference.model, reference.version))


def _check_same_network(request: TrainingRequest, parent: TrainingRequest, what: str) -> None:
    for name in ("network", "color_mode", "centering", "resize"):
        ours, theirs = getattr(request, name), getattr(parent, name)
        if ours != theirs:
            raise ValidationFailed(f"{name}: {what} has {theirs}, not {ours}; leave it out.")
    ours, theirs = (one.strategy == "from_scratch" for one in (request, parent))
    if ours != theirs:
        raise ValidationFailed(
            f"strategy: {what} was trained by {parent.strategy}, whose input is scaled in another "
            f"way than that of {request.strategy}; leave it out."
        )
    for name in ("pooling", "units", "output"):
        ours, theirs = (_shown_head(_head(one), name) for one in (request, parent))
        if ours != theirs:
            raise ValidationFailed(
                f"head: {what} has {theirs}, not {ours}; leave it out. To give a network another "
                "head, send initial_weights, which takes only the layers that fit."
            )
    sides = (_side(request), _side(parent))
    if None not in sides and sides[0] != sides[1] and not _takes_any_size(request):
        raise ValidationFailed(
            f"image_size: the head of {what} takes {sides[1]} pixels, not {sides[0]}; leave it out."
        )


def _shown_head(head: Head | None, name: str) -> str:
    return "the network's own top" if head is None else f"{name} {getattr(head, name)}"


def _head(request: TrainingRequest) -> Head | None:
    """The head; None for the network's own top."""
    if request.head is None and request.strategy != "from_scratch":
        return Head()
    return request.head


def _takes_any_size(request: TrainingRequest) -> bool:
    head = _head(request)
    return request.network in _ANY_SIZE if head is None else head.pooling != "flatten"


def _side(request: TrainingRequest) -> tuple[int, int] | None:
    size = request.image_size
    return (size, size) if isinstance(size, int) else size


def _check_same_classes(
    request: TrainingRequest, before: Sequence[str], classes: Collection[str]
) -> None:
    known = set(classes)
    missing = [name for name in before if name not in known]
    if len(missing) == len(before):
        raise ValidationFailed(
            f"from_version: the version has none of the dataset's classes, but {_listed(before)}. "
            "Name the dataset's classes like those, or send initial_weights."
        )
    if missing and request.classes is None:
        raise ValidationFailed(
            f"from_version: the dataset has no images of {_listed(missing)}, which the version "
            "knows. Add some, or name the classes to go on with in `classes`."
        )
    if _output(request) == "sigmoid" and set(before) != known:
        raise ValidationFailed(
            f"from_version: a sigmoid for two classes cannot learn others than {_listed(before)}."
        )


def _output(request: TrainingRequest) -> str:
    head = _head(request)
    return "softmax" if head is None else head.output


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _check_file(request: TrainingRequest, name: str, weights: Weights) -> None:
    network = WEIGHT_NETWORKS.get(name)
    if network is None:
        raise ValidationFailed(
            f"initial_weights: there are no weights '{name}'. Known: {', '.join(WEIGHT_NETWORKS)}; "
            'or send a version, {"model": "…", "version": 1}.'
        )
    if request.color_mode == "grayscale":
        raise ValidationFailed(
            f'initial_weights: {name} takes three channels; send "color_mode": "rgb".'
        )
    _check_same_layers(request, network)
    try:
        weights.find(name)
    except NotFound as error:
        raise ValidationFailed(f"initial_weights: {error.detail}") from None


def _check_same_layers(request: TrainingRequest, source: TrainableNetwork) -> None:
    """Check that the base of a network has layers of the source, with the same shapes."""
    if request.network == source or {request.network, source} <= _VGG:
        return
    ours, theirs = (
        ", ".join(convolution_names(network)[:3]) for network in (request.network, source)
    )
    raise ValidationFailed(
        f"initial_weights: the layers of {source} ({theirs}, …) do not fit those of "
        f"{request.network} ({ours}, …). The weights of a network fit the same network; those of "
        "vgg16, vgg19 and vgg19_bn fit each other."
    )
