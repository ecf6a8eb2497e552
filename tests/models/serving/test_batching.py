import numpy as np
import pytest

from models.serving.batching import Batches, Outputs


def test_batch_sizes_are_powers_of_two_and_the_largest() -> None:
    assert Batches.up_to(1).sizes == (1,)
    assert Batches.up_to(6).sizes == (1, 2, 4, 6)
    assert Batches.up_to(16).sizes == (1, 2, 4, 8, 16)


@pytest.mark.parametrize("count", [0, 1, 3, 6, 7, 13])
def test_rows_keep_their_order_and_only_known_sizes_run(count: int) -> None:
    seen = []

    def answer(images: Outputs, classes: Outputs) -> Outputs:
        assert len(images) == len(classes)
        seen.append(len(images))
        return images * 2 + classes[:, None]

    images = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    classes = np.arange(count, dtype=np.float32)
    answers = Batches.up_to(6).run(answer, images, classes, width=3)
    np.testing.assert_array_equal(answers, images * 2 + classes[:, None])
    assert answers.shape == (count, 3)
    assert set(seen) <= {1, 2, 4, 6}


def test_batches_are_not_padded_for_runtimes_without_padding() -> None:
    seen = []

    def answer(images: Outputs) -> Outputs:
        seen.append(len(images))
        return images

    images = np.arange(33, dtype=np.float32).reshape(11, 3)
    np.testing.assert_array_equal(Batches((1, 2, 6), pads=False).run(answer, images), images)
    assert seen == [6, 5]
