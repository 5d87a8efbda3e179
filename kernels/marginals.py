"""Softmax of each axis' mean logits and its moments (``over="marginals"``); see the reference of heatmap_moments."""

from __future__ import annotations

import triton
import triton.language as tl

from .moments_gradient import upstream
from .softmax import finite_peak, inverse_total
from .tile import load_tile, tile_axes


@triton.jit
def heatmap_moments_axes(
    logits,
    along_x,
    along_y,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    channels,
    height,
    width,
    tiles_x,
    tiles,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Sums of a tile's logits along each axis: ``along_x`` (N, C, tiles down, W), ``along_y`` (N, C, tiles across, H)."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    tile = program % tiles
    column, first = tile_axes(tile, tiles_x, BLOCK_W, ROWS, STEPS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    map_c = (n * channels + c)[:, None]
    inside = (c < channels)[:, None]
    base = logits + n * stride_n
    sums = tl.zeros((BLOCK_C, ROWS, BLOCK_W), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        z = load_tile(base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, 0.0)
        sums += z
        of_rows = along_y + (map_c * tiles_x + tile % tiles_x) * height + row[None, :]
        tl.store(of_rows, tl.sum(z, 2), mask=inside & (row < height)[None, :])
    of_columns = along_x + (map_c * (tiles // tiles_x) + tile // tiles_x) * width + column[None, :]
    tl.store(of_columns, tl.sum(sums, 1), mask=inside & (column < width)[None, :])


@triton.jit
def _axis_logits(sums, map_c, parts, length, i, scale):
    """Mean logits along an axis at ``i``, from the tiles' sums, ``-inf`` outside."""
    total = tl.zeros(i.shape, tl.float64)
    for part in range(parts):
        total += tl.load(sums + (map_c * parts + part) * length + i, mask=i < length, other=0.0).to(
            tl.float64
        )
    return tl.where(i < length, (total * scale).to(tl.float32), float("-inf"))


@triton.jit
def _axis_softmax(sums, map_c, parts, length, scale, BLOCK: tl.constexpr):
    """Softmax of an axis (a power of two long), its peak and inverse total."""
    z = _axis_logits(sums, map_c, parts, length, tl.arange(0, BLOCK), scale)
    peak = finite_peak(tl.max(z, 0))
    weight = tl.exp2(z - peak)
    inverse = inverse_total(tl.sum(weight, 0))
    return weight * inverse, peak, inverse


@triton.jit
def _axis_moments(p, length, BLOCK: tl.constexpr):
    """Mass, mean and central second moment along an axis, in pixels from its middle, in float64."""
    i = tl.arange(0, BLOCK)
    x = 0.5 * (2 * i - (length - 1)).to(tl.float64)
    p = p.to(tl.float64)
    mean = tl.sum(p * x, 0)
    return tl.sum(p, 0), mean, tl.sum(p * (x - mean) * (x - mean), 0)


@triton.jit
def heatmap_moments_marginals(
    along_x,
    along_y,
    coords,
    variance,
    mass,
    channels,
    count,
    height,
    width,
    tiles_x,
    tiles_y,
    scale_x,
    scale_y,
    step_x,
    step_y,
    to_x,
    to_y,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    COVARIANCE: tl.constexpr,
):
    """Softmax along each axis and its moments, one landmark a program."""
    program = tl.program_id(0).to(tl.int64)
    map_c = program // count * channels + program % count
    p_x, _, _ = _axis_softmax(along_x, map_c, tiles_y, width, scale_x, BLOCK_X)
    p_y, _, _ = _axis_softmax(along_y, map_c, tiles_x, height, scale_y, BLOCK_Y)
    mass_x, x, xx = _axis_moments(p_x, width, BLOCK_X)
    mass_y, y, yy = _axis_moments(p_y, height, BLOCK_Y)
    tl.store(coords + 2 * program, (step_x * x).to(tl.float32))
    tl.store(coords + 2 * program + 1, (step_y * y).to(tl.float32))
    tl.store(mass + program, (mass_x * mass_y).to(tl.float32))
    values: tl.constexpr = 3 if COVARIANCE else 2
    tl.store(variance + values * program, (xx * to_x * to_x).to(tl.float32))
    tl.store(variance + values * program + 1, (yy * to_y * to_y).to(tl.float32))
    if COVARIANCE:
        tl.store(variance + values * program + 2, 0.0)


@triton.jit
def _axis_gradient(p, x0, slope, square, half, length, i):
    """``p (h - sum p h)`` along an axis, and that sum; ``h`` is a landmark's parabola about its coordinate."""
    d = half * (2 * i - (length - 1)).to(tl.float32) - x0
    h = (square * d + slope) * d
    expected = tl.sum(p * h, 0)
    return p * (h - expected), expected


@triton.jit
def heatmap_moments_backward_marginals(
    grad_coords,
    grad_variance,
    coords,
    along_x,
    along_y,
    grad,
    coords_n,
    coords_k,
    coords_j,
    variance_n,
    variance_k,
    variance_j,
    out_n,
    out_c,
    out_h,
    out_w,
    channels,
    count,
    height,
    width,
    tiles_x,
    tiles_y,
    scale_x,
    scale_y,
    per_row,
    per_column,
    half_x,
    half_y,
    width_x,
    width_y,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Gradient of one channel's map: what its column's and its row's softmax receive, added."""
    program = tl.program_id(0).to(tl.int64)
    n = program // channels
    c = program % channels
    landmark = c < count
    x = tl.load(coords + 2 * (n * count + c), mask=landmark, other=0.0).to(tl.float32)
    y = tl.load(coords + 2 * (n * count + c) + 1, mask=landmark, other=0.0).to(tl.float32)
    g_x = upstream(grad_coords, n * coords_n + c * coords_k, landmark)
    g_y = upstream(grad_coords, n * coords_n + c * coords_k + coords_j, landmark)
    g_xx = upstream(grad_variance, n * variance_n + c * variance_k, landmark) * width_x * width_x
    g_yy = upstream(grad_variance, n * variance_n + c * variance_k + variance_j, landmark) * width_y * width_y
    column = tl.arange(0, BLOCK_X)
    p_x, _, _ = _axis_softmax(along_x, program, tiles_y, width, scale_x, BLOCK_X)
    p_y, peak_y, inverse_y = _axis_softmax(along_y, program, tiles_x, height, scale_y, BLOCK_Y)
    of_x, _ = _axis_gradient(p_x, x, g_x, g_xx, half_x, width, column)
    _, expected_y = _axis_gradient(p_y, y, g_y, g_yy, half_y, height, tl.arange(0, BLOCK_Y))
    of_x = of_x * per_column
    for first in range(0, height, ROWS):
        row = first + tl.arange(0, ROWS)
        z = _axis_logits(along_y, program, tiles_x, height, row, scale_y)
        p = tl.exp2(z - peak_y) * inverse_y
        d = half_y * (2 * row - (height - 1)).to(tl.float32) - y
        of_y = p * ((g_yy * d + g_y) * d - expected_y) * per_row
        both = tl.where(landmark, of_y[:, None] + of_x[None, :], 0.0)
        offset = row.to(tl.int64)[:, None] * out_h + column.to(tl.int64)[None, :] * out_w
        tl.store(
            grad + n * out_n + c * out_c + offset,
            both.to(grad.dtype.element_ty),
            mask=(row < height)[:, None] & (column < width)[None, :],
        )
