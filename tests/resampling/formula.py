"""The formulas of max_pool_2x2 and upsample_add in NumPy, one pixel at a time."""

import math

import numpy as np

from ..heatmap_moments.formula import Array


def window(y: int, x: int) -> list[tuple[int, int]]:
    """The larger maps' pixels of a pixel of the smaller ones, row by row."""
    return [(2 * y, 2 * x), (2 * y, 2 * x + 1), (2 * y + 1, 2 * x), (2 * y + 1, 2 * x + 1)]


def max_pool_2x2(x: Array) -> tuple[Array, Array]:
    """out (N, C, H // 2, W // 2), and for each value of x how often it is one of them: 0 or 1."""
    batch, channels, height, width = x.shape
    out, taken = np.zeros((batch, channels, height // 2, width // 2)), np.zeros_like(x)
    for n, c, i, j in np.ndindex(*out.shape):
        best = 2 * i, 2 * j
        for pixel in window(i, j):
            if x[n, c][pixel] > x[n, c][best] or math.isnan(x[n, c][pixel]):
                best = pixel
        out[n, c, i, j] = x[n, c][best]
        taken[n, c][best] = 1
    return out, taken


def upsample_add(x: Array, skip: Array) -> Array:
    """out (N, C, 2H, 2W)."""
    out = skip.copy()
    with np.errstate(invalid="ignore"):  # infinity less infinity
        for n, c, i, j in np.ndindex(*x.shape):
            for pixel in window(i, j):
                out[n, c][pixel] += x[n, c, i, j]
    return out
