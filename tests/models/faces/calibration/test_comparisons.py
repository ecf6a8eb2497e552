import itertools

import numpy as np
import pytest

from models.faces.calibration.comparisons import Comparisons
from tests.models.faces.people import strewn


@pytest.mark.parametrize("people", [1, 7, 90])  # 90 people's 360 faces: more than one block
def test_every_pair_is_compared_once(people: int) -> None:
    embeddings, labels = strewn(people, 4)
    found = Comparisons.of(embeddings, labels)
    genuine, impostor = [], []
    for left, right in itertools.combinations(range(len(labels)), 2):
        alike = float(embeddings[left] @ embeddings[right])
        (genuine if labels[left] == labels[right] else impostor).append(alike)
    assert found.genuine == pytest.approx(np.sort(np.array(genuine)), abs=1e-6)
    assert found.impostor == pytest.approx(np.sort(np.array(impostor))[::-1], abs=1e-6)
    assert found.faces.tolist() == [4] * people


def test_each_pair_knows_whose_it_is() -> None:
    """The similarity tells which two axes were compared."""
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
    assert [found.missed(at) for at in (0.5, 0.51, 1.0)] == [0, 1, 2]
    assert [found.confused(at) for at in (0.51, 0.5, 0.3, -1.0)] == [0, 1, 3, 4]
    assert (found.fmr(0.3), found.fnmr(0.6)) == (0.75, 0.5)


def test_among_some_people_is_as_if_the_others_had_never_been() -> None:
    embeddings, labels = strewn(6, 3)
    chosen = np.array([True, False, True, True, False, True])
    kept = np.repeat(chosen, 3)
    alone = Comparisons.of(embeddings[kept], [n for n, k in zip(labels, kept, strict=True) if k])
    among = Comparisons.of(embeddings, labels).among(chosen)
    assert among.people == alone.people
    for field in ("faces", "genuine", "genuine_of", "impostor", "impostor_of"):
        assert np.allclose(getattr(among, field), getattr(alone, field), atol=1e-6), field


def test_without_pairs_there_is_no_rate() -> None:
    nobody = Comparisons.of(np.empty((0, 128), np.float32), [])
    assert len(nobody.genuine) == len(nobody.impostor) == 0
    assert np.isnan(nobody.fmr(0.5))
    assert np.isnan(nobody.fnmr(0.5))
