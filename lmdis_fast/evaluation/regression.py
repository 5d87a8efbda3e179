"""From discovered landmarks to annotated points: linear maps, and the baselines they are held against.

All coordinates are (x, y) in [-1, 1], so that they are centred at the image's centre as the published protocol wants.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.linear_model import LinearRegression, RidgeCV

Array = npt.NDArray[np.float64]

RIDGE_ALPHAS = tuple(10.0**power for power in range(-4, 7))


def regress(
    train_x: Array, train_y: Array, test_x: Array, *, intercept: bool, ridge: bool = False
) -> tuple[Array, bool]:
    """Fit each annotated point linearly on the training images that have it, and predict it for the test images.

    Args:
        train_x, test_x: (n, D) regressors.
        train_y: (n, L, 2) points, NaN where not annotated.
        intercept: fit a constant as well.
        ridge: use ridge regression (its weight chosen by leave-one-out), which is also taken where least squares is
            under-determined.

    Returns:
        (m, L, 2) predictions, and whether any of the fits was a ridge regression.
    """
    predicted = np.full((len(test_x), *train_y.shape[1:]), np.nan)
    ridged = False
    for point in range(train_y.shape[1]):
        rows = np.isfinite(train_y[:, point]).all(-1)
        if not rows.any():
            continue
        x, y = train_x[rows], train_y[rows, point]
        use_ridge = ridge or len(x) < x.shape[1] + int(intercept)
        if use_ridge and len(x) > 1:
            fit = RidgeCV(alphas=RIDGE_ALPHAS, fit_intercept=intercept).fit(x, y)
        else:
            fit = LinearRegression(fit_intercept=intercept).fit(x, y)
        ridged |= use_ridge
        predicted[:, point] = fit.predict(test_x)
    return predicted, ridged


def mean_shape(train_y: Array, count: int) -> Array:
    """The training images' mean of each point, (count, L, 2)."""
    return np.repeat(np.nanmean(train_y, axis=0)[None], count, axis=0)


def grey_pixels(images: npt.NDArray[np.uint8], side: int = 32) -> Array:
    """(n, S, S, 3) images to (n, side * side) grey values in [0, 1]."""
    rows = [
        np.asarray(Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BOX), np.float64)
        for image in images
    ]
    return np.stack(rows).reshape(len(rows), -1) / 255


def point_errors(predicted: Array, truth: Array, lengths: Array) -> Array:
    """(n,) mean distance over each image's annotated points, divided by its reference length; NaN where that is 0."""
    distances = np.linalg.norm(predicted - truth, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.nanmean(distances, axis=1) / np.where(lengths > 0, lengths, np.nan)
    return np.asarray(errors)


def reference_lengths(truth: Array, names: list[str], normaliser: str) -> Array:
    """(n,) lengths by which errors are divided, in the points' unit (the side is 2).

    Args:
        truth: (n, L, 2) annotated points.
        names: of the L points.
        normaliser: "inter-ocular" (between eye_left and eye_right), "side", "box" (root of the area of the box around
            the points), or two names joined by a comma.
    """
    if normaliser == "side":
        return np.full(len(truth), 2.0)
    if normaliser == "box":
        extent = np.nanmax(truth, axis=1) - np.nanmin(truth, axis=1)
        return np.asarray(np.sqrt(extent.prod(-1)))
    pair = ["eye_left", "eye_right"] if normaliser == "inter-ocular" else normaliser.split(",")
    if len(pair) != 2 or any(name not in names for name in pair):
        raise ValueError(
            f"normaliser must be inter-ocular (needs points eye_left, eye_right), side, box, or two point names "
            f"joined by a comma; got {normaliser!r} for points {', '.join(names)}"
        )
    first, second = (truth[:, names.index(name)] for name in pair)
    return np.asarray(np.linalg.norm(first - second, axis=-1))
