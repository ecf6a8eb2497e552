import numpy as np

from models.explain.faithfulness import faithfulness

SIDE = 24
IMAGE = np.random.default_rng(8).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
OBJECT = np.zeros((SIDE, SIDE), bool)
OBJECT[:12, :12] = True


def predict(images: np.ndarray) -> np.ndarray:
    """Class 1 is as probable as the object is there: its pixels as they were."""
    assert images.dtype == np.uint8
    assert len(images) <= 16
    same = (images == IMAGE).all(axis=-1)
    seen = same[:, OBJECT].mean(axis=1)
    return np.stack([1 - seen, seen], axis=1).astype(np.float32)


def test_true_map_scores_better_than_false_one() -> None:
    true = faithfulness(predict, IMAGE, OBJECT.astype(np.float32), 1)
    false = faithfulness(predict, IMAGE, 1 - OBJECT.astype(np.float32), 1)
    random = faithfulness(predict, IMAGE, np.random.default_rng(1).random((6, 6), np.float32), 1)
    assert true.deletion_auc < random.deletion_auc < false.deletion_auc
    assert true.insertion_auc > random.insertion_auc > false.insertion_auc


def test_areas_match_the_definition() -> None:
    # A quarter of the places hold all: gone after a quarter of the steps, in a straight line.
    areas = faithfulness(predict, IMAGE, OBJECT.astype(np.float32), 1, steps=64)
    np.testing.assert_allclose(areas.deletion_auc, 0.25 / 2, atol=0.01)
    np.testing.assert_allclose(areas.insertion_auc, 1 - 0.25 / 2, atol=0.01)


def test_map_of_zeros_gives_a_fixed_random_order() -> None:
    zeros = np.zeros((5, 5), np.float32)
    one, again = (faithfulness(predict, IMAGE, zeros, 1) for _ in range(2))
    assert one == again
    np.testing.assert_allclose(one.deletion_auc, 0.5, atol=0.05)
    np.testing.assert_allclose(one.insertion_auc, 0.5, atol=0.05)
