"""Is it the one? Similarities in, a decision out; the only place where the threshold decides."""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.faces import Decision
from contracts.subjects import Candidate, Threshold

_HARMLESS = frozenset({"low_quality_face", "not_enrolled"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and what it rests on where it is no match."""

    decision: Decision
    reason: str | None = None

    @property
    def is_failure(self) -> bool:
        """Whether another person may have tried; a bad picture says nothing of that."""
        return self.decision != "match" and self.reason not in _HARMLESS


def judged(similarity: float, threshold: Threshold, others: Sequence[Candidate] = ()) -> Verdict:
    """Whether a face is the one it is compared with.

    Args:
        similarity: To the best template of the one.
        threshold: What is in force.
        others: The nearest other subjects, the nearest first.
    """
    if similarity < threshold.similarity - threshold.margin:
        return Verdict("no_match", "not_similar")
    if similarity < threshold.similarity:
        return Verdict("uncertain", "near_threshold")
    if others and others[0].similarity > similarity - threshold.margin:
        return Verdict("uncertain", "another_subject")
    return Verdict("match")


def identified(candidates: Sequence[Candidate], threshold: Threshold) -> Verdict:
    """Whether it is clear who somebody is.

    Args:
        candidates: The nearest subjects, the nearest first.
        threshold: What is in force.
    """
    if not candidates:
        return Verdict("no_match", "not_similar")
    return judged(candidates[0].similarity, threshold, candidates[1:])
