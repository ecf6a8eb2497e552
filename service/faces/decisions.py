"""Decides from similarities whether faces belong to the same person; nothing else does."""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.faces.faces import Decision
from contracts.faces.subjects import Candidate, Threshold

# Reasons for which an attempt does not count as a failure: another person need not be involved.
_NOT_A_FAILURE = frozenset({"low_quality_face", "not_enrolled"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and the reason for it unless it is a match."""

    decision: Decision
    reason: str | None = None

    @property
    def is_failure(self) -> bool:
        """Whether another person may have tried; a poor image is not evidence of that."""
        return self.decision != "match" and self.reason not in _NOT_A_FAILURE

    @property
    def disables(self) -> bool:
        """Whether it counts in the row of failures after which the face is disabled.

        Without a valid signature no face is compared: whoever sends junk learns nothing, and must
        not be able to take the face from its owner, past the limit of the subject.
        """
        return self.is_failure and self.reason != "wrong_signature"


def judge_similarity(
    similarity: float, threshold: Threshold, others: Sequence[Candidate] = ()
) -> Verdict:
    """Decide whether a face belongs to the subject that it is compared with.

    Args:
        similarity: To the most similar template of the subject.
        others: The nearest other subjects, nearest first.
    """
    if similarity < threshold.similarity - threshold.margin:
        return Verdict("no_match", "not_similar")
    if similarity < threshold.similarity:
        return Verdict("uncertain", "near_threshold")
    if others and others[0].similarity > similarity - threshold.margin:
        return Verdict("uncertain", "another_subject")
    return Verdict("match")


def judge_candidates(candidates: Sequence[Candidate], threshold: Threshold) -> Verdict:
    """Decide whether the first candidate is the person; candidates are sorted, nearest first."""
    if not candidates:
        return Verdict("no_match", "not_similar")
    return judge_similarity(candidates[0].similarity, threshold, candidates[1:])
