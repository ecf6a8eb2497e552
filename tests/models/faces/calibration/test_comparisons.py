import itertools

import numpy as np
import pytest

from models.faces.calibration.comparisons import Comparisons
from tests.models.faces.embeddings import random_embeddings


@pytest.mark.parametrize("people", [1, 7, 90])  # 90 people's 360 faces: more than one block
def test_every_pair_is_compared_once(people: int) -> None:
    embeddings, labels = random_embeddings(people, 4)
    found = Comparisons.of(embeddings, labels)
    genuine, impostor = [], []
    for left, right in itertools.combinations(range(len(labels)), 2):
        similarity = float(embeddings[left] @ embeddings[right])
        (genuine if labels[left] == labels[right] else impostor).append(similarity)
    assert found.genuine == pytest.approx(np.sort(np.array(genuine)), abs=1e-6)
    assert found.impostor == pytest.approx(np.sort(np.array(impostor))[::-1], abs=1e-6)
    assert found.faces.tolist() == [4] * people


def test_no_similarity_exceeds_one() -> None:
    """Each product is rounded, and unit lengths are not exact."""
    embeddings, labels = random_embeddings(50, 1)
    found = Comparisons.of(np.concatenate([embeddings, embeddings]), [*labels, *labels])
    assert found.genuine.max() == 1


def test_each_pair_knows_its_people() -> None:
    """Each similarity identifies the two people that were compared."""
    people = np.diag([1.0, 1.0, 1.0]).astype(np.float32)
    people[1, 0], people[2, 1] = 0.5, 0.25
    found = Comparisons.of(people, ["c", "a", "b"])
    assert found.people == ("a", "b", "c")
    by_score = dict(zip(found.impostor.tolist(), found.impostor_of.tolist(), strict=True))
    assert {score: sorted(pair) for score, pair in by_score.items()} == {
        0.5: [0, 2],
        0.25: [0, 1],
        0.0: [1, 2],
    }


def test_a_pair_at_the_threshold_matches() -> None:
    found = Comparisons(
        people=("a", "b"),
        faces=np.array([2, 1], np.int32),
        genuine=np.array([0.5, 0.9], np.float32),
        genuine_of=np.array([0, 0], np.int32),
        impostor=np.array([0.5, 0.3, 0.3, 0.1], np.float32),
        impostor_of=np.array([[0, 1]] * 4, np.int32),
    )
    assert [found.false_non_matches(threshold) for threshold in (0.5, 0.51, 1.0)] == [0, 1, 2]
    assert [found.false_matches(threshold) for threshold in (0.51, 0.5, 0.3, -1.0)] == [0, 1, 3, 4]
    assert (found.fmr(0.3), found.fnmr(0.6)) == (0.75, 0.5)


def test_among_some_people_ignores_the_others() -> None:
    embeddings, labels = random_embeddings(6, 3)
    chosen = np.array([True, False, True, True, False, True])
    selected = np.repeat(chosen, 3)
    expected = Comparisons.of(
        embeddings[selected], [n for n, k in zip(labels, selected, strict=True) if k]
    )
    among = Comparisons.of(embeddings, labels).among(chosen)
    assert among.people == expected.people
    for field in ("faces", "genuine", "genuine_of", "impostor", "impostor_of"):
        assert np.allclose(getattr(among, field), getattr(expected, field), atol=1e-6), field


def test_without_pairs_the_rates_are_nan() -> None:
    empty = Comparisons.of(np.empty((0, 128), np.float32), [])
    assert len(empty.genuine) == len(empty.impostor) == 0
    assert np.isnan(empty.fmr(0.5))
    assert np.isnan(empty.fnmr(0.5))
