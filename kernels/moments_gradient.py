"""Gradient of the logits from those of the moments: a map of the pixels, nothing summed over the image.

See the reference of heatmap_moments: ``dz = q (h - sum q h) / T`` with ``h`` a parabola about each landmark.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .softmax import across_channels, finite_peak, inverse_total, running
from .spatial_moments import highest_peak, weights_of_tiles
from .tile import load_tile, store_tile, tile_axes


@triton.jit
def upstream(grad, offset, landmark):
    """An upstream gradient, 0 where there is none and for the background."""
    if grad is None:
        value = tl.zeros(landmark.shape, tl.float32)
    else:
        value = tl.load(grad + offset, mask=landmark, other=0.0).to(tl.float32)
    return value


@triton.jit
def _slopes(
    upstreams, saved, strides, n, c, count, widths, eps, DIVIDED: tl.constexpr, COVARIANCE: tl.constexpr
):
    """Coefficients of ``h(p)``, the derivative by a pixel's probability, in the offset (dx, dy) from the landmark."""
    grad_coords, grad_variance, grad_mass = upstreams
    coords, variance, mass = saved
    coords_n, coords_k, coords_j, variance_n, variance_k, variance_j, mass_n, mass_k = strides
    width_x, width_y = widths
    landmark = c < count
    k = n * count + c
    x = tl.load(coords + 2 * k, mask=landmark, other=0.0).to(tl.float32)
    y = tl.load(coords + 2 * k + 1, mask=landmark, other=0.0).to(tl.float32)
    values: tl.constexpr = 3 if COVARIANCE else 2
    level = upstream(grad_mass, n * mass_n + c * mass_k, landmark)
    inverse = tl.full(landmark.shape, 1.0, tl.float32)
    pull = tl.zeros(landmark.shape, tl.float32)
    if DIVIDED:
        inverse = 1.0 / (tl.load(mass + k, mask=landmark, other=1.0).to(tl.float32) + eps)
        pull = eps * inverse
    else:
        level = tl.zeros(landmark.shape, tl.float32)
    at = n * coords_n + c * coords_k
    slope_x = upstream(grad_coords, at, landmark)
    slope_y = upstream(grad_coords, at + coords_j, landmark)
    at = n * variance_n + c * variance_k
    g_xx = upstream(grad_variance, at, landmark)
    g_yy = upstream(grad_variance, at + variance_j, landmark)
    level_xy = g_xx * tl.load(variance + values * k, mask=landmark, other=0.0).to(tl.float32)
    level_xy += g_yy * tl.load(variance + values * k + 1, mask=landmark, other=0.0).to(tl.float32)
    square_x = width_x * width_x * g_xx
    square_y = width_y * width_y * g_yy
    cross = tl.zeros(landmark.shape, tl.float32)
    if COVARIANCE:
        g_xy = upstream(grad_variance, at + 2 * variance_j, landmark)
        level_xy += g_xy * tl.load(variance + values * k + 2, mask=landmark, other=0.0).to(tl.float32)
        cross = width_x * width_y * g_xy
    slope_x = (slope_x - 2 * pull * x * square_x - pull * y * cross) * inverse
    slope_y = (slope_y - 2 * pull * y * square_y - pull * x * cross) * inverse
    parabola_x = (x, slope_x, square_x * inverse)
    parabola_y = (y, slope_y, square_y * inverse)
    return parabola_x, parabola_y, cross * inverse, level - level_xy * inverse


@triton.jit
def _by_probability(slopes, place_x, place_y):
    """``h(p)`` of a tile ``[channels, rows, columns]``."""
    parabola_x, parabola_y, cross, level = slopes
    x, slope_x, square_x = parabola_x
    y, slope_y, square_y = parabola_y
    dx = place_x[None, :] - x[:, None]
    dy = place_y[None, :] - y[:, None]
    along_x = (square_x[:, None] * dx + slope_x[:, None]) * dx + level[:, None]
    along_y = (square_y[:, None] * dy + slope_y[:, None]) * dy
    return along_x[:, None, :] + along_y[:, :, None] + (cross[:, None] * dx)[:, None, :] * dy[:, :, None]


@triton.jit
def heatmap_moments_backward_channels(
    grad_coords,
    grad_variance,
    grad_mass,
    logits,
    coords,
    variance,
    mass,
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
    CHUNKED: tl.constexpr,
    COVARIANCE: tl.constexpr,
):
    """The gradient of a tile, softmax across channels: one read, one write."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    place_x = half_x * (2 * column - (width - 1)).to(tl.float32)
    base = logits + n * stride_n
    upstreams = (grad_coords, grad_variance, grad_mass)
    saved = (coords, variance, mass)
    strides = (coords_n, coords_k, coords_j, variance_n, variance_k, variance_j, mass_n, mass_k)
    widths = (width_x, width_y)
    slopes = _slopes(upstreams, saved, strides, n, c, count, widths, eps, True, COVARIANCE)
    for step in range(STEPS):
        row = first + step * ROWS
        place_y = half_y * (2 * row - (height - 1)).to(tl.float32)
        z = scale * load_tile(
            base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, float("-inf")
        )
        h = _by_probability(slopes, place_x, place_y)
        if CHUNKED:
            peak = tl.full((ROWS, BLOCK_W), float("-inf"), tl.float32)
            total = tl.zeros((ROWS, BLOCK_W), tl.float32)
            expected = tl.zeros((ROWS, BLOCK_W), tl.float32)
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
                theirs = _slopes(upstreams, saved, strides, n, other, count, widths, eps, True, COVARIANCE)
                peak, total, fade = running(peak, total, others)
                weight = tl.exp2(others - finite_peak(peak)[None, :, :])
                expected = expected * fade + tl.sum(weight * _by_probability(theirs, place_x, place_y), 0)
            inverse = inverse_total(total)
            q = tl.exp2(z - finite_peak(peak)[None, :, :]) * inverse[None, :, :]
            by_logit = q * (h - (expected * inverse)[None, :, :])
        else:
            q = across_channels(z)
            by_logit = q * (h - tl.sum(q * h, 0)[None, :, :])
        by_logit = by_logit * inverse_temperature
        store_tile(grad + n * out_n, by_logit, c, channels, row, column, height, width, out_c, out_h, out_w)


@triton.jit
def heatmap_moments_backward_pixels(
    grad_coords,
    grad_variance,
    logits,
    coords,
    variance,
    partials,
    grad,
    coords_n,
    coords_k,
    coords_j,
    variance_n,
    variance_k,
    variance_j,
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
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    COVARIANCE: tl.constexpr,
):
    """The gradient of a tile, softmax across pixels, whose peaks and totals are in ``partials``.

    The sum of q h over the map is 0, because h is about the landmark; a background takes no part.
    """
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    place_x = half_x * (2 * column - (width - 1)).to(tl.float32)
    strides = (coords_n, coords_k, coords_j, variance_n, variance_k, variance_j, 0, 0)
    upstreams = (grad_coords, grad_variance, None)
    saved = (coords, variance, variance)
    slopes = _slopes(upstreams, saved, strides, n, c, count, (width_x, width_y), 0.0, False, COVARIANCE)
    highest = highest_peak(partials, n, c, partial_tiles, blocks_c, BLOCK_C, BLOCK_T)
    total = tl.zeros((BLOCK_C,), tl.float64)
    for t in range(0, partial_tiles, BLOCK_T):
        fade, weight = weights_of_tiles(
            partials, n, c, partial_tiles, blocks_c, highest, t + tl.arange(0, BLOCK_T), True
        )
        total += tl.sum(weight, 0)
    share = tl.where(c < count, inverse_total(total.to(tl.float32)), 0.0) * inverse_temperature
    highest = finite_peak(highest)
    for step in range(STEPS):
        row = first + step * ROWS
        place_y = half_y * (2 * row - (height - 1)).to(tl.float32)
        z = scale * load_tile(
            logits + n * stride_n,
            c,
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
        q = tl.exp2(z - highest[:, None, None]) * share[:, None, None]
        by_logit = q * _by_probability(slopes, place_x, place_y)
        store_tile(grad + n * out_n, by_logit, c, channels, row, column, height, width, out_c, out_h, out_w)
