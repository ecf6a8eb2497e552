"""Whether a newly trained version becomes the champion: the rule, and the words that explain it.

`if_better` compares like with like. The champion's recorded accuracy counts only if it was measured
on the same pictures, which equal digests of the dataset prove; else it is measured anew on the
pictures that the newcomer was measured on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.errors import OpsinError
from contracts.inference.manifest import CHAMPION, Manifest
from contracts.training.training_result import Promote, Promotion
from models.store.labels import read_labels
from models.store.store import Store

HELD_OUT_ACCURACY = "held_out_accuracy"
"""In a manifest's `metrics`: the accuracy on the test split, or if there is none on validation."""

Measure = Callable[[Manifest, Sequence[str]], float]
"""From a version and the names of its classes to its accuracy on the newcomer's pictures."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A version that might become champion.

    Attributes:
        manifest: What it says of itself.
        labels: The names of its classes.
        rule: What its training asked for.
        measure: Measures another version on the pictures that it was measured on.
    """

    manifest: Manifest
    labels: Sequence[str]
    rule: Promote
    measure: Measure

    @property
    def accuracy(self) -> float:
        """Its own, on those pictures."""
        return self.manifest.metrics[HELD_OUT_ACCURACY]

    def verdict(self, promoted: bool, reason: str, champion: int | None) -> Promotion:
        """A decision about it."""
        return Promotion(
            rule=self.rule,
            promoted=promoted,
            reason=reason,
            accuracy=self.accuracy,
            champion=champion,
        )


def promote(store: Store, new: Newcomer) -> Promotion:
    """Let the champion stand on a version if its rule says so. Asked again, it says the same."""
    model, version = new.manifest.model, new.manifest.version
    # Two trainings that end together must not both compare with the same champion.
    with store.alone(f"promotion-{model}"):
        champion = store.aliases(model).get(CHAMPION)
        if champion == version:
            return new.verdict(True, "It is the champion.", champion)
        verdict = _verdict(store, new, champion)
        if verdict.promoted:
            store.promote(model, version)
        return verdict


def _verdict(store: Store, new: Newcomer, champion: int | None) -> Promotion:
    if new.rule == "always":
        return new.verdict(True, "Asked for: always.", champion)
    if new.rule == "never":
        return new.verdict(False, "Asked for: never. Promote it when you have seen it.", champion)
    if champion is None:
        return new.verdict(True, "It is the model's first champion.", None)
    try:
        old = store.manifest(new.manifest.model, champion)
        known = [label.id for label in read_labels(store.path(old.model, champion))]
    except (OpsinError, OSError, ValueError):
        return new.verdict(True, f"The champion, version {champion}, is damaged.", champion)
    lost = sorted(set(known) - set(new.labels))
    if lost:
        names = ", ".join(lost[:5]) + (" …" if len(lost) > 5 else "")
        reason = f"Version {champion}, the champion, knows classes that it does not: {names}."
        return new.verdict(False, reason, champion)
    return _compared(new, old, known)


def _compared(new: Newcomer, old: Manifest, known: Sequence[str]) -> Promotion:
    before = old.metrics.get(HELD_OUT_ACCURACY)
    digest = new.manifest.provenance.dataset_digest
    if before is None or digest is None or digest != old.provenance.dataset_digest:
        before = new.measure(old, known)
    better = new.accuracy > before
    reason = (
        f"It gets {new.accuracy:.2%} of the held-out pictures right, {'' if better else 'not '}"
        f"more than version {old.version}, the champion, with {before:.2%} of the same ones."
    )
    verdict = new.verdict(better, reason, old.version)
    return verdict.model_copy(update={"champion_accuracy": before})
