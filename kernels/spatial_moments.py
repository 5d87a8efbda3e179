"""Moments of heatmaps, first of tiles and then of maps; see the reference of heatmap_moments.

A program owns a tile that steps down the map, so that three sums a lane (of q, q s and q s^2, with s the step's rows)
give all six moments: the lane's own place enters once, at the end, about the tile's own mean. The second kernel merges
the tiles about the map's mean in float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .softmax import across_channels, finite_peak, inverse_total, running
from .tile import load_tile, tile_axes

#: Values of a tile: peak (0 but for pixels), mass, mean x and y from the map's centre, central xx, yy, xy; in pixels.
VALUES = tl.constexpr(7)


@triton.jit
def _store_moments(partials, program, c, blocks_c, peak, sums, column, row, middle_y, height, width):
    """Moments of a tile about its mean, from its lanes' sums over the steps of q, q s and q s^2, s being the step's
    rows down. ``row`` is that of the lanes without s, in rows from ``middle_y``."""
    a0, a1, a2 = sums
    middle = tl.min(column, 0) + column.shape[0] // 2
    x = (column - middle).to(tl.float32)[None, :]
    y = row[None, :, None]
    by_column = tl.sum(a0, 1)
    mass = tl.sum(by_column, 1)
    inverse = inverse_total(mass)
    mean_x = tl.sum(by_column * x, 1) * inverse
    mean_y = tl.sum(tl.sum(a1 + y * a0, 1), 1) * inverse
    dx = x - mean_x[:, None]
    dy = y - mean_y[:, None, None]
    level = a1 + dy * a0
    out = partials + program.to(tl.int64) * (VALUES * blocks_c) + c
    tl.store(out, peak)
    tl.store(out + blocks_c, mass)
    tl.store(out + 2 * blocks_c, mean_x + (middle - 0.5 * (width - 1)))
    tl.store(out + 3 * blocks_c, mean_y + (middle_y - 0.5 * (height - 1)))
    tl.store(out + 4 * blocks_c, tl.sum(by_column * dx * dx, 1))
    tl.store(out + 5 * blocks_c, tl.sum(tl.sum(a2 + dy * (a1 + level), 1), 1))
    tl.store(out + 6 * blocks_c, tl.sum(tl.sum(level, 1) * dx, 1))


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
    """Moments of a tile, softmax across channels."""
    program = tl.program_id(0)
    base = logits + (program // tiles).to(tl.int64) * stride_n
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    top = tl.min(first, 0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    a0 = tl.zeros((BLOCK_C, ROWS, BLOCK_W), tl.float32)
    a1 = tl.zeros((BLOCK_C, ROWS, BLOCK_W), tl.float32)
    a2 = tl.zeros((BLOCK_C, ROWS, BLOCK_W), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        z = scale * load_tile(
            base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, float("-inf")
        )
        if CHUNKED:
            peak = tl.full((ROWS, BLOCK_W), float("-inf"), tl.float32)
            total = tl.zeros((ROWS, BLOCK_W), tl.float32)
            for chunk in range(0, channels, BLOCK_C):
                other = chunk + tl.arange(0, BLOCK_C)
                others = scale * load_tile(
                    base,
                    other,
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
            q = tl.exp2(z - finite_peak(peak)[None, :, :]) * inverse_total(total)[None, :, :]
        else:
            q = across_channels(z)
        down = (step - STEPS // 2) * ROWS * 1.0
        a0 += q
        a1 += q * down
        a2 += q * (down * down)
    middle = top + STEPS // 2 * ROWS + ROWS // 2
    row = (first - top - ROWS // 2).to(tl.float32)
    peak_c = tl.zeros((BLOCK_C,), tl.float32)
    _store_moments(partials, program, c, blocks_c, peak_c, (a0, a1, a2), column, row, middle, height, width)


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
    """Moments of a tile, softmax across pixels; each lane takes the largest of its own away."""
    program = tl.program_id(0)
    base = logits + (program // tiles).to(tl.int64) * stride_n
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    top = tl.min(first, 0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    peak = tl.full((BLOCK_C, ROWS, BLOCK_W), float("-inf"), tl.float32)
    a0 = tl.zeros((BLOCK_C, ROWS, BLOCK_W), tl.float32)
    a1 = tl.zeros((BLOCK_C, ROWS, BLOCK_W), tl.float32)
    a2 = tl.zeros((BLOCK_C, ROWS, BLOCK_W), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        z = scale * load_tile(
            base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, float("-inf")
        )
        higher = tl.maximum(peak, z)
        fade = tl.exp2(peak - finite_peak(higher))
        weight = tl.exp2(z - finite_peak(higher))
        down = (step - STEPS // 2) * ROWS * 1.0
        a0 = a0 * fade + weight
        a1 = a1 * fade + weight * down
        a2 = a2 * fade + weight * (down * down)
        peak = higher
    highest = tl.max(tl.max(peak, 2), 1)
    fade = tl.exp2(peak - finite_peak(highest)[:, None, None])
    sums = (a0 * fade, a1 * fade, a2 * fade)
    middle = top + STEPS // 2 * ROWS + ROWS // 2
    row = (first - top - ROWS // 2).to(tl.float32)
    _store_moments(partials, program, c, blocks_c, highest, sums, column, row, middle, height, width)


@triton.jit
def _of_tiles(partials, n, c, tiles, blocks_c, value, t):
    """One value of the tiles ``t`` in float64, 0 beyond the last."""
    pointers = partials + ((n * tiles + t)[:, None] * VALUES + value) * blocks_c + c[None, :]
    return tl.load(pointers, mask=(t < tiles)[:, None], other=0.0).to(tl.float64)


@triton.jit
def highest_peak(partials, n, c, tiles, blocks_c, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr):
    """The highest peak of all tiles, ``[channels]``."""
    highest = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        peak = _of_tiles(partials, n, c, tiles, blocks_c, 0, t).to(tl.float32)
        highest = tl.maximum(highest, tl.max(tl.where((t < tiles)[:, None], peak, float("-inf")), 0))
    return highest


@triton.jit
def weights_of_tiles(partials, n, c, tiles, blocks_c, highest, t, OVER_PIXELS: tl.constexpr):
    """What tiles count for beside the one with the highest peak, and that times their masses."""
    mass = _of_tiles(partials, n, c, tiles, blocks_c, 1, t)
    if OVER_PIXELS:
        peak = _of_tiles(partials, n, c, tiles, blocks_c, 0, t).to(tl.float32)
        peak = tl.where((t < tiles)[:, None], peak, float("-inf"))
        fade = tl.exp2(peak - finite_peak(highest)[None, :]).to(tl.float64)
    else:
        fade = tl.where((t < tiles)[:, None], 1.0, 0.0).to(tl.float64)
    return fade, mass * fade


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
        highest = highest_peak(partials, n, c, tiles, blocks_c, BLOCK_C, BLOCK_T)
    total = tl.zeros((BLOCK_C,), tl.float64)
    x = tl.zeros((BLOCK_C,), tl.float64)
    y = tl.zeros((BLOCK_C,), tl.float64)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        fade, weight = weights_of_tiles(partials, n, c, tiles, blocks_c, highest, t, OVER_PIXELS)
        total += tl.sum(weight, 0)
        x += tl.sum(weight * _of_tiles(partials, n, c, tiles, blocks_c, 2, t), 0)
        y += tl.sum(weight * _of_tiles(partials, n, c, tiles, blocks_c, 3, t), 0)
    # across pixels the weights are made to sum to one
    inverse = inverse_total(total) if OVER_PIXELS else 1.0 / (total + eps)
    mean_x = x * inverse
    mean_y = y * inverse
    xx = tl.zeros((BLOCK_C,), tl.float64)
    yy = tl.zeros((BLOCK_C,), tl.float64)
    xy = tl.zeros((BLOCK_C,), tl.float64)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        fade, weight = weights_of_tiles(partials, n, c, tiles, blocks_c, highest, t, OVER_PIXELS)
        dx = _of_tiles(partials, n, c, tiles, blocks_c, 2, t) - mean_x[None, :]
        dy = _of_tiles(partials, n, c, tiles, blocks_c, 3, t) - mean_y[None, :]
        xx += tl.sum(fade * _of_tiles(partials, n, c, tiles, blocks_c, 4, t) + weight * dx * dx, 0)
        yy += tl.sum(fade * _of_tiles(partials, n, c, tiles, blocks_c, 5, t) + weight * dy * dy, 0)
        xy += tl.sum(fade * _of_tiles(partials, n, c, tiles, blocks_c, 6, t) + weight * dx * dy, 0)
    landmark = c < count
    k = n * count + c
    tl.store(coords + 2 * k, (step_x * mean_x).to(tl.float32), mask=landmark)
    tl.store(coords + 2 * k + 1, (step_y * mean_y).to(tl.float32), mask=landmark)
    tl.store(mass + k, (total * inverse if OVER_PIXELS else total).to(tl.float32), mask=landmark)
    values: tl.constexpr = 3 if COVARIANCE else 2
    tl.store(variance + values * k, (xx * inverse * to_x * to_x).to(tl.float32), mask=landmark)
    tl.store(variance + values * k + 1, (yy * inverse * to_y * to_y).to(tl.float32), mask=landmark)
    if COVARIANCE:
        tl.store(variance + values * k + 2, (xy * inverse * to_x * to_y).to(tl.float32), mask=landmark)
