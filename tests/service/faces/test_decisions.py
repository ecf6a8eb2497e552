"""Where a match ends and doubt begins."""

import pytest

from contracts.faces.subjects import Candidate, Threshold
from service.faces.recognition import Verdict, identified, judged

AT = Threshold(similarity=0.9, margin=0.02)


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
def test_similarities_become_decisions(
    similarity: float, other: float | None, expected: Verdict
) -> None:
    others = [Candidate("sub_other", other)] if other is not None else []
    assert judged(similarity, AT, others) == expected
    if other is None or other < similarity:
        assert identified([Candidate("sub_a", similarity), *others], AT) == expected


def test_nobody_near_is_nobody() -> None:
    assert identified([], AT).decision == "no_match"


def test_what_counts_as_a_failure() -> None:
    assert judged(0.1, AT).is_failure
    assert judged(0.89, AT).is_failure
    assert Verdict("no_match", "missing_action").is_failure
    assert not judged(0.95, AT).is_failure
    assert not Verdict("uncertain", "low_quality_face").is_failure
