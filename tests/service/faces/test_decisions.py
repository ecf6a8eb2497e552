"""The limits between match, uncertain and no match."""

import pytest

from contracts.faces.subjects import Candidate, Threshold
from service.faces.decisions import Verdict, judge_candidates, judge_similarity

THRESHOLD = Threshold(similarity=0.9, margin=0.02)


@pytest.mark.parametrize(
    ("similarity", "other", "expected"),
    [
        (0.95, None, Verdict("match")),
        (0.9, None, Verdict("match")),
        (0.8999, None, Verdict("uncertain", "near_threshold")),
        (0.88, None, Verdict("uncertain", "near_threshold")),
        (0.87, None, Verdict("no_match", "not_similar")),
        (0.95, 0.92, Verdict("match")),
        (0.95, 0.94, Verdict("uncertain", "another_subject")),
        (0.95, 0.99, Verdict("uncertain", "another_subject")),
        (-1.0, 0.99, Verdict("no_match", "not_similar")),
    ],
)
def test_a_similarity_gives_a_decision(
    similarity: float, other: float | None, expected: Verdict
) -> None:
    others = [Candidate("sub_other", other)] if other is not None else []
    assert judge_similarity(similarity, THRESHOLD, others) == expected
    if other is None or other < similarity:
        assert judge_candidates([Candidate("sub_a", similarity), *others], THRESHOLD) == expected


def test_no_candidates_are_no_match() -> None:
    assert judge_candidates([], THRESHOLD).decision == "no_match"


def test_what_counts_as_a_failure() -> None:
    assert judge_similarity(0.1, THRESHOLD).is_failure
    assert judge_similarity(0.89, THRESHOLD).is_failure
    assert Verdict("no_match", "missing_action").is_failure
    assert not judge_similarity(0.95, THRESHOLD).is_failure
    assert not Verdict("uncertain", "low_quality_face").is_failure
