"""The formulas of landmark_pool and gaussian_pool in NumPy, one landmark, feature and pixel at a time."""

import math

import numpy as np

from ..heatmap_moments.formula import Array, centre, unit, weights_of


def landmark_pool(features: Array, logits: Array, over: str, temperature: float, eps: float) -> Array:
    """(N, C, S)."""
    batch, channels, height, width = logits.shape
    pooled = np.zeros((batch, channels, features.shape[1]))
    for n in range(batch):
        q = weights_of(logits[n], over, temperature)
        for k in range(channels):
            divisor = math.fsum(q[k].ravel()) + eps if over == "channels" else 1.0
            for s in range(features.shape[1]):
                pooled[n, k, s] = (
                    math.fsum(q[k, i, j] * features[n, s, i, j] for i in range(height) for j in range(width))
                    / divisor
                )
    return pooled


def gaussian_pool(features: Array, coords: Array, sigma: Array, align_corners: bool) -> Array:
    """(N, K, S), with log weights shifted by their largest so that a far landmark does not underflow."""
    batch, count, _ = coords.shape
    height, width = features.shape[2:]
    unit_x, unit_y = unit(width, height, width, align_corners), unit(height, height, width, align_corners)
    pooled = np.zeros((batch, count, features.shape[1]))
    for n in range(batch):
        for k in range(count):
            exponent = np.zeros((height, width))
            for i in range(height):
                for j in range(width):
                    dx = unit_x * (centre(j, width, align_corners) - coords[n, k, 0])
                    dy = unit_y * (centre(i, height, align_corners) - coords[n, k, 1])
                    exponent[i, j] = -(dx * dx + dy * dy) / (2 * sigma[n, k] ** 2)
            weight = np.exp(exponent - exponent.max())
            for s in range(features.shape[1]):
                pooled[n, k, s] = (weight * features[n, s]).sum() / weight.sum()
    return pooled
