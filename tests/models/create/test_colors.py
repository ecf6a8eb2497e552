import numpy as np

from models.create.style import colors
from tests.models.create.image_work import photo

CONTENT, STYLE = (np.asarray(photo(40, 30, seed), np.float32) for seed in (1, 2))
LUMA = [0.299, 0.587, 0.114]


def test_luminance_is_changed_and_colors_are_kept() -> None:
    painted = np.clip(CONTENT + 20, 0, 255)
    mixed = colors.with_colors_of(colors.gray(painted), CONTENT)
    inside = ((mixed > 0) & (mixed < 255)).all(-1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose((mixed @ LUMA)[inside], (painted @ LUMA)[inside], atol=0.01)
    ours, theirs = (np.diff(one, axis=-1)[inside] for one in (mixed, CONTENT))
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_style_gets_the_luminance_of_the_content() -> None:
    matched = colors.match_luminance(STYLE * 0.3 + 90, CONTENT)
    luma = CONTENT @ LUMA
    assert abs(matched.mean() - luma.mean()) < 2
    assert abs(matched.std() - luma.std()) < 4
    assert np.ptp(matched, axis=-1).max() == 0


def test_style_gets_the_mean_and_covariance_of_the_content() -> None:
    content = CONTENT * 0.2 + 100  # far from 0 and 255, so that nothing is clipped
    matched = colors.match_colors(STYLE, content)
    ours, theirs = matched.reshape(-1, 3), content.reshape(-1, 3)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), rtol=0.01, atol=0.5)


def test_image_of_one_color_is_no_problem() -> None:
    flat = np.full((8, 8, 3), 50, np.float32)
    for made in (colors.match_colors(flat, CONTENT), colors.match_luminance(flat, CONTENT)):
        assert np.isfinite(made).all()
