"""The formulas of splines and warps in NumPy, one point, control point and pixel at a time."""

import math

import numpy as np

from ..heatmap_moments.formula import Array, centre


def kernel(r2: float) -> float:
    """r^2 log r."""
    return r2 * math.log(math.sqrt(r2)) if r2 > 0 else 0.0


def spline_at(
    x: float, y: float, centers: Array, weights: Array, affine: Array, before: Array | None
) -> tuple[float, float]:
    """One sample's g at one point."""
    if before is not None:
        x, y = (float(row[0] * x + row[1] * y + row[2]) for row in before)
    values = [kernel((x - cx) ** 2 + (y - cy) ** 2) for cx, cy in centers]
    u, v = (
        affine[a, 0] * x
        + affine[a, 1] * y
        + affine[a, 2]
        + math.fsum(w * k for w, k in zip(weights[:, a], values, strict=True))
        for a in (0, 1)
    )
    return float(u), float(v)


def read(image: Array, column: float, row: float, padding_mode: str) -> Array:
    """(C,) bilinear value of a (C, H, W) image at a position in pixels."""
    height, width = image.shape[1:]
    if padding_mode == "border":
        column, row = min(max(column, 0.0), width - 1.0), min(max(row, 0.0), height - 1.0)
    total = np.zeros(image.shape[0])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += image[:, i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def tps_warp(
    image: Array,
    centers: Array,
    weights: Array,
    affine: Array,
    before: Array | None,
    size: tuple[int, int],
    padding_mode: str,
    align_corners: bool,
) -> Array:
    """(N, C, H', W'), positions by way of the frame as grid_sample has them."""
    batch, channels, height, width = image.shape
    out = np.zeros((batch, channels, *size))
    for n in range(batch):
        points = centers if centers.ndim == 2 else centers[n]
        for i in range(size[0]):
            for j in range(size[1]):
                x, y = centre(j, size[1], align_corners), centre(i, size[0], align_corners)
                u, v = spline_at(x, y, points, weights[n], affine[n], None if before is None else before[n])
                if align_corners:
                    column, row = (u + 1) / 2 * (width - 1), (v + 1) / 2 * (height - 1)
                else:
                    column, row = ((u + 1) * width - 1) / 2, ((v + 1) * height - 1) / 2
                out[n, :, i, j] = read(image[n], column, row, padding_mode)
    return out
