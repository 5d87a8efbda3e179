"""Where a warp reads its image: thin-plate splines at a tile's pixels, and the four neighbours of each position.

A position is the output pixel's own place in whole pixels plus what the spline adds, and is never rounded as a whole:
the identity reads the pixels themselves.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from triton.language.extra import libdevice

from .tile import tile_axes

LN2 = tl.constexpr(math.log(2))
#: Smallest squared distance whose logarithm is taken.
TINY = tl.constexpr(2.0**-126)
#: Pixels beyond which a position counts as so far away.
FAR = tl.constexpr(1e9)


@triton.jit
def plate_log2(x, APPROXIMATE: tl.constexpr):
    """NVIDIA's own instruction where asked for: to 2e-7 near 1, in place of twenty others."""
    if APPROXIMATE:
        return libdevice.fast_log2f(x)
    else:
        return tl.log2(x)


@triton.jit
def tile_pixels(tile, tiles_x, BLOCK_W: tl.constexpr, ROWS: tl.constexpr):
    """Columns ``[1, BLOCK_W]`` and rows ``[ROWS, 1]`` of a tile."""
    column, row = tile_axes(tile, tiles_x, BLOCK_W, ROWS, 1)
    return column[None, :], row[:, None]


@triton.jit
def flat_pixels(tile, tiles_x, height, width, stride_h, stride_w, BLOCK_W: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of a tile's pixels, flat, and which are inside.

    What the lanes read and write in 16 bytes is kept apart from the tile in which they compute and gather: there
    neighbouring lanes have neighbouring pixels.
    """
    lane = tl.arange(0, ROWS * BLOCK_W)
    column = (tile % tiles_x) * BLOCK_W + lane % BLOCK_W
    row = (tile // tiles_x) * ROWS + lane // BLOCK_W
    return row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w, (row < height) & (column < width)


@triton.jit
def pixel_centre(i, count, span, DOUBLE: tl.constexpr):
    """Pixel centres in the frame."""
    real: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    return (2 * i - (count - 1)).to(real) / span


@triton.jit
def affine_map(at, stride_i, stride_j, DOUBLE: tl.constexpr):
    """The six numbers of a map, rows after each other."""
    real: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    xx = tl.load(at).to(real)
    xy = tl.load(at + stride_j).to(real)
    x0 = tl.load(at + 2 * stride_j).to(real)
    yx = tl.load(at + stride_i).to(real)
    yy = tl.load(at + stride_i + stride_j).to(real)
    y0 = tl.load(at + stride_i + 2 * stride_j).to(real)
    return xx, xy, x0, yx, yy, y0


@triton.jit
def _mapped(m, x, y):
    """A map at points."""
    xx, xy, x0, yx, yy, y0 = m
    return xx * x + xy * y + x0, yx * x + yy * y + y0


@triton.jit
def displaced(spline, strides, n, points, x, y, DOUBLE: tl.constexpr, APPROXIMATE: tl.constexpr):
    """``q`` and ``g(p) - p`` at the points of columns ``x`` and rows ``y`` of image ``n``."""
    real: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    centers, weights, affine, before = spline
    of_centers, of_weights, of_affine, of_before = strides
    a = affine_map(affine + n * of_affine[0], of_affine[1], of_affine[2], DOUBLE)
    if before is None:
        q_x, q_y = x, y
        xx, xy, x0, yx, yy, y0 = a
    else:
        b = affine_map(before + n * of_before[0], of_before[1], of_before[2], DOUBLE)
        q_x, q_y = _mapped(b, x, y)
        xx, yx = a[0] * b[0] + a[1] * b[3], a[3] * b[0] + a[4] * b[3]
        xy, yy = a[0] * b[1] + a[1] * b[4], a[3] * b[1] + a[4] * b[4]
        x0, y0 = _mapped(a, b[2], b[5])
    centre = centers + n * of_centers[0]
    weight = weights + n * of_weights[0]
    sum_x = tl.zeros((y.shape[0], x.shape[1]), real)
    sum_y = tl.zeros((y.shape[0], x.shape[1]), real)
    for _ in tl.range(0, points, loop_unroll_factor=4):
        dx = q_x - tl.load(centre).to(real)
        dy = q_y - tl.load(centre + of_centers[2]).to(real)
        r2 = dx * dx + dy * dy
        kernel = r2 * plate_log2(tl.maximum(r2, TINY), APPROXIMATE)
        sum_x += kernel * tl.load(weight).to(real)
        sum_y += kernel * tl.load(weight + of_weights[2]).to(real)
        centre += of_centers[1]
        weight += of_weights[1]
    # the identity is taken from the map before it meets a point, so that it leaves exactly nothing
    shift_x, shift_y = _mapped((xx - 1.0, xy, x0, yx, yy - 1.0, y0), x, y)
    return q_x, q_y, shift_x + sum_x * (0.5 * LN2), shift_y + sum_y * (0.5 * LN2)


@triton.jit
def neighbours(i, base, move, count, ZEROS: tl.constexpr, BASE_BITS: tl.constexpr):
    """The two pixels of the image beside a position along an axis, their weights, and their parts in its slope.

    The position is pixel ``i``'s own place ``(base[0] i + base[1]) / base[2]`` (``i`` where BASE_BITS is 0) plus
    ``move``, in pixels.
    """
    if BASE_BITS == 0:
        whole = i
    else:
        if BASE_BITS == 64:
            i = i.to(tl.int64)
        place = i * base[0] + base[1]
        quotient = (place + base[2]) // base[2] - 1  # of a number that may be negative, but above -base[2]
        move += (place - quotient * base[2]).to(move.dtype) / base[2]
        whole = quotient.to(tl.int32)
    lower = tl.floor(move)
    fraction = (move - lower).to(tl.float32)
    # bounded before the conversion: a NaN or huge position must not become a wild address
    known = move == move
    lower = tl.minimum(tl.maximum(tl.where(known, lower, -FAR), -FAR), FAR)
    index = whole + lower.to(tl.int32)
    first = tl.minimum(tl.maximum(index, 0), count - 1)
    if ZEROS:
        second = tl.minimum(tl.maximum(index + 1, 0), count - 1)
        slope_0 = ((index >= 0) & (index < count)).to(tl.float32)
        slope_1 = ((index >= -1) & (index < count - 1)).to(tl.float32)
        weight_0 = (1.0 - fraction) * slope_0
        weight_1 = fraction * slope_1
    else:
        second = tl.where(known, tl.minimum(first + 1, count - 1), first)
        within = (index >= 0) & ((index < count - 1) | ((index == count - 1) & (fraction == 0.0)))
        slope_0 = within.to(tl.float32)
        slope_1 = slope_0
        weight_1 = tl.where(known & ((index < 0) | (index >= count - 1)), 0.0, fraction)
        weight_0 = 1.0 - weight_1
    return first.to(tl.int64), second.to(tl.int64), weight_0, weight_1, slope_0, slope_1


@triton.jit
def corner_offsets(along_x, along_y, stride_h, stride_w):
    """Offsets of the four neighbours: 00, 01 (the lower), 10 (the right), 11."""
    x_0, x_1 = along_x[0] * stride_w, along_x[1] * stride_w
    y_0, y_1 = along_y[0] * stride_h, along_y[1] * stride_h
    return y_0 + x_0, y_1 + x_0, y_0 + x_1, y_1 + x_1


@triton.jit
def corner_weights(along_x, along_y):
    """What the four neighbours count for."""
    x_0, x_1 = along_x[2], along_x[3]
    y_0, y_1 = along_y[2], along_y[3]
    return x_0 * y_0, x_0 * y_1, x_1 * y_0, x_1 * y_1


@triton.jit
def read_corners(at, corners):
    """Values of the four neighbours, which are inside the image wherever the position is."""
    v_00 = tl.load(at + corners[0]).to(tl.float32)
    v_01 = tl.load(at + corners[1]).to(tl.float32)
    v_10 = tl.load(at + corners[2]).to(tl.float32)
    v_11 = tl.load(at + corners[3]).to(tl.float32)
    return v_00, v_01, v_10, v_11
