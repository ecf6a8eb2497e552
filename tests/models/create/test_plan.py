import pytest

from models.create.style.plan import plan, shares_of


def test_pyramid_grows_to_the_size_and_spends_most_on_small_images() -> None:
    levels = plan((512, 341), 150, pyramid=True, minimum_side=32)
    assert [max(level.size) for level in levels] == [128, 181, 256, 362, 512]
    assert levels[-1].size == (512, 341)
    counts = [level.evaluations for level in levels]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == 150


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 7, 1000])
def test_every_size_has_an_evaluation_and_they_add_up(iterations: int) -> None:
    levels = plan((300, 512), iterations, pyramid=True, minimum_side=32)
    assert sum(level.evaluations for level in levels) == iterations
    assert min(level.evaluations for level in levels) >= 1
    assert levels[-1].size == (300, 512)


def test_without_a_pyramid_there_is_one_size() -> None:
    assert [level.size for level in plan((512, 300), 9, pyramid=False, minimum_side=1)] == [
        (512, 300)
    ]


def test_no_level_is_too_small_for_the_network() -> None:
    levels = plan((600, 60), 50, pyramid=True, minimum_side=40)
    assert all(min(level.size) >= 40 for level in levels)


def test_shares_add_up_to_one() -> None:
    assert shares_of(None, 4) == [0.25] * 4
    assert shares_of([3, 1], 2) == [0.75, 0.25]
