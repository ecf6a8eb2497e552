"""Whether a newly trained version becomes the champion: the rule, and the words that explain it.

`if_better` compares like with like. The champion's recorded accuracy counts only if it was measured
on the same pictures, which equal digests of the data set prove; else it is measured anew on the
pictures that the newcomer was measured on.
"""

from collections.abc import Callable, Sequence

from contracts.errors import OpsinError
from contracts.manifest import CHAMPION, Manifest
from contracts.training_result import Promote, Promotion
from models.catalog import CATALOG
from models.label_file import read_labels
from models.store import Store

HELD_OUT_ACCURACY = "held_out_accuracy"
"""In a manifest's `metrics`: the accuracy on the test split, or if there is none on validation."""

Measure = Callable[[Manifest, Sequence[str]], float]
"""From a version and the names of its classes to its accuracy on the newcomer's pictures."""


def promote(
    store: Store, new: Manifest, labels: Sequence[str], rule: Promote, measure: Measure
) -> Promotion:
    """Let the champion stand on a version if the rule says so. Asked again, it says the same.

    Args:
        store: Where the version is.
        new: The version.
        labels: The names of its classes.
        rule: What was asked for.
        measure: Measures another version on the pictures this one was measured on.
    """
    accuracy = new.metrics[HELD_OUT_ACCURACY]
    # Two trainings that end together must not both compare with the same champion.
    with store.alone(f"promotion-{new.model}"):
        champion = store.aliases(new.model).get(CHAMPION)
        verdict = _verdict(store, new, labels, rule, measure, champion)
        if verdict.promoted and champion != new.version:
            store.promote(new.model, new.version)
    return verdict.model_copy(update={"accuracy": accuracy})


def _verdict(
    store: Store,
    new: Manifest,
    labels: Sequence[str],
    rule: Promote,
    measure: Measure,
    champion: int | None,
) -> Promotion:
    if champion == new.version:
        return _said(rule, True, "It is the champion.", champion)
    if rule == "always":
        return _said(rule, True, "Asked for: always.", champion)
    if rule == "never":
        return _said(rule, False, "Asked for: never. Promote it when you have seen it.", champion)
    if champion is None:
        return _said(rule, True, "It is the model's first champion.", None)
    try:
        old = store.manifest(new.model, champion)
        known = [label.id for label in read_labels(store.path(new.model, champion))]
    except (OpsinError, OSError, ValueError):
        return _said(rule, True, f"The champion, version {champion}, is damaged.", champion)
    lost = sorted(set(known) - set(labels))
    if lost:
        names = ", ".join(lost[:5]) + (" …" if len(lost) > 5 else "")
        return _said(
            rule,
            False,
            f"The champion, version {champion}, knows classes that this one does not: {names}.",
            champion,
        )
    return _compared(new, old, known, rule, measure)


def _compared(
    new: Manifest, old: Manifest, known: Sequence[str], rule: Promote, measure: Measure
) -> Promotion:
    accuracy, before = new.metrics[HELD_OUT_ACCURACY], old.metrics.get(HELD_OUT_ACCURACY)
    same = new.provenance.dataset_digest == old.provenance.dataset_digest is not None
    if before is None or not same:
        before = measure(old, known)
    better = accuracy > before
    comparison = "more than" if better else "not more than"
    reason = (
        f"{accuracy:.2%} of the held-out pictures right, {comparison} the {before:.2%} "
        f"of version {old.version} on the same ones."
    )
    return _said(rule, better, reason, old.version).model_copy(
        update={"champion_accuracy": before}
    )


def _said(rule: Promote, promoted: bool, reason: str, champion: int | None) -> Promotion:
    return Promotion(rule=rule, promoted=promoted, reason=reason, champion=champion)


def is_reserved(model: str) -> bool:
    """Whether a name belongs to a published network.

    Clients of `vgg16` expect ImageNet's classes; a training of that name would put others there.
    """
    return model in CATALOG
