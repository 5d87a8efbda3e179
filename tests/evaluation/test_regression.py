"""Linear maps with known answers, and what errors are divided by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from lmdis_fast.evaluation.regression import grey_pixels, mean_shape, point_errors, reference_lengths, regress

Array = npt.NDArray[np.float64]


def linear_data(
    train: int = 40, test: int = 12, points: int = 3, inputs: int = 6
) -> tuple[Array, Array, Array, Array]:
    """Regressors and points that depend on them linearly, without a constant."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (train + test, inputs))
    y = (x @ rng.normal(size=(inputs, 2 * points))).reshape(-1, points, 2)
    return x[:train], y[:train], x[train:], y[train:]


@pytest.mark.parametrize("intercept", [False, True])
def test_exact_linear_map(intercept: bool) -> None:
    train_x, train_y, test_x, test_y = linear_data()
    predicted, ridged = regress(train_x, train_y, test_x, intercept=intercept)
    np.testing.assert_allclose(predicted, test_y, atol=1e-10)
    assert not ridged
    np.testing.assert_allclose(point_errors(predicted, test_y, np.full(len(test_y), 2.0)), 0, atol=1e-10)


def test_a_constant_needs_the_intercept() -> None:
    train_x, train_y, test_x, test_y = linear_data()
    without, _ = regress(train_x, train_y + 0.5, test_x, intercept=False)
    along, _ = regress(train_x, train_y + 0.5, test_x, intercept=True)
    np.testing.assert_allclose(along, test_y + 0.5, atol=1e-10)
    assert np.abs(without - test_y - 0.5).mean() > 0.1


def test_no_intercept_is_least_squares_through_the_origin() -> None:
    x = np.array([[1.0], [2.0]])
    y = np.array([[[3.0, 0.0]], [[4.0, 2.0]]])
    predicted, _ = regress(x, y, np.array([[10.0]]), intercept=False)
    np.testing.assert_allclose(predicted, [[[10 * 11 / 5, 10 * 4 / 5]]])


def test_images_without_a_point_do_not_count_for_it() -> None:
    train_x, train_y, test_x, test_y = linear_data()
    train_y[::3, 1] = np.nan
    train_y[:, 2] = np.nan
    train_y[0, 0, 1] = np.nan  # half annotated
    predicted, ridged = regress(train_x, train_y, test_x, intercept=False)
    np.testing.assert_allclose(predicted[:, :2], test_y[:, :2], atol=1e-10)
    assert np.isnan(predicted[:, 2]).all() and not ridged


@pytest.mark.parametrize(
    ("count", "intercept", "expected"),
    [(5, False, True), (6, False, False), (6, True, True), (7, True, False)],
)
def test_under_determined_takes_ridge(count: int, intercept: bool, expected: bool) -> None:
    train_x, train_y, test_x, _ = linear_data()
    predicted, ridged = regress(train_x[:count], train_y[:count], test_x, intercept=intercept)
    assert ridged == expected and np.isfinite(predicted).all()


def test_ridge_on_request() -> None:
    train_x, train_y, test_x, test_y = linear_data()
    predicted, ridged = regress(train_x, train_y, test_x, intercept=False, ridge=True)
    assert ridged and 0 < np.abs(predicted - test_y).max() < 1e-2


def test_mean_shape() -> None:
    points = np.array([[[0.0, 1.0], [np.nan, np.nan]], [[1.0, 3.0], [4.0, 5.0]]])
    np.testing.assert_allclose(mean_shape(points, 3), np.tile([[[0.5, 2.0], [4.0, 5.0]]], (3, 1, 1)))


def test_grey_pixels() -> None:
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    pictures[1, :2, :2] = 255
    grey = grey_pixels(pictures)
    assert grey.shape == (2, 1024) and grey[0].max() == 0
    assert grey[1, 0] == 1 and grey[1, 1:].max() == 0


def test_point_errors() -> None:
    truth = np.zeros((3, 2, 2))
    truth[1, 1] = np.nan
    predicted = np.array([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 2.0], [9.0, 9.0]], [[1.0, 0.0], [1.0, 0.0]]])
    errors = point_errors(predicted, truth, np.array([2.0, 4.0, 0.0]))
    np.testing.assert_allclose(errors, [1.5, 0.5, np.nan])


def test_reference_lengths() -> None:
    names = ["eye_left", "eye_right", "nose"]
    truth = np.array([[[-0.3, 0.0], [0.3, 0.0], [0.0, 0.8]], [[0.0, 0.0], [0.3, 0.4], [np.nan, np.nan]]])
    np.testing.assert_allclose(reference_lengths(truth, names, "inter-ocular"), [0.6, 0.5])
    np.testing.assert_allclose(reference_lengths(truth, names, "side"), [2.0, 2.0])
    np.testing.assert_allclose(reference_lengths(truth, names, "box"), np.sqrt([0.6 * 0.8, 0.3 * 0.4]))
    np.testing.assert_allclose(reference_lengths(truth, names, "nose,eye_left"), [np.hypot(0.3, 0.8), np.nan])


@pytest.mark.parametrize(
    ("names", "normaliser"),
    [
        (["nose", "chin"], "inter-ocular"),
        (["nose", "chin"], "nose,ear"),
        (["nose", "chin"], "nose"),
        (["nose", "chin"], "nose,chin,nose"),
        (["nose", "chin"], "width"),
    ],
)
def test_unknown_normaliser(names: list[str], normaliser: str) -> None:
    with pytest.raises(
        ValueError, match=f"normaliser must be inter-ocular .*; got '{normaliser}' for points nose, chin"
    ):
        reference_lengths(np.zeros((1, 2, 2)), names, normaliser)
