"""Decides whether a newly trained version becomes the champion, and explains why.

The rule `if_better` compares accuracies on the same images. The champion's recorded accuracy counts
only if it was measured on the same dataset (equal digest) and by the same runtime as that of the
new version: earlier releases recorded the accuracy in float32 and served in another precision.
Otherwise the champion is evaluated on the held-out images of the new version, as it is served.

A champion that recognizes people is compared with versions of people only: its answers for the
images of a dataset would tell whom they show. `always` replaces it for keys with the scope `faces`.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contracts.errors import OpsinError, Unavailable
from contracts.inference.manifest import CHAMPION, Manifest
from contracts.training.training_result import Promote, Promotion
from models.faces.provenance import recognizes_people
from models.store.aliases import DamagedAliasesError
from models.store.labels import read_labels
from models.store.manifest import write_atomically
from models.store.store import AliasMovedError, Store, unmoved

HELD_OUT_ACCURACY = "held_out_accuracy"
"""Key in a manifest's `metrics`: accuracy on the test split, or on validation without one."""

_ALWAYS = "As requested: always."
_OF_PEOPLE = (
    "The champion, version {}, recognizes people and is not compared with a version trained on a "
    "dataset. To replace it, promote this one with a key that has the scope `faces`."
)
_TRIES = 5


class Evaluator(Protocol):
    """Evaluates other versions on the held-out images of a training."""

    def accuracy(self, version: Manifest, labels: Sequence[str]) -> float:
        """The accuracy of a version whose classes have these names, 0 to 1."""
        ...

    def learned(self, version: Manifest) -> int | None:
        """How many of the held-out images a version has learned from; None if unknown."""
        ...


@dataclass(frozen=True, slots=True)
class PromotionCandidate:
    """A version that may become the champion.

    Attributes:
        manifest: Its manifest.
        labels: Names of its classes.
        rule: The rule of its training.
        evaluator: Evaluates the champion on the images that the candidate was evaluated on.
        may_replace_people: Whether its key may change versions that recognize people.
    """

    manifest: Manifest
    labels: Sequence[str]
    rule: Promote
    evaluator: Evaluator
    may_replace_people: bool = False

    @property
    def accuracy(self) -> float:
        """Its accuracy on the held-out images."""
        return self.manifest.metrics[HELD_OUT_ACCURACY]

    def decision(self, promoted: bool, reason: str, champion: int | None) -> Promotion:
        """The result for this candidate."""
        return Promotion(
            rule=self.rule,
            promoted=promoted,
            reason=reason,
            accuracy=self.accuracy,
            champion=champion,
        )


def promote_once(store: Store, candidate: PromotionCandidate, folder: Path) -> Promotion:
    """As `promote`, but a version that an earlier attempt of the job promoted is left as it is.

    Somebody may have rolled it back before the job went on.

    Args:
        folder: The job's folder, which remembers the promotion.
    """
    path = folder / f"promotion-{candidate.manifest.version}.json"
    with suppress(FileNotFoundError):
        return Promotion.model_validate_json(path.read_bytes())
    promotion = promote(store, candidate)
    if promotion.promoted:
        write_atomically(path, promotion.model_dump_json())
    return promotion


def promote(store: Store, candidate: PromotionCandidate) -> Promotion:
    """Make a version the champion if its rule says so. Idempotent."""
    model, version = candidate.manifest.model, candidate.manifest.version
    # Two trainings that end at the same time must not both compare with the same champion.
    with store.lock(f"promotion-{model}"):
        for _ in range(_TRIES):
            try:
                champion = store.aliases(model).get(CHAMPION)
            except DamagedAliasesError as error:
                return candidate.decision(False, error.detail, None)
            if champion == version:
                return candidate.decision(True, "It is the champion.", champion)
            decision = _decide(store, candidate, champion)
            if not decision.promoted:
                return decision
            with suppress(AliasMovedError):
                store.promote(model, version, check=unmoved(champion))
                return decision
    return candidate.decision(False, "The champion changed again and again meanwhile.", None)


def _decide(store: Store, candidate: PromotionCandidate, champion: int | None) -> Promotion:
    always = candidate.rule == "always"
    if candidate.rule == "never":
        reason = "As requested: never. Promote it after you have reviewed it."
        return candidate.decision(False, reason, champion)
    if champion is None or (always and candidate.may_replace_people):
        reason = _ALWAYS if always else "It is the model's first champion."
        return candidate.decision(True, reason, champion)
    try:
        current = store.manifest(candidate.manifest.model, champion)
        if recognizes_people(current) and not recognizes_people(candidate.manifest):
            return candidate.decision(False, _OF_PEOPLE.format(champion), champion)
        labels = [label.id for label in read_labels(store.path(current.model, champion))]
    except (OpsinError, OSError, ValueError) as error:
        reason = f"The champion, version {champion}, is damaged."
        unreadable = _is_unreadable(error)
        if unreadable:
            reason = f"The champion, version {champion}, cannot be read at the moment to compare."
        return candidate.decision(not unreadable, reason, champion)
    if always:
        return candidate.decision(True, _ALWAYS, champion)
    return _judge(candidate, current, labels)


def _judge(candidate: PromotionCandidate, champion: Manifest, labels: Sequence[str]) -> Promotion:
    missing = sorted(set(labels) - set(candidate.labels))
    if missing:
        names = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        reason = (
            f"The champion, version {champion.version}, has classes that this version lacks: "
            f"{names}."
        )
        return candidate.decision(False, reason, champion.version)
    return _compare(candidate, champion, labels)


def _is_unreadable(error: Exception) -> bool:
    """Whether a version cannot be read at the moment, rather than being damaged."""
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)
    return isinstance(error, Unavailable)


def _compare(candidate: PromotionCandidate, champion: Manifest, labels: Sequence[str]) -> Promotion:
    accuracy = champion.metrics.get(HELD_OUT_ACCURACY)
    digest = candidate.manifest.provenance.dataset_digest
    is_comparable = (
        champion.precision != "int8"
        and digest is not None
        and digest == champion.provenance.dataset_digest
        # A training may select some of a dataset's classes, and then only their images count.
        and set(labels) == set(candidate.labels)
        and _runtime(champion) == _runtime(candidate.manifest)
    )
    if accuracy is None or not is_comparable:
        accuracy = candidate.evaluator.accuracy(champion, labels)
    better = candidate.accuracy > accuracy
    reason = (
        f"It classifies {candidate.accuracy:.2%} of the held-out images correctly, which is "
        f"{'' if better else 'not '}more than the {accuracy:.2%} of the champion, version "
        f"{champion.version}, on the same images."
    )
    learned = [candidate.evaluator.learned(one) for one in (candidate.manifest, champion)]
    if any(learned):
        counts = ["an unknown number" if count is None else f"{count:,}" for count in learned]
        reason += (
            f" Not all of these are new to both: this version has learned from {counts[0]} of "
            f"them, the champion from {counts[1]}."
        )
    decision = candidate.decision(better, reason, champion.version)
    return decision.model_copy(update={"champion_accuracy": accuracy})


def _runtime(version: Manifest) -> str | None:
    """What measured a version's accuracy; None if that was the training itself, in float32."""
    return version.served.runtime if version.served is not None else None
