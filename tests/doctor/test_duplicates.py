"""Copies are told from pictures that are merely alike."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.neighbors import NearestNeighbors

from tests.doctor.planted import CHANGES, picture
from vitrail.doctor.duplicates import NEAR, _thresholds, group
from vitrail.doctor.likeness import likeness, score
from vitrail.doctor.pictures import nearest


def grey(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR))


def scores(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    return score(likeness(np.stack(first), np.stack(second)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_near(change: Callable[[Image.Image], Image.Image]) -> None:
    originals = [picture(seed) for seed in range(12)]
    found = scores([grey(image) for image in originals], [grey(change(image)) for image in originals])
    assert found.min() > NEAR


def test_other_pictures_are_not() -> None:
    pictures = [grey(picture(seed)) for seed in range(24)]
    assert scores(pictures[:12], pictures[12:]).max() < 0.6


def test_equal_pictures_are_wholly_alike_whatever_their_brightness() -> None:
    one = grey(picture(0))
    pair = likeness(one[None], (one // 2)[None])
    assert pair.shape == (1, 2)
    assert scores([one], [one])[0] > 0.93 and pair.min() > 0.8
    assert likeness(one[:0].reshape(0, 32, 32), one[:0].reshape(0, 32, 32)).shape == (0, 2)


def test_two_skies_over_a_horizon_are_not_one_picture() -> None:
    generator = np.random.default_rng(0)

    def horizon() -> np.ndarray:
        noise = Image.fromarray(generator.integers(0, 60, (32, 32), dtype=np.uint8)).filter(ImageFilter.BoxBlur(1))
        sky = np.linspace(150, 220, 32)[:, None] - 100 * (np.arange(32)[:, None] > 20)
        return (sky + np.asarray(noise)).clip(0, 255).astype(np.uint8)

    one, other = horizon(), horizon()
    picture_alike, gradient_alike = likeness(one[None], other[None])[0]
    assert picture_alike > 0.8 and gradient_alike < 0.5


def test_flat_pictures_are_like_nothing() -> None:
    flat = np.full((1, 32, 32), 100, np.uint8)
    noisy = flat + np.random.default_rng(0).integers(0, 3, (1, 32, 32), dtype=np.uint8)
    assert abs(score(likeness(flat, flat))[0]) < 0.01
    assert score(likeness(noisy, noisy))[0] < 0.5


def test_nearest_is_what_scikit_learn_finds() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    indices, cosines = nearest(rows, 3)
    distances, expected = NearestNeighbors(n_neighbors=4, metric="cosine").fit(rows).kneighbors(rows)
    assert (indices == expected[:, 1:]).all()
    np.testing.assert_allclose(cosines, 1 - distances[:, 1:], atol=1e-5)
    assert nearest(rows[:1], 3)[0].shape == (1, 0) and nearest(rows[:2], 3)[0].shape == (2, 1)


def test_groups() -> None:
    assert group(6, [(0, 1), (4, 5)], [(1, 4)]).tolist() == [0, 0, 2, 3, 0, 0]
    chain = [(i, i + 1) for i in range(9)]
    assert group(10, [], chain, most=4).tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert len(set(group(10, chain, [], most=4).tolist())) == 1, "what is certain has no cap"


def test_where_all_are_alike_near_is_nearer() -> None:
    first, second = np.triu_indices(8, 1)
    alike = np.full(len(first), 0.88, np.float32)
    near, similar = _thresholds(8, first, second, alike)
    assert near == pytest.approx(0.96, abs=1e-6) and 0.9 < similar < near
    assert _thresholds(8, first, second, alike / 4)[0] == NEAR
    assert _thresholds(0, first[:0], second[:0], alike[:0])[0] == NEAR
