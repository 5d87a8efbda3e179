"""Gaussians along one axis of a map, whose products are the Gaussians of the map; see the reference's lattice.

Widths come as ``precision = log2(e) / (2 sigma^2)``. A frame is the numbers ``half`` (half a pixel in units of the
frame) and ``scale`` (width units in one of the frame).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton
import triton.language as tl

from ..reference.lattice import width_scales

#: ``1 / sigma^2`` in units of the precision.
INVERSE_SQUARE = tl.constexpr(2 * math.log(2))


@triton.jit
def load_points(coords, k, count, stride_k, stride_j):
    """x and y of an image's landmarks ``k``, 0 beyond the last."""
    pointers = coords + k.to(tl.int64) * stride_k
    x = tl.load(pointers, mask=k < count, other=0.0).to(tl.float32)
    y = tl.load(pointers + stride_j, mask=k < count, other=0.0).to(tl.float32)
    return x, y


@triton.jit
def axis_offsets(point, i, length, half, scale):
    """Offsets ``[landmarks, pixels]`` of pixels ``i`` from the points, in width units."""
    centre = half * (2 * i - (length - 1)).to(tl.float32)
    return scale * (centre[None, :] - point[:, None])


@triton.jit
def axis_weights(i, nearest, lead, precision, length, pitch):
    """Offsets from the nearest pixel, excess of the squared offset over that pixel's, and ``exp`` of it, 0 outside."""
    d = pitch * (i.to(tl.float32)[None, :] - nearest[:, None])
    excess = d * (d + 2 * lead[:, None])
    return d, excess, tl.where((i < length)[None, :], tl.exp2(-precision[:, None] * excess), 0.0)


@triton.jit
def axis_softmax(point, precision, length, half, scale, BLOCK: tl.constexpr):
    """What a softmax along the axis takes: nearest pixel, its offset, ``1 / total``, mean offset and mean excess.

    All is about the pixel nearest to the point, so that points far outside the frame keep their digits.
    """
    nearest = tl.floor(point / (2 * half) + 0.5 * length)
    nearest = tl.minimum(tl.maximum(nearest, 0.0), length - 1.0)
    lead = scale * (half * (2 * nearest - (length - 1)) - point)
    total = tl.zeros(point.shape, tl.float32)
    mean = tl.zeros(point.shape, tl.float32)
    square = tl.zeros(point.shape, tl.float32)
    for first in range(0, length, BLOCK):
        i = first + tl.arange(0, BLOCK)
        d, excess, weight = axis_weights(i, nearest, lead, precision, length, 2 * half * scale)
        total += tl.sum(weight, 1)
        mean += tl.sum(weight * d, 1)
        square += tl.sum(weight * excess, 1)
    inverse = 1.0 / total
    return nearest, lead, inverse, mean * inverse, square * inverse


def frame_numbers(size: Sequence[int], align_corners: bool) -> tuple[float, float, float, float]:
    """``half`` and ``scale`` along x and y: half_x, half_y, scale_x, scale_y."""
    height, width = size
    spans = [max(n - 1, 1) if align_corners else n for n in (width, height)]
    return (1 / spans[0], 1 / spans[1], *width_scales(height, width, align_corners))


def axis_block(size: Sequence[int]) -> int:
    """Pixels of an axis that a program takes at a time for its softmax."""
    return int(min(triton.next_power_of_2(max(size)), 64))
