"""Heatmaps to landmarks: softmax, then mass, mean and variance of each channel; see the reference of this name.

A program owns a tile of pixels whose lanes keep their column while the tile steps down, so that three sums a lane
(of q, q y and q y^2) give all six moments: x enters once, at the end, about the tile's own mean. A second kernel
merges the tiles about the map's mean in float64.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.lattice import width_scales
from .launch import Launch, described, planned
from .launch_table import architecture, columns, configuration, overrides
from .softmax import across_channels, finite_peak, inverse_total, running

#: The softmax of a pixel is in registers up to so many channels; beyond, it is done over chunks of so many.
MOST_CHANNELS = 64
#: Values of a tile's partial result: peak (0 but for pixels), mass, mean x and y, central xx, yy, xy; in pixels.
PARTIAL = tl.constexpr(7)


@triton.jit
def _tile(tile, tiles_x, BLOCK_W: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """Columns and first rows of a tile's lanes, and the tile's middle column and row."""
    lane = tl.arange(0, ROWS * BLOCK_W)
    left = (tile % tiles_x) * BLOCK_W
    top = (tile // tiles_x) * (ROWS * STEPS)
    return left + lane % BLOCK_W, top + lane // BLOCK_W, left + BLOCK_W // 2, top + ROWS * STEPS // 2


@triton.jit
def _load(base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, other):
    """A tile ``[channels, pixels]`` in float32, ``other`` outside."""
    inside = (row < height) & (column < width)
    offset = row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    pointers = base + c.to(tl.int64)[:, None] * stride_c + offset[None, :]
    return tl.load(pointers, mask=(c < channels)[:, None] & inside[None, :], other=other).to(tl.float32)


@triton.jit
def _store_partial(
    partials, program, c, blocks_c, peak, a0, a1, a2, column, middle_x, middle_y, height, width
):
    """Moments of a tile from its lanes' sums over rows, taken about the tile's mean."""
    x = (column - middle_x).to(tl.float32)
    mass = tl.sum(a0, 1)
    inverse = inverse_total(mass)
    mean_x = tl.sum(a0 * x[None, :], 1) * inverse
    mean_y = tl.sum(a1, 1) * inverse
    dx = x[None, :] - mean_x[:, None]
    level = a1 - mean_y[:, None] * a0
    xx = tl.sum(a0 * dx * dx, 1)
    yy = tl.sum(a2 - mean_y[:, None] * (a1 + level), 1)
    xy = tl.sum(level * dx, 1)
    out = partials + program.to(tl.int64) * (PARTIAL * blocks_c) + c
    tl.store(out, peak)
    tl.store(out + blocks_c, mass)
    tl.store(out + 2 * blocks_c, mean_x + (middle_x - 0.5 * (width - 1)))
    tl.store(out + 3 * blocks_c, mean_y + (middle_y - 0.5 * (height - 1)))
    tl.store(out + 4 * blocks_c, xx)
    tl.store(out + 5 * blocks_c, yy)
    tl.store(out + 6 * blocks_c, xy)


@triton.jit
def heatmap_moments_channels(
    logits,
    partials,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    channels,
    height,
    width,
    tiles_x,
    tiles,
    blocks_c,
    scale,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    CHUNKED: tl.constexpr,
):
    """Partial moments of a tile, softmax across channels."""
    program = tl.program_id(0)
    base = logits + (program // tiles).to(tl.int64) * stride_n
    column, first, middle_x, middle_y = _tile(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    a0 = tl.zeros((BLOCK_C, ROWS * BLOCK_W), tl.float32)
    a1 = tl.zeros((BLOCK_C, ROWS * BLOCK_W), tl.float32)
    a2 = tl.zeros((BLOCK_C, ROWS * BLOCK_W), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        z = scale * _load(
            base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, float("-inf")
        )
        if CHUNKED:
            peak = tl.full((ROWS * BLOCK_W,), float("-inf"), tl.float32)
            total = tl.zeros((ROWS * BLOCK_W,), tl.float32)
            for chunk in range(0, channels, BLOCK_C):
                others = scale * _load(
                    base,
                    chunk + tl.arange(0, BLOCK_C),
                    channels,
                    row,
                    column,
                    height,
                    width,
                    stride_c,
                    stride_h,
                    stride_w,
                    float("-inf"),
                )
                peak, total, fade = running(peak, total, others)
            q = tl.exp2(z - finite_peak(peak)[None, :]) * inverse_total(total)[None, :]
        else:
            q = across_channels(z)
        y = (row - middle_y).to(tl.float32)[None, :]
        a0 += q
        a1 += q * y
        a2 += q * (y * y)
    peak = tl.zeros((BLOCK_C,), tl.float32)
    _store_partial(
        partials, program, c, blocks_c, peak, a0, a1, a2, column, middle_x, middle_y, height, width
    )


@triton.jit
def heatmap_moments_pixels(
    logits,
    partials,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    channels,
    height,
    width,
    tiles_x,
    tiles,
    blocks_c,
    scale,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Partial moments of a tile, softmax across pixels; each lane takes the largest of its own away."""
    program = tl.program_id(0)
    base = logits + (program // tiles).to(tl.int64) * stride_n
    column, first, middle_x, middle_y = _tile(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    peak = tl.full((BLOCK_C, ROWS * BLOCK_W), float("-inf"), tl.float32)
    a0 = tl.zeros((BLOCK_C, ROWS * BLOCK_W), tl.float32)
    a1 = tl.zeros((BLOCK_C, ROWS * BLOCK_W), tl.float32)
    a2 = tl.zeros((BLOCK_C, ROWS * BLOCK_W), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        z = scale * _load(
            base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, float("-inf")
        )
        higher = tl.maximum(peak, z)
        fade = tl.exp2(peak - finite_peak(higher))
        weight = tl.exp2(z - finite_peak(higher))
        y = (row - middle_y).to(tl.float32)[None, :]
        a0 = a0 * fade + weight
        a1 = a1 * fade + weight * y
        a2 = a2 * fade + weight * (y * y)
        peak = higher
    highest = tl.max(peak, 1)
    fade = tl.exp2(peak - finite_peak(highest)[:, None])
    _store_partial(
        partials,
        program,
        c,
        blocks_c,
        highest,
        a0 * fade,
        a1 * fade,
        a2 * fade,
        column,
        middle_x,
        middle_y,
        height,
        width,
    )


@triton.jit
def _of_tiles(partials, n, c, tiles, blocks_c, value, t):
    """One value of the partial results of tiles ``t`` in float64, 0 beyond the last."""
    pointers = partials + ((n * tiles + t)[:, None] * PARTIAL + value) * blocks_c + c[None, :]
    return tl.load(pointers, mask=(t < tiles)[:, None], other=0.0).to(tl.float64)


@triton.jit
def _fading(partials, n, c, tiles, blocks_c, highest, t, OVER_PIXELS: tl.constexpr):
    """What a tile's mass counts for beside the tile with the highest peak, times that mass."""
    mass = _of_tiles(partials, n, c, tiles, blocks_c, 1, t)
    if OVER_PIXELS:
        peak = _of_tiles(partials, n, c, tiles, blocks_c, 0, t).to(tl.float32)
        peak = tl.where((t < tiles)[:, None], peak, float("-inf"))
        fade = tl.exp2(peak - finite_peak(highest)[None, :]).to(tl.float64)
    else:
        fade = tl.where((t < tiles)[:, None], 1.0, 0.0).to(tl.float64)
    return fade, mass * fade


@triton.jit
def _highest(partials, n, c, tiles, blocks_c, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr):
    """The highest peak of all tiles, ``[channels]``."""
    highest = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        peak = _of_tiles(partials, n, c, tiles, blocks_c, 0, t).to(tl.float32)
        highest = tl.maximum(highest, tl.max(tl.where((t < tiles)[:, None], peak, float("-inf")), 0))
    return highest


@triton.jit
def heatmap_moments_finish(
    partials,
    coords,
    variance,
    mass,
    count,
    tiles,
    blocks_c,
    step_x,
    step_y,
    to_x,
    to_y,
    eps,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    OVER_PIXELS: tl.constexpr,
    COVARIANCE: tl.constexpr,
):
    """All tiles of a map together, in float64: coordinates, variances and mass of its landmarks."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    highest = tl.zeros((BLOCK_C,), tl.float32)
    if OVER_PIXELS:
        highest = _highest(partials, n, c, tiles, blocks_c, BLOCK_C, BLOCK_T)
    total = tl.zeros((BLOCK_C,), tl.float64)
    x = tl.zeros((BLOCK_C,), tl.float64)
    y = tl.zeros((BLOCK_C,), tl.float64)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        fade, weight = _fading(partials, n, c, tiles, blocks_c, highest, t, OVER_PIXELS)
        total += tl.sum(weight, 0)
        x += tl.sum(weight * _of_tiles(partials, n, c, tiles, blocks_c, 2, t), 0)
        y += tl.sum(weight * _of_tiles(partials, n, c, tiles, blocks_c, 3, t), 0)
    inverse = inverse_total(total)
    # across pixels the weights are made to sum to one
    inverse_divisor = inverse if OVER_PIXELS else 1.0 / (total + eps)
    mean_x = x * inverse_divisor
    mean_y = y * inverse_divisor
    xx = tl.zeros((BLOCK_C,), tl.float64)
    yy = tl.zeros((BLOCK_C,), tl.float64)
    xy = tl.zeros((BLOCK_C,), tl.float64)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        fade, weight = _fading(partials, n, c, tiles, blocks_c, highest, t, OVER_PIXELS)
        dx = _of_tiles(partials, n, c, tiles, blocks_c, 2, t) - mean_x[None, :]
        dy = _of_tiles(partials, n, c, tiles, blocks_c, 3, t) - mean_y[None, :]
        xx += tl.sum(fade * _of_tiles(partials, n, c, tiles, blocks_c, 4, t) + weight * dx * dx, 0)
        yy += tl.sum(fade * _of_tiles(partials, n, c, tiles, blocks_c, 5, t) + weight * dy * dy, 0)
        xy += tl.sum(fade * _of_tiles(partials, n, c, tiles, blocks_c, 6, t) + weight * dx * dy, 0)
    if OVER_PIXELS:
        total = tl.where(total == 0.0, 0.0, total * inverse)
    landmark = c < count
    k = n * count + c
    tl.store(coords + 2 * k, (step_x * mean_x).to(tl.float32), mask=landmark)
    tl.store(coords + 2 * k + 1, (step_y * mean_y).to(tl.float32), mask=landmark)
    tl.store(mass + k, total.to(tl.float32), mask=landmark)
    width: tl.constexpr = 3 if COVARIANCE else 2
    tl.store(variance + width * k, (xx * inverse_divisor * to_x * to_x).to(tl.float32), mask=landmark)
    tl.store(variance + width * k + 1, (yy * inverse_divisor * to_y * to_y).to(tl.float32), mask=landmark)
    if COVARIANCE:
        tl.store(variance + width * k + 2, (xy * inverse_divisor * to_x * to_y).to(tl.float32), mask=landmark)


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
    base = logits + n * stride_n
    column, first, middle_x, middle_y = _tile(tile, tiles_x, BLOCK_W, ROWS, STEPS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    map_c = (n * channels + c)[:, None]
    across = tile % tiles_x
    down = tile // tiles_x
    tiles_y = tiles // tiles_x
    sums = tl.zeros((BLOCK_C, ROWS * BLOCK_W), tl.float32)
    for step in range(STEPS):
        z = _load(
            base,
            c,
            channels,
            first + step * ROWS,
            column,
            height,
            width,
            stride_c,
            stride_h,
            stride_w,
            0.0,
        )
        sums += z
        rows = (down * STEPS + step) * ROWS + tl.arange(0, ROWS)
        of_rows = tl.sum(tl.reshape(z, (BLOCK_C, ROWS, BLOCK_W)), 2)
        mask = (c < channels)[:, None] & (rows < height)[None, :]
        tl.store(along_y + (map_c * tiles_x + across) * height + rows[None, :], of_rows, mask=mask)
    columns_ = across * BLOCK_W + tl.arange(0, BLOCK_W)
    of_columns = tl.sum(tl.reshape(sums, (BLOCK_C, ROWS, BLOCK_W)), 1)
    mask = (c < channels)[:, None] & (columns_ < width)[None, :]
    tl.store(along_x + (map_c * tiles_y + down) * width + columns_[None, :], of_columns, mask=mask)


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
def _upstream(grad, offset, landmark):
    """An upstream gradient, 0 where there is none and for the background."""
    if grad is None:
        value = tl.zeros(landmark.shape, tl.float32)
    else:
        value = tl.load(grad + offset, mask=landmark, other=0.0).to(tl.float32)
    return value


@triton.jit
def _slopes(
    grad_coords,
    grad_variance,
    grad_mass,
    coords,
    variance,
    mass,
    n,
    c,
    count,
    coords_n,
    coords_k,
    coords_j,
    variance_n,
    variance_k,
    variance_j,
    mass_n,
    mass_k,
    width_x,
    width_y,
    eps,
    DIVIDED: tl.constexpr,
    COVARIANCE: tl.constexpr,
):
    """Coefficients of ``h(p)``, the derivative by a pixel's probability, in the offset (dx, dy) from the landmark."""
    landmark = c < count
    k = n * count + c
    x = tl.load(coords + 2 * k, mask=landmark, other=0.0).to(tl.float32)
    y = tl.load(coords + 2 * k + 1, mask=landmark, other=0.0).to(tl.float32)
    values: tl.constexpr = 3 if COVARIANCE else 2
    v_x = tl.load(variance + values * k, mask=landmark, other=0.0).to(tl.float32)
    v_y = tl.load(variance + values * k + 1, mask=landmark, other=0.0).to(tl.float32)
    k_n = n * coords_n + c * coords_k
    g_x = _upstream(grad_coords, k_n, landmark)
    g_y = _upstream(grad_coords, k_n + coords_j, landmark)
    k_n = n * variance_n + c * variance_k
    g_xx = _upstream(grad_variance, k_n, landmark)
    g_yy = _upstream(grad_variance, k_n + variance_j, landmark)
    if COVARIANCE:
        g_xy = _upstream(grad_variance, k_n + 2 * variance_j, landmark)
        v_xy = tl.load(variance + values * k + 2, mask=landmark, other=0.0).to(tl.float32)
    else:
        g_xy = tl.zeros(landmark.shape, tl.float32)
        v_xy = tl.zeros(landmark.shape, tl.float32)
    inverse = tl.full(landmark.shape, 1.0, tl.float32)
    pull = tl.zeros(landmark.shape, tl.float32)
    level = tl.zeros(landmark.shape, tl.float32)
    if DIVIDED:
        inverse = 1.0 / (tl.load(mass + k, mask=landmark, other=1.0).to(tl.float32) + eps)
        pull = eps * inverse
        level = _upstream(grad_mass, n * mass_n + c * mass_k, landmark)
    square_x = width_x * width_x * g_xx
    square_y = width_y * width_y * g_yy
    cross = width_x * width_y * g_xy
    return (
        x,
        y,
        (g_x - 2 * pull * x * square_x - pull * y * cross) * inverse,
        square_x * inverse,
        (g_y - 2 * pull * y * square_y - pull * x * cross) * inverse,
        square_y * inverse,
        cross * inverse,
        level - (g_xx * v_x + g_yy * v_y + g_xy * v_xy) * inverse,
    )


@triton.jit
def _by_probability(s, place_x, place_y):
    """``h(p)`` of a tile ``[channels, pixels]``."""
    x, y, slope_x, square_x, slope_y, square_y, cross, level = s
    dx = place_x[None, :] - x[:, None]
    dy = place_y[None, :] - y[:, None]
    along_x = (square_x[:, None] * dx + slope_x[:, None]) * dx
    return along_x + (square_y[:, None] * dy + slope_y[:, None] + cross[:, None] * dx) * dy + level[:, None]


@triton.jit
def _store(base, values, c, channels, row, column, height, width, stride_c, stride_h, stride_w):
    """The tile's counterpart of :func:`_load`."""
    inside = (row < height) & (column < width)
    offset = row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    pointers = base + c.to(tl.int64)[:, None] * stride_c + offset[None, :]
    tl.store(pointers, values.to(base.dtype.element_ty), mask=(c < channels)[:, None] & inside[None, :])


@triton.jit
def heatmap_moments_backward_map(
    grad_coords,
    grad_variance,
    grad_mass,
    logits,
    coords,
    variance,
    mass,
    partials,
    grad,
    coords_n,
    coords_k,
    coords_j,
    variance_n,
    variance_k,
    variance_j,
    mass_n,
    mass_k,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    out_n,
    out_c,
    out_h,
    out_w,
    channels,
    count,
    height,
    width,
    tiles_x,
    tiles,
    partial_tiles,
    blocks_c,
    scale,
    inverse_temperature,
    half_x,
    half_y,
    width_x,
    width_y,
    eps,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    CHUNKED: tl.constexpr,
    OVER_PIXELS: tl.constexpr,
    COVARIANCE: tl.constexpr,
):
    """``dz = q (h - sum q h) / T`` of a tile: one read, one write, nothing summed over the image."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, first, middle_x, middle_y = _tile(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    place_x = half_x * (2 * column - (width - 1)).to(tl.float32)
    base = logits + n * stride_n
    slopes = _slopes(
        grad_coords,
        grad_variance,
        grad_mass,
        coords,
        variance,
        mass,
        n,
        c,
        count,
        coords_n,
        coords_k,
        coords_j,
        variance_n,
        variance_k,
        variance_j,
        mass_n,
        mass_k,
        width_x,
        width_y,
        eps,
        not OVER_PIXELS,
        COVARIANCE,
    )
    if OVER_PIXELS:
        highest = _highest(partials, n, c, partial_tiles, blocks_c, BLOCK_C, BLOCK_T)
        total = tl.zeros((BLOCK_C,), tl.float64)
        for t in range(0, partial_tiles, BLOCK_T):
            fade, weight = _fading(
                partials, n, c, partial_tiles, blocks_c, highest, t + tl.arange(0, BLOCK_T), OVER_PIXELS
            )
            total += tl.sum(weight, 0)
        # a background channel takes no part; the sum of q h over the map is zero, h being about the mean
        inverse = tl.where(c < count, inverse_total(total.to(tl.float32)), 0.0)
    for step in range(STEPS):
        row = first + step * ROWS
        place_y = half_y * (2 * row - (height - 1)).to(tl.float32)
        z = scale * _load(
            base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, float("-inf")
        )
        h = _by_probability(slopes, place_x, place_y)
        if OVER_PIXELS:
            by_logit = tl.exp2(z - finite_peak(highest)[:, None]) * inverse[:, None] * h
        elif CHUNKED:
            peak = tl.full((ROWS * BLOCK_W,), float("-inf"), tl.float32)
            total = tl.zeros((ROWS * BLOCK_W,), tl.float32)
            expected = tl.zeros((ROWS * BLOCK_W,), tl.float32)
            for chunk in range(0, channels, BLOCK_C):
                other_c = chunk + tl.arange(0, BLOCK_C)
                other_z = scale * _load(
                    base,
                    other_c,
                    channels,
                    row,
                    column,
                    height,
                    width,
                    stride_c,
                    stride_h,
                    stride_w,
                    float("-inf"),
                )
                other = _slopes(
                    grad_coords,
                    grad_variance,
                    grad_mass,
                    coords,
                    variance,
                    mass,
                    n,
                    other_c,
                    count,
                    coords_n,
                    coords_k,
                    coords_j,
                    variance_n,
                    variance_k,
                    variance_j,
                    mass_n,
                    mass_k,
                    width_x,
                    width_y,
                    eps,
                    True,
                    COVARIANCE,
                )
                peak, total, fade = running(peak, total, other_z)
                weight = tl.exp2(other_z - finite_peak(peak)[None, :])
                expected = expected * fade + tl.sum(weight * _by_probability(other, place_x, place_y), 0)
            inverse = inverse_total(total)
            q = tl.exp2(z - finite_peak(peak)[None, :]) * inverse[None, :]
            by_logit = q * (h - (expected * inverse)[None, :])
        else:
            q = across_channels(z)
            by_logit = q * (h - tl.sum(q * h, 0)[None, :])
        _store(
            grad + n * out_n,
            by_logit * inverse_temperature,
            c,
            channels,
            row,
            column,
            height,
            width,
            out_c,
            out_h,
            out_w,
        )


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
    g_x = _upstream(grad_coords, n * coords_n + c * coords_k, landmark)
    g_y = _upstream(grad_coords, n * coords_n + c * coords_k + coords_j, landmark)
    g_xx = _upstream(grad_variance, n * variance_n + c * variance_k, landmark) * width_x * width_x
    g_yy = (
        _upstream(grad_variance, n * variance_n + c * variance_k + variance_j, landmark) * width_y * width_y
    )
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


def heatmap_moments(
    logits: Tensor,
    over: str,
    background: bool,
    temperature: float,
    align_corners: bool,
    eps: float,
    covariance: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates ``(N, K, 2)``, variance ``(N, K, 2)`` or covariance ``(N, K, 3)``, and mass ``(N, K)``."""
    plan = _forward_plan(
        *described(logits), over, background, temperature, align_corners, eps, covariance, overrides()
    )
    batch, count = logits.shape[0], logits.shape[1] - int(background)
    coords = logits.new_empty((batch, count, 2), dtype=torch.float32)
    variance = logits.new_empty((batch, count, 3 if covariance else 2), dtype=torch.float32)
    mass = logits.new_empty((batch, count), dtype=torch.float32)
    sums = [logits.new_empty(size, dtype=torch.float32) for size in plan.workspace]
    plan.partials(logits, *sums)
    plan.finish(*sums, coords, variance, mass)
    return coords, variance, mass


def heatmap_moments_backward(
    grad_coords: Tensor | None,
    grad_variance: Tensor | None,
    grad_mass: Tensor | None,
    logits: Tensor,
    coords: Tensor,
    variance: Tensor,
    mass: Tensor,
    over: str,
    background: bool,
    temperature: float,
    align_corners: bool,
    eps: float,
) -> Tensor:
    """Gradient ``(N, C, H, W)`` of the logits, in their dtype and layout. Absent gradients count as zero."""
    grad = torch.empty_like(logits)
    strides = tuple(None if g is None else g.stride() for g in (grad_coords, grad_variance, grad_mass))
    plan = _backward_plan(
        *described(logits),
        grad.stride(),
        strides,
        variance.shape[-1] == 3,
        over,
        background,
        temperature,
        align_corners,
        eps,
        overrides(),
    )
    saved = [t.contiguous() for t in (coords, variance, mass)]
    sums = [logits.new_empty(size, dtype=torch.float32) for size in plan.workspace]
    if plan.partials is not None:
        plan.partials(logits, *sums)
    if over == "marginals":
        plan.map(grad_coords, grad_variance, saved[0], *sums, grad)
    else:
        plan.map(grad_coords, grad_variance, grad_mass, logits, *saved, sums[0] if sums else None, grad)
    return grad


class _Tiling:
    """A map cut into tiles, for one kernel of the launch table."""

    def __init__(
        self, kernel: str, shape: torch.Size, dtype: torch.dtype, device: torch.device, all_channels: bool
    ) -> None:
        channels, height, width = shape[1:]
        entry = configuration(kernel, architecture(device), channels, height * width, dtype.itemsize)
        whole = triton.next_power_of_2(channels)
        most = MOST_CHANNELS if all_channels else entry.get("BLOCK_C", 16)
        self.block_c = min(whole, most)
        self.chunks = -(-channels // self.block_c)
        self.block_w = columns(width, entry["TILE"])
        self.rows = min(max(entry["TILE"] // self.block_w, 1), triton.next_power_of_2(height))
        self.steps = max(min(entry["STEPS"], 32 // self.rows, -(-height // self.rows)), 1)
        self.tiles_x = -(-width // self.block_w)
        self.tiles_y = -(-height // (self.rows * self.steps))
        self.tiles = self.tiles_x * self.tiles_y
        self.grid = (shape[0] * self.tiles, self.chunks)
        self.blocks_c = self.chunks * self.block_c
        self.constants = {
            "BLOCK_C": self.block_c,
            "BLOCK_W": self.block_w,
            "ROWS": self.rows,
            "STEPS": self.steps,
        }
        self.options = {"num_warps": entry["num_warps"]}


class _Plan:
    """Launches of one kind of call, and the sizes of what they leave for each other."""

    def __init__(self, workspace: list[tuple[int, ...]], partials: Launch | None, last: Launch) -> None:
        self.workspace = workspace
        self.partials: Any = partials
        self.finish = self.map = last


def _frame(shape: torch.Size, align_corners: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Frame units per pixel, and width units per frame unit, along x and y."""
    height, width = shape[2:]
    spans = [max(n - 1, 1) if align_corners else n for n in (width, height)]
    return (2 / spans[0], 2 / spans[1]), width_scales(height, width, align_corners)


def _axes_launch(
    shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[_Tiling, list[tuple[int, ...]], Launch]:
    """Sums along the axes, and their sizes."""
    t = _Tiling("heatmap_moments_axes", shape, dtype, device, False)
    batch, channels, height, width = shape
    workspace: list[tuple[int, ...]] = [
        (batch, channels, t.tiles_y, width),
        (batch, channels, t.tiles_x, height),
    ]
    numbers = (*stride, channels, height, width, t.tiles_x, t.tiles)
    return t, workspace, Launch(heatmap_moments_axes, t.grid, numbers, t.constants, t.options)


def _pixels_launch(
    shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, device: torch.device, scale: float
) -> tuple[_Tiling, list[tuple[int, ...]], Launch]:
    """Partial moments of a softmax across pixels."""
    t = _Tiling("heatmap_moments_pixels", shape, dtype, device, False)
    numbers = (*stride, *shape[1:], t.tiles_x, t.tiles, t.blocks_c, scale)
    launch = Launch(heatmap_moments_pixels, t.grid, numbers, t.constants, t.options)
    return t, [(shape[0] * t.tiles, 7, t.blocks_c)], launch


@planned
def _forward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    over: str,
    background: bool,
    temperature: float,
    align_corners: bool,
    eps: float,
    covariance: bool,
    _overrides: object,
) -> _Plan:
    batch, channels, height, width = shape
    count = channels - int(background)
    step, scales = _frame(shape, align_corners)
    to = step[0] * scales[0], step[1] * scales[1]
    scale = math.log2(math.e) / temperature
    arch = architecture(device)
    if over == "marginals":
        t, workspace, partials = _axes_launch(shape, stride, dtype, device)
        entry = configuration("heatmap_moments_marginals", arch, channels, height * width, dtype.itemsize)
        last = Launch(
            heatmap_moments_marginals,
            (batch * count,),
            (
                channels,
                count,
                height,
                width,
                t.tiles_x,
                t.tiles_y,
                scale / height,
                scale / width,
                *step,
                *to,
            ),
            {
                "BLOCK_X": triton.next_power_of_2(width),
                "BLOCK_Y": triton.next_power_of_2(height),
                "COVARIANCE": covariance,
            },
            entry,
        )
        return _Plan(workspace, partials, last)
    if over == "pixels":
        t, workspace, partials = _pixels_launch(shape, stride, dtype, device, scale)
    else:
        t = _Tiling("heatmap_moments_channels", shape, dtype, device, True)
        numbers = (*stride, channels, height, width, t.tiles_x, t.tiles, t.blocks_c, scale)
        constants = {**t.constants, "CHUNKED": t.chunks > 1}
        partials = Launch(heatmap_moments_channels, t.grid, numbers, constants, t.options)
        workspace = [(batch * t.tiles, 7, t.blocks_c)]
    entry = configuration("heatmap_moments_finish", arch, channels, height * width, dtype.itemsize)
    block_t = min(entry["BLOCK_T"], triton.next_power_of_2(t.tiles))
    last = Launch(
        heatmap_moments_finish,
        (batch, t.chunks),
        (count, t.tiles, t.blocks_c, *step, *to, eps),
        {
            "BLOCK_C": t.block_c,
            "BLOCK_T": block_t,
            "OVER_PIXELS": over == "pixels",
            "COVARIANCE": covariance,
        },
        {"num_warps": entry["num_warps"]},
    )
    return _Plan(workspace, partials, last)


@planned
def _backward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    out_stride: tuple[int, ...],
    grad_strides: tuple[tuple[int, ...] | None, ...],
    covariance: bool,
    over: str,
    background: bool,
    temperature: float,
    align_corners: bool,
    eps: float,
    _overrides: object,
) -> _Plan:
    batch, channels, height, width = shape
    count = channels - int(background)
    step, scales = _frame(shape, align_corners)
    half = step[0] / 2, step[1] / 2
    scale = math.log2(math.e) / temperature
    arch = architecture(device)
    of_coords, of_variance, of_mass = (s or (0, 0, 0) for s in grad_strides)
    if over == "marginals":
        t, workspace, partials = _axes_launch(shape, stride, dtype, device)
        entry = configuration(
            "heatmap_moments_backward_marginals", arch, channels, height * width, dtype.itemsize
        )
        last = Launch(
            heatmap_moments_backward_marginals,
            (batch * channels,),
            (
                *of_coords,
                *of_variance,
                *out_stride,
                channels,
                count,
                height,
                width,
                t.tiles_x,
                t.tiles_y,
                scale / height,
                scale / width,
                1 / (temperature * width),
                1 / (temperature * height),
                *half,
                *scales,
            ),
            {
                "BLOCK_X": triton.next_power_of_2(width),
                "BLOCK_Y": triton.next_power_of_2(height),
                "ROWS": max(
                    1, min(entry["TILE"] // triton.next_power_of_2(width), triton.next_power_of_2(height))
                ),
            },
            {"num_warps": entry["num_warps"]},
        )
        return _Plan(workspace, partials, last)
    workspace, partial, tiles, blocks_c = [], None, 1, 1
    if over == "pixels":
        stats, workspace, partial = _pixels_launch(shape, stride, dtype, device, scale)
        tiles, blocks_c = stats.tiles, stats.blocks_c
    t = _Tiling("heatmap_moments_backward_map", shape, dtype, device, over == "channels")
    if over == "pixels":
        t.constants["BLOCK_C"] = stats.block_c
        t.grid = (t.grid[0], stats.chunks)
    last = Launch(
        heatmap_moments_backward_map,
        t.grid,
        (
            *of_coords,
            *of_variance,
            *of_mass[:2],
            *stride,
            *out_stride,
            channels,
            count,
            height,
            width,
            t.tiles_x,
            t.tiles,
            tiles,
            blocks_c,
            scale,
            1 / temperature,
            *half,
            *scales,
            eps,
        ),
        {
            **t.constants,
            "BLOCK_T": min(16, triton.next_power_of_2(tiles)),
            "CHUNKED": over == "channels" and t.chunks > 1,
            "OVER_PIXELS": over == "pixels",
            "COVARIANCE": covariance,
        },
        t.options,
    )
    return _Plan(workspace, partial, last)
