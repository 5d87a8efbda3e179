"""Gaussians of a tile at one level, and the kernels of render_gaussians; see the reference of gaussian_splat.

Exponentials are taken along a tile's columns and rows and multiplied. Backward, the sums over tiles and levels are
left to a second kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gaussian_axes import INVERSE_SQUARE, axis_offsets, axis_softmax, axis_weights, load_points
from .tile import load_tile, store_tile, summed_parts, tile_axes


@triton.jit
def of_level(level, levels):
    """Precision, gain and background of a level, of the three numbers each that ``levels`` holds."""
    precision = levels[0] + 0.0
    gain = levels[1] + 0.0
    floor = levels[2] + 0.0
    for i in tl.static_range(1, len(levels) // 3):
        precision = tl.where(level == i, levels[3 * i], precision)
        gain = tl.where(level == i, levels[3 * i + 1], gain)
        floor = tl.where(level == i, levels[3 * i + 2], floor)
    return precision, gain, floor


@triton.jit
def along_axis(point, whole, i, length, half, scale, precision, SUM: tl.constexpr):
    """Exponentials along an axis, and offsets from the point; or the axis' softmax, and offsets from its mean."""
    if SUM:
        nearest, lead, inverse, mean, _square = whole
        p = tl.zeros(point.shape, tl.float32) + precision
        d, _excess, weight = axis_weights(i, nearest, lead, p, length, 2 * half * scale)
        weight = weight * inverse[:, None]
        d = d - mean[:, None]
    else:
        d = axis_offsets(point, i, length, half, scale)
        weight = tl.exp2(-precision * d * d)
    return weight, d


@triton.jit
def whole_axis(point, length, half, scale, precision, BLOCK_A: tl.constexpr, SUM: tl.constexpr):
    """What :func:`along_axis` needs of the whole axis."""
    if SUM:
        p = tl.zeros(point.shape, tl.float32) + precision
        found = axis_softmax(point, p, length, half, scale, BLOCK_A)
    else:
        found = (point, point, point, point, point)
    return found


@triton.jit
def gaussian_product(along_x, along_y, k, count, numbers):
    """Gaussians ``[channels, rows, columns]``, the background at ``count`` and 0 beyond."""
    _precision, gain, floor = numbers
    g = (gain * along_y)[:, :, None] * along_x[:, None, :]
    others = tl.where(k == count, floor, 0.0)
    return tl.where((k < count)[:, None, None], g, others[:, None, None])


@triton.jit
def gaussians(points, k, row, column, frame, numbers):
    """Gaussians of a tile for the landmarks ``k``, and the background."""
    coords, count, at_k, at_j = points
    height, width, half_x, half_y, scale_x, scale_y = frame
    x, y = load_points(coords, k, count, at_k, at_j)
    along_x, _dx = along_axis(x, x, column, width, half_x, scale_x, numbers[0], False)
    along_y, _dy = along_axis(y, y, row, height, half_y, scale_y, numbers[0], False)
    return gaussian_product(along_x, along_y, k, count, numbers)


@triton.jit
def total_of_channels(points, row, column, frame, numbers, BLOCK_K: tl.constexpr):
    """Sum of all landmarks and the background at each pixel of a tile, chunk by chunk."""
    total = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for chunk in range(0, points[1] + 1, BLOCK_K):
        total += tl.sum(gaussians(points, chunk + tl.arange(0, BLOCK_K), row, column, frame, numbers), 0)
    return total


@triton.jit
def render_gaussians_maps(
    coords,
    out,
    at_n,
    at_k,
    at_j,
    count,
    channels,
    height,
    width,
    tiles_x,
    tiles,
    half_x,
    half_y,
    scale_x,
    scale_y,
    levels,
    BLOCK_K: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_A: tl.constexpr,
    NORMALIZE: tl.constexpr,
    CHUNKED: tl.constexpr,
):
    """Maps of a tile at one level."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    level = tl.program_id(1)
    numbers = of_level(level, levels)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    points = (coords + n * at_n, count, at_k, at_j)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    k = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    x, y = load_points(coords + n * at_n, k, count, at_k, at_j)
    SUM: tl.constexpr = NORMALIZE == "sum"
    whole_x = whole_axis(x, width, half_x, scale_x, numbers[0], BLOCK_A, SUM)
    whole_y = whole_axis(y, height, half_y, scale_y, numbers[0], BLOCK_A, SUM)
    along_x, _dx = along_axis(x, whole_x, column, width, half_x, scale_x, numbers[0], SUM)
    plane = tl.cast(height, tl.int64) * width
    base = out + (n * (len(levels) // 3) + level) * channels * plane
    for step in range(STEPS):
        row = first + step * ROWS
        along_y, _dy = along_axis(y, whole_y, row, height, half_y, scale_y, numbers[0], SUM)
        g = gaussian_product(along_x, along_y, k, count, numbers)
        if NORMALIZE == "channels":
            total = (
                total_of_channels(points, row, column, frame, numbers, BLOCK_K) if CHUNKED else tl.sum(g, 0)
            )
            g = g * (1.0 / total)[None, :, :]
        store_tile(base, g, k, channels, row, column, height, width, plane, width, 1)


@triton.jit
def store_moved(partials, part, k, count, moved, moved_y, dx, precision, scale_x, scale_y):
    """A tile's part of the coordinates' gradient from its lanes' sums of ``G g`` and ``G g dy``."""
    factor = precision * INVERSE_SQUARE
    of_x = tl.sum(tl.sum(moved, 1) * dx, 1) * (factor * scale_x)
    of_y = tl.sum(tl.sum(moved_y, 2), 1) * (factor * scale_y)
    pointers = partials + part * (2 * count) + 2 * k
    tl.store(pointers, of_x, mask=k < count)
    tl.store(pointers + 1, of_y, mask=k < count)


@triton.jit
def render_gaussians_backward_partials(
    grad,
    coords,
    partials,
    stride_n,
    stride_l,
    stride_c,
    stride_h,
    stride_w,
    at_n,
    at_k,
    at_j,
    count,
    channels,
    height,
    width,
    tiles_x,
    tiles,
    half_x,
    half_y,
    scale_x,
    scale_y,
    levels,
    BLOCK_K: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_A: tl.constexpr,
    NORMALIZE: tl.constexpr,
    CHUNKED: tl.constexpr,
):
    """A tile's part of the coordinates' gradient at one level: ``partials (N, L tiles, 2 K)``."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    level = tl.program_id(1)
    numbers = of_level(level, levels)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    points = (coords + n * at_n, count, at_k, at_j)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    k = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    x, y = load_points(coords + n * at_n, k, count, at_k, at_j)
    SUM: tl.constexpr = NORMALIZE == "sum"
    whole_x = whole_axis(x, width, half_x, scale_x, numbers[0], BLOCK_A, SUM)
    whole_y = whole_axis(y, height, half_y, scale_y, numbers[0], BLOCK_A, SUM)
    along_x, dx = along_axis(x, whole_x, column, width, half_x, scale_x, numbers[0], SUM)
    base = grad + n * stride_n + tl.cast(level, tl.int64) * stride_l
    moved = tl.zeros((BLOCK_K, ROWS, BLOCK_W), tl.float32)
    moved_y = tl.zeros((BLOCK_K, ROWS, BLOCK_W), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        along_y, dy = along_axis(y, whole_y, row, height, half_y, scale_y, numbers[0], SUM)
        g = gaussian_product(along_x, along_y, k, count, numbers)
        upstream = load_tile(base, k, channels, row, column, height, width, stride_c, stride_h, stride_w, 0.0)
        if NORMALIZE == "channels":
            if CHUNKED:
                total = tl.zeros((ROWS, BLOCK_W), tl.float32)
                expected = tl.zeros((ROWS, BLOCK_W), tl.float32)
                for chunk in range(0, channels, BLOCK_K):
                    c = chunk + tl.arange(0, BLOCK_K)
                    other = gaussians(points, c, row, column, frame, numbers)
                    total += tl.sum(other, 0)
                    by_other = load_tile(
                        base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, 0.0
                    )
                    expected += tl.sum(other * by_other, 0)
            else:
                total = tl.sum(g, 0)
                expected = tl.sum(g * upstream, 0)
            inverse = 1.0 / total
            g = g * inverse[None, :, :]
            upstream -= (expected * inverse)[None, :, :]
        by_point = g * upstream
        moved += by_point
        moved_y += by_point * dy[:, :, None]
    part = (n * (len(levels) // 3) + level) * tiles + program % tiles
    store_moved(partials, part, k, count, moved, moved_y, dx, numbers[0], scale_x, scale_y)


@triton.jit
def render_gaussians_backward_finish(
    partials, grad_coords, parts, values, BLOCK_V: tl.constexpr, BLOCK_T: tl.constexpr
):
    """The coordinates' gradient: the sum over tiles and levels."""
    n = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    total = summed_parts(partials, n, parts, values, v, BLOCK_T)
    tl.store(
        grad_coords + n * values + v, total.to(tl.float32).to(grad_coords.dtype.element_ty), mask=v < values
    )
