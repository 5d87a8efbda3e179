"""The formulas of heatmap_moments in NumPy, one landmark and one pixel at a time."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(values: list[float]) -> list[float]:
    """Of a list; nothing at all where every value is -inf."""
    top = max(values)
    if top == -math.inf:
        return [0.0] * len(values)
    weights = [math.exp(v - top) for v in values]
    return [w / math.fsum(weights) for w in weights]


def centre(i: int, count: int, align_corners: bool) -> float:
    """Pixel i's place in [-1, 1]."""
    if not align_corners:
        return (2 * i + 1) / count - 1
    return 0.0 if count == 1 else -1 + 2 * i / (count - 1)


def unit(count: int, height: int, width: int, align_corners: bool) -> float:
    """Width units per unit of the frame along an axis of ``count`` pixels: pixels per frame over pixels per unit."""
    pixels_per_frame = (count - 1 if align_corners else count) / 2
    return pixels_per_frame / (math.sqrt(height * width) / 2)


def weights_of(logits: Array, over: str, temperature: float) -> Array:
    """The softmax of one sample's (C, H, W) logits over channels or pixels."""
    channels, height, width = logits.shape
    z = logits / temperature
    q = np.zeros_like(z)
    if over == "channels":
        for i in range(height):
            for j in range(width):
                q[:, i, j] = softmax(list(z[:, i, j]))
    for k in range(channels):
        if over == "pixels":
            q[k] = np.reshape(softmax(list(z[k].ravel())), (height, width))
    return q


def axis_moments(logits: list[float], scale: float, align_corners: bool) -> tuple[float, float, float]:
    """Mass, mean and variance of one marginal; an axis whose means are all -inf has none of them."""
    q = softmax(logits)
    places = [centre(i, len(q), align_corners) for i in range(len(q))]
    mean = math.fsum(w * p for w, p in zip(q, places, strict=True))
    variance = math.fsum(w * (scale * (p - mean)) ** 2 for w, p in zip(q, places, strict=True))
    return math.fsum(q), mean, variance


def heatmap_moments(
    logits: Array, over: str, background: bool, temperature: float, align_corners: bool, eps: float
) -> tuple[Array, Array, Array]:
    """Coordinates (N, K, 2), covariance (N, K, 3) and mass (N, K)."""
    batch, channels, height, width = logits.shape
    count = channels - background
    coords, covariance, mass = (
        np.zeros((batch, count, 2)),
        np.zeros((batch, count, 3)),
        np.zeros((batch, count)),
    )
    unit_x = unit(width, height, width, align_corners)
    unit_y = unit(height, height, width, align_corners)
    places = [
        (i, j, centre(j, width, align_corners), centre(i, height, align_corners))
        for i in range(height)
        for j in range(width)
    ]
    for n in range(batch):
        if over == "marginals":
            for k in range(count):
                z = logits[n, k] / temperature
                columns = [float(np.mean(z[:, j])) for j in range(width)]
                rows = [float(np.mean(z[i])) for i in range(height)]
                mass_x, x, xx = axis_moments(columns, unit_x, align_corners)
                mass_y, y, yy = axis_moments(rows, unit_y, align_corners)
                coords[n, k], covariance[n, k], mass[n, k] = (x, y), (xx, yy, 0.0), mass_x * mass_y
            continue
        q = weights_of(logits[n], over, temperature)
        for k in range(count):
            mass[n, k] = math.fsum(q[k].ravel())
            divisor = mass[n, k] + eps if over == "channels" else 1.0
            x = math.fsum(q[k, i, j] * px for i, j, px, _ in places) / divisor
            y = math.fsum(q[k, i, j] * py for i, j, _, py in places) / divisor
            coords[n, k] = x, y
            for a, (of_x, of_y) in enumerate(((2, 0), (0, 2), (1, 1))):
                total = math.fsum(
                    q[k, i, j] * (unit_x * (px - x)) ** of_x * (unit_y * (py - y)) ** of_y
                    for i, j, px, py in places
                )
                covariance[n, k, a] = total / divisor
    return coords, covariance, mass
