"""The formulas of render_gaussians and splat_landmarks in NumPy, one landmark and one pixel at a time."""

import math
from collections.abc import Sequence

import numpy as np

from ..heatmap_moments.formula import Array, centre, unit


def render_gaussians(
    coords: Array,
    size: tuple[int, int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Array:
    """(N, L, K or K+1, H, W)."""
    batch, count, _ = coords.shape
    height, width = size
    unit_x, unit_y = unit(width, height, width, align_corners), unit(height, height, width, align_corners)
    maps = np.zeros((batch, len(sigma), count + (normalize == "channels"), height, width))
    for n in range(batch):
        for level in range(len(sigma)):
            for k in range(count):
                for i in range(height):
                    for j in range(width):
                        dx = unit_x * (centre(j, width, align_corners) - coords[n, k, 0])
                        dy = unit_y * (centre(i, height, align_corners) - coords[n, k, 1])
                        maps[n, level, k, i, j] = math.exp(-(dx * dx + dy * dy) / (2 * sigma[level] ** 2))
                if normalize == "sum":
                    maps[n, level, k] /= maps[n, level, k].sum()
                maps[n, level, k] *= gain[level]
            if normalize == "channels" and background is not None:
                maps[n, level, count] = background[level]
                maps[n, level] /= maps[n, level].sum(0)
    return maps


def splat_landmarks(
    coords: Array,
    features: Array,
    size: tuple[int, int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float],
    align_corners: bool,
) -> Array:
    """(N, L (K+1) + L S, H, W): maps first."""
    maps = render_gaussians(coords, size, sigma, gain, background, "channels", align_corners)
    levels = range(len(sigma))
    spread = [
        sum(maps[:, level, k, None] * features[:, k, :, None, None] for k in range(features.shape[1]))
        for level in levels
    ]
    return np.concatenate([*(maps[:, level] for level in levels), *spread], 1)
