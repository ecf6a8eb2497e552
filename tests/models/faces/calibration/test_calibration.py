from itertools import pairwise

import numpy as np
import pytest

from contracts.errors import NotTrainable
from models.faces.calibration.bootstrap import bootstrap_intervals, held_out, weighted_rates
from models.faces.calibration.calibration import (
    calibrate,
    det_curve,
    equal_error_rate,
    threshold_at,
)
from models.faces.calibration.comparisons import Comparisons
from models.faces.calibration.det_chart import det_chart
from models.faces.calibration.support import require_support
from tests.models.faces.embeddings import random_embeddings


@pytest.fixture(scope="module")
def crowd() -> Comparisons:
    """40 people with 6 faces each: 28,080 impostor pairs, some of them alike."""
    return Comparisons.of(*random_embeddings(40, 6, noise=1.2))


def scores(genuine: list[float], impostor: list[float]) -> Comparisons:
    return Comparisons(
        people=("a", "b"),
        faces=np.array([2, 2], np.int32),
        genuine=np.sort(np.array(genuine, np.float32)),
        genuine_of=np.zeros(len(genuine), np.int32),
        impostor=np.sort(np.array(impostor, np.float32))[::-1],
        impostor_of=np.tile(np.array([0, 1], np.int32), (len(impostor), 1)),
    )


@pytest.mark.parametrize("target", [0.5, 0.1, 0.01, 0.001, 0.00011])
def test_the_threshold_is_the_lowest_that_keeps_the_rate(crowd: Comparisons, target: float) -> None:
    threshold = threshold_at(crowd, target)
    assert crowd.fmr(threshold) <= target
    below = crowd.impostor[crowd.impostor < np.float32(threshold)][0]
    assert crowd.fmr(float(below)) > target


def test_equal_similarities_match_all_or_none() -> None:
    tied = scores([0.9], [0.6, 0.5, 0.5, 0.5] + [0.1] * 6)
    assert tied.false_matches(threshold_at(tied, 0.2)) == 1
    assert tied.false_matches(threshold_at(tied, 0.4)) == 4
    flat = scores([0.9], [0.5] * 10)
    assert flat.false_matches(threshold_at(flat, 0.3)) == 0


def test_the_intervals_contain_the_rates(crowd: Comparisons) -> None:
    found = calibrate(crowd, 0.001)
    for rate in (found.fmr, found.fnmr):
        assert rate.rate == rate.errors / rate.pairs
        assert rate.interval[0] <= rate.independent[0] < rate.rate < rate.independent[1]
        assert rate.independent[1] <= rate.interval[1]
    assert found.threshold_interval[0] < found.threshold < found.threshold_interval[1]
    assert (found.people, found.faces) == (40, 240)
    assert found.smallest_supported_fmr == 3 / 28_080
    assert found == calibrate(crowd, 0.001)  # the drawings are seeded


def test_look_alikes_widen_the_interval() -> None:
    """One pair of near twins makes all the errors; the bootstrap sees that, the binomial cannot."""
    embeddings, labels = random_embeddings(20, 10, noise=0.3)
    embeddings[10:20] = 0.9 * embeddings[:10] + 0.1 * embeddings[10:20]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = calibrate(Comparisons.of(embeddings, labels), 0.005)
    assert found.fmr.errors > 50
    assert found.fmr.interval[0] < found.fmr.independent[0] / 2
    assert found.fmr.interval[1] > found.fmr.independent[1] * 1.5


def test_the_interval_without_errors_does_not_end_at_zero() -> None:
    found = calibrate(Comparisons.of(*random_embeddings(12, 5, noise=0.2)), 0.01)
    assert (found.fnmr.errors, found.fnmr.rate) == (0, 0.0)
    assert found.fnmr.interval[1] == pytest.approx(1 - 0.025 ** (1 / 120))


def test_a_rate_that_the_pairs_cannot_distinguish_from_zero_is_refused() -> None:
    require_support(3000, 0.001)
    with pytest.raises(NotTrainable, match=r"2,999 pairs.*3,000 are needed.*0\.0011 or more"):
        require_support(2999, 0.001)
    with pytest.raises(NotTrainable, match="0 pairs"):
        calibrate(Comparisons.of(*random_embeddings(1, 5)), 0.5)
    with pytest.raises(NotTrainable, match="second image of each"):
        calibrate(Comparisons.of(*random_embeddings(40, 1)), 0.01)


@pytest.mark.parametrize("count", [4, 12])
def test_people_who_share_an_image_are_named(count: int) -> None:
    embeddings, labels = random_embeddings(12, 5)
    embeddings[0 : 5 * count : 5] = embeddings[0]
    names = "'person 000' and 'person 001' have the same image"
    with pytest.raises(NotTrainable, match=names):
        calibrate(Comparisons.of(embeddings, labels), 3 / 1650)
    embeddings[:] = embeddings[0]
    with pytest.raises(NotTrainable, match=names):
        calibrate(Comparisons.of(embeddings, labels), 0.5)


def test_few_shared_images_are_false_matches() -> None:
    embeddings, labels = random_embeddings(12, 5)
    embeddings[5] = embeddings[0]
    found = calibrate(Comparisons.of(embeddings, labels), 0.01)
    assert (found.curve[0].fmr, found.threshold < 1) == (1 / 1650, True)


def test_faces_that_are_all_alike_can_be_drawn(crowd: Comparisons) -> None:
    alike = scores([1.0000002] * 600, [1.0000002] * 28_080)  # as products are rounded
    assert det_chart(alike, calibrate(crowd, 0.001), "one image")


def test_little_data_causes_warnings() -> None:
    embeddings, labels = random_embeddings(10, 3)
    found = calibrate(Comparisons.of(embeddings[:-2], labels[:-2]), 0.01)
    warnings = " | ".join(found.warnings)
    assert "4 false matches are expected" in warnings
    assert "10 people are few" in warnings
    assert "1 people have one usable face" in warnings
    assert calibrate(Comparisons.of(*random_embeddings(30, 4)), 0.01).warnings == ()


def test_groups_are_measured_separately(crowd: Comparisons) -> None:
    groups = {name: "odd" if int(name[-1]) % 2 else "even" for name in crowd.people[:30]}
    found = calibrate(crowd, 0.01, groups=groups)
    assert [(row.group, row.people) for row in found.groups] == [("even", 15), ("odd", 15)]
    odd = np.array([groups.get(name) == "odd" for name in crowd.people])
    odd_only = crowd.among(odd)
    row = found.groups[1]
    assert (row.fmr.errors, row.fmr.pairs) == (
        odd_only.false_matches(found.threshold),
        15 * 14 * 18,
    )
    assert (row.fnmr.errors, row.fnmr.pairs) == (
        odd_only.false_non_matches(found.threshold),
        15 * 15,
    )
    assert any("10 people have no group" in text for text in found.warnings)


def test_a_group_of_one_has_no_impostor_pairs(crowd: Comparisons) -> None:
    row = calibrate(crowd, 0.01, groups={crowd.people[0]: "odd_only"}).groups[0]
    assert (row.people, row.fmr.rate, row.fmr.interval) == (1, None, (0.0, 1.0))
    assert row.fnmr.pairs == 15


def test_the_equal_error_rate_is_where_the_rates_are_equal(crowd: Comparisons) -> None:
    assert equal_error_rate(scores([0.8, 0.9], [0.1, 0.2])) == 0.0
    assert equal_error_rate(scores([0.2, 0.9], [0.1, 0.8])) == 0.5
    rate = equal_error_rate(crowd)
    threshold = threshold_at(crowd, rate)
    assert crowd.fnmr(threshold) == pytest.approx(rate, abs=0.01)


def test_the_curve_falls_from_strict_to_lax(crowd: Comparisons) -> None:
    curve = det_curve(crowd)
    assert all(a.threshold > b.threshold for a, b in pairwise(curve))
    assert all(a.fnmr >= b.fnmr for a, b in pairwise(curve))
    assert (curve[0].fmr, curve[-1].fmr) == (pytest.approx(1 / 28_080), 1.0)


def test_a_weight_equals_copies_of_a_person() -> None:
    """A weight of two equals a second person with the same faces, not compared with the first."""
    embeddings, labels = random_embeddings(5, 3, noise=1.2)
    comparisons = Comparisons.of(embeddings, labels)
    threshold = threshold_at(comparisons, 0.2)
    doubled = [f"{name} again" for name in labels[:3]]
    both = Comparisons.of(np.concatenate([embeddings, embeddings[:3]]), labels + doubled)
    own = np.sort(both.impostor_of, axis=1)
    copies = {both.people.index(labels[0]), both.people.index(doubled[0])}
    apart = np.array([set(pair) != copies for pair in own.tolist()])
    fmr = float((both.impostor[apart] >= np.float32(threshold)).mean())
    weights = np.array([2.0, 1, 1, 1, 1])
    assert weighted_rates(comparisons, weights, threshold) == pytest.approx(
        (fmr, both.fnmr(threshold))
    )


def test_a_threshold_is_tested_on_other_people(crowd: Comparisons) -> None:
    found = held_out(crowd, 0.01, seed=1)
    assert found is not None
    assert found.fmr_interval[0] < 0.01 < found.fmr_interval[1]
    assert found.fmr_interval[0] <= found.fmr <= found.fmr_interval[1]
    assert held_out(Comparisons.of(*random_embeddings(3, 3)), 0.1, seed=1) is None


def test_intervals_shrink_with_more_people() -> None:
    few, many = (
        bootstrap_intervals(of, threshold_at(of, 0.02), 0.02, seed=1)
        for of in (Comparisons.of(*random_embeddings(count, 4, noise=1.2)) for count in (10, 60))
    )
    assert many.fnmr[1] - many.fnmr[0] < few.fnmr[1] - few.fnmr[0]
    assert many.threshold[1] - many.threshold[0] < few.threshold[1] - few.threshold[0]
