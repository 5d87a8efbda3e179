"""Features to landmarks: the weighted mean of a feature map for each channel; see the reference of this name.

A program owns a tile of pixels and a block of features: the tile's weights times its features is a matrix product,
whose sum over the tiles a second kernel takes in float64. Backward, a tile's weights are made again, and both
gradients come from products with the upstream gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gaussian_axes import (
    INVERSE_SQUARE,
    axis_block,
    axis_softmax,
    axis_weights,
    frame_numbers,
    load_points,
)
from .launch import Launch, described, planned
from .launch_table import architecture, configuration, overrides
from .softmax import across_channels, finite_peak, inverse_total, running
from .tile import Tiling, channel_block, load_tile, store_tile, summed_parts, tile_axes


@triton.jit
def _flat(base, c, channels, row, column, height, width, strides, other):
    """A tile ``[channels, pixels]`` in float32, ``other`` outside."""
    values = load_tile(
        base, c, channels, row, column, height, width, strides[0], strides[1], strides[2], other
    )
    return tl.reshape(values, (c.shape[0], row.shape[0] * column.shape[0]))


@triton.jit
def _across(base, channels, row, column, height, width, strides, scale, BLOCK_C: tl.constexpr):
    """Peak and total at each pixel over all channels, chunk by chunk."""
    peak = tl.full((row.shape[0] * column.shape[0],), float("-inf"), tl.float32)
    total = tl.zeros((row.shape[0] * column.shape[0],), tl.float32)
    for chunk in range(0, channels, BLOCK_C):
        c = chunk + tl.arange(0, BLOCK_C)
        z = scale * _flat(base, c, channels, row, column, height, width, strides, float("-inf"))
        peak, total, _fade = running(peak, total, z)
    return finite_peak(peak), inverse_total(total)


@triton.jit
def landmark_pool_partials(
    features,
    logits,
    partials,
    peaks,
    masses,
    feature_n,
    feature_c,
    feature_h,
    feature_w,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    channels,
    width_s,
    height,
    width,
    tiles_x,
    tiles,
    scale,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    CHUNKED: tl.constexpr,
    OVER_PIXELS: tl.constexpr,
):
    """Weighted sums of a tile, ``partials (N, tiles, C, S)``, and its peaks and masses ``(N, tiles, C)``.

    Without features only the peaks and masses.
    """
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = tl.program_id(2) * BLOCK_S + tl.arange(0, BLOCK_S)
    base = logits + n * stride_n
    strides = (stride_c, stride_h, stride_w)
    pooled = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    mass = tl.zeros((BLOCK_C, ROWS * BLOCK_W), tl.float32)
    peak = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        z = scale * _flat(base, c, channels, row, column, height, width, strides, float("-inf"))
        if OVER_PIXELS:
            higher = tl.maximum(peak, tl.max(z, 1))
            fade = tl.exp2(peak - finite_peak(higher))
            q = tl.exp2(z - finite_peak(higher)[:, None])
            mass = mass * fade[:, None]
            pooled = pooled * fade[:, None]
            peak = higher
        elif CHUNKED:
            top, inverse = _across(base, channels, row, column, height, width, strides, scale, BLOCK_C)
            q = tl.exp2(z - top[None, :]) * inverse[None, :]
        else:
            q = across_channels(z)
        mass += q
        if features is not None:
            f_strides = (feature_c, feature_h, feature_w)
            f = _flat(features + n * feature_n, s, width_s, row, column, height, width, f_strides, 0.0)
            pooled = tl.dot(q, tl.trans(f), pooled, input_precision="ieee")
    part = (n * tiles + program % tiles) * channels + c
    # the first block of features stores what all of them find
    stored = (c < channels) & (tl.program_id(2) == 0)
    tl.store(masses + part, tl.sum(mass, 1), mask=stored)
    if OVER_PIXELS:
        tl.store(peaks + part, peak, mask=stored)
    if features is not None:
        mask = (c < channels)[:, None] & (s < width_s)[None, :]
        tl.store(partials + part[:, None] * width_s + s[None, :], pooled, mask=mask)


@triton.jit
def _of_parts(values, n, parts, channels, t, c, other):
    """Values of ``(N, parts, channels)`` at parts ``t`` and channels ``c``."""
    mask = (t < parts)[:, None] & (c < channels)[None, :]
    return tl.load(values + (n * parts + t)[:, None] * channels + c[None, :], mask=mask, other=other).to(
        tl.float32
    )


@triton.jit
def _highest(peaks, n, parts, channels, c, BLOCK_T: tl.constexpr):
    """The highest peak of all tiles, or 0 where there is none."""
    highest = tl.full(c.shape, float("-inf"), tl.float32)
    for first in range(0, parts, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        highest = tl.maximum(highest, tl.max(_of_parts(peaks, n, parts, channels, t, c, float("-inf")), 0))
    return finite_peak(highest)


@triton.jit
def landmark_pool_finish(
    partials,
    peaks,
    masses,
    pooled,
    mass,
    channels,
    width_s,
    tiles,
    eps,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    OVER_PIXELS: tl.constexpr,
):
    """All tiles together, in float64: the mean features and the masses."""
    n = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    c = v // width_s
    highest = tl.zeros((BLOCK_V,), tl.float32)
    if OVER_PIXELS:
        highest = _highest(peaks, n, tiles, channels, c, BLOCK_T)
    total = tl.zeros((BLOCK_V,), tl.float64)
    amount = tl.zeros((BLOCK_V,), tl.float64)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        part = _of_parts(masses, n, tiles, channels, t, c, 0.0).to(tl.float64)
        values = _of_parts(partials, n, tiles, channels * width_s, t, v, 0.0).to(tl.float64)
        if OVER_PIXELS:
            peak = _of_parts(peaks, n, tiles, channels, t, c, float("-inf"))
            fade = tl.exp2(peak - highest[None, :]).to(tl.float64)
            part = part * fade
            values = values * fade
        total += tl.sum(part, 0)
        amount += tl.sum(values, 0)
    if OVER_PIXELS:
        inverse = inverse_total(total)
        total = tl.where(total == 0.0, 0.0, total * inverse)
    else:
        inverse = 1.0 / (total + eps)
    inside = v < channels * width_s
    tl.store(pooled + n * channels * width_s + v, (amount * inverse).to(tl.float32), mask=inside)
    tl.store(mass + n * channels + c, total.to(tl.float32), mask=inside & (v % width_s == 0))


@triton.jit
def _upstream(grad, mass, c, channels, s, width_s, grad_c, grad_s, eps, DIVIDED: tl.constexpr):
    """An image's upstream gradient ``[channels, features]`` over the divisor, 0 where there is none."""
    if grad is None:
        value = tl.zeros((c.shape[0], s.shape[0]), tl.float32)
    else:
        pointers = grad + c.to(tl.int64)[:, None] * grad_c + s.to(tl.int64)[None, :] * grad_s
        inside = (c < channels)[:, None] & (s < width_s)[None, :]
        value = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
        if DIVIDED:
            divisor = tl.load(mass + c, mask=c < channels, other=1.0).to(tl.float32) + eps
            value = value / divisor[:, None]
    return value


@triton.jit
def _by_weight(
    grad, grad_mass, grad_strides, given, c, place, f_strides, DIVIDED: tl.constexpr, BLOCK_S: tl.constexpr
):
    """``h``, the derivative by the weights, of a tile ``[channels, pixels]``."""
    pooled, mass, features, channels, width_s, eps = given
    row, column, height, width = place
    grad_c, grad_s, mass_c = grad_strides
    h = tl.zeros((c.shape[0], row.shape[0] * column.shape[0]), tl.float32)
    level = tl.zeros(c.shape, tl.float32)
    if DIVIDED and grad_mass is not None:
        level = tl.load(grad_mass + c.to(tl.int64) * mass_c, mask=c < channels, other=0.0).to(tl.float32)
    if grad is not None:
        for block in range(0, width_s, BLOCK_S):
            s = block + tl.arange(0, BLOCK_S)
            g = _upstream(grad, mass, c, channels, s, width_s, grad_c, grad_s, eps, DIVIDED)
            inside = (c < channels)[:, None] & (s < width_s)[None, :]
            mean = tl.load(pooled + c[:, None] * width_s + s[None, :], mask=inside, other=0.0).to(tl.float32)
            level -= tl.sum(g * mean, 1)
            f = _flat(features, s, width_s, row, column, height, width, f_strides, 0.0)
            h = tl.dot(g, f, h, input_precision="ieee")
    return h + level[:, None]


@triton.jit
def _weights(
    base,
    n,
    c,
    channels,
    place,
    strides,
    scale,
    of_pixels,
    peaks,
    masses,
    parts,
    BLOCK_T: tl.constexpr,
    OVER_PIXELS: tl.constexpr,
):
    """A tile of the softmax ``[channels, pixels]``, from each pixel's or each channel's peak and total."""
    row, column, height, width = place
    z = scale * _flat(base, c, channels, row, column, height, width, strides, float("-inf"))
    if OVER_PIXELS:
        highest = _highest(peaks, n, parts, channels, c, BLOCK_T)
        total = tl.zeros(c.shape, tl.float64)
        for first in range(0, parts, BLOCK_T):
            t = first + tl.arange(0, BLOCK_T)
            peak = _of_parts(peaks, n, parts, channels, t, c, float("-inf"))
            mass = _of_parts(masses, n, parts, channels, t, c, 0.0)
            total += tl.sum((mass * tl.exp2(peak - highest[None, :])).to(tl.float64), 0)
        inverse = inverse_total(total).to(tl.float32)
        q = tl.exp2(z - highest[:, None]) * inverse[:, None]
    else:
        q = tl.exp2(z - of_pixels[0][None, :]) * of_pixels[1][None, :]
    return q


@triton.jit
def landmark_pool_backward_map(
    grad,
    grad_mass,
    features,
    logits,
    pooled,
    mass,
    peaks,
    masses,
    grad_features,
    grad_logits,
    grad_n,
    grad_c,
    grad_s,
    mass_n,
    mass_c,
    feature_n,
    feature_c,
    feature_h,
    feature_w,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    out_f_n,
    out_f_c,
    out_f_h,
    out_f_w,
    out_n,
    out_c,
    out_h,
    out_w,
    channels,
    width_s,
    height,
    width,
    tiles_x,
    tiles,
    parts,
    scale,
    inverse_temperature,
    eps,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    CHUNKED: tl.constexpr,
    OVER_PIXELS: tl.constexpr,
):
    """Both gradients of a tile: ``dF = sum_k g_k q_k`` and ``dz = q (h - sum q h) / T``."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, row = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    place = (row, column, height, width)
    base = logits + n * stride_n
    strides = (stride_c, stride_h, stride_w)
    f_strides = (feature_c, feature_h, feature_w)
    grad_strides = (grad_c, grad_s, mass_c)
    of_image = mass + n * channels
    given = (pooled + n * channels * width_s, of_image, features + n * feature_n, channels, width_s, eps)
    if grad is not None:
        grad = grad + n * grad_n
    if grad_mass is not None:
        grad_mass = grad_mass + n * mass_n
    of_pixels = (tl.zeros((ROWS * BLOCK_W,), tl.float32), tl.zeros((ROWS * BLOCK_W,), tl.float32))
    if not OVER_PIXELS:
        of_pixels = _across(base, channels, row, column, height, width, strides, scale, BLOCK_C)
    if grad_logits is not None:
        expected = tl.zeros((ROWS * BLOCK_W,), tl.float32)
        # across pixels nothing is to be taken away: h is about the mean
        if CHUNKED and not OVER_PIXELS:
            for chunk in range(0, channels, BLOCK_C):
                c = chunk + tl.arange(0, BLOCK_C)
                h = _by_weight(grad, grad_mass, grad_strides, given, c, place, f_strides, True, BLOCK_S)
                q = _weights(
                    base,
                    n,
                    c,
                    channels,
                    place,
                    strides,
                    scale,
                    of_pixels,
                    peaks,
                    masses,
                    parts,
                    BLOCK_T,
                    OVER_PIXELS,
                )
                expected += tl.sum(q * h, 0)
        for chunk in range(0, channels, BLOCK_C):
            c = chunk + tl.arange(0, BLOCK_C)
            h = _by_weight(
                grad, grad_mass, grad_strides, given, c, place, f_strides, not OVER_PIXELS, BLOCK_S
            )
            q = _weights(
                base,
                n,
                c,
                channels,
                place,
                strides,
                scale,
                of_pixels,
                peaks,
                masses,
                parts,
                BLOCK_T,
                OVER_PIXELS,
            )
            if not OVER_PIXELS and not CHUNKED:
                expected = tl.sum(q * h, 0)
            dz = tl.reshape(q * (h - expected[None, :]) * inverse_temperature, (BLOCK_C, ROWS, BLOCK_W))
            store_tile(
                grad_logits + n * out_n, dz, c, channels, row, column, height, width, out_c, out_h, out_w
            )
    if grad_features is not None:
        for block in range(0, width_s, BLOCK_S):
            s = block + tl.arange(0, BLOCK_S)
            spread = tl.zeros((BLOCK_S, ROWS * BLOCK_W), tl.float32)
            for chunk in range(0, channels, BLOCK_C):
                c = chunk + tl.arange(0, BLOCK_C)
                q = _weights(
                    base,
                    n,
                    c,
                    channels,
                    place,
                    strides,
                    scale,
                    of_pixels,
                    peaks,
                    masses,
                    parts,
                    BLOCK_T,
                    OVER_PIXELS,
                )
                g = _upstream(grad, of_image, c, channels, s, width_s, grad_c, grad_s, eps, not OVER_PIXELS)
                spread = tl.dot(tl.trans(g), q, spread, input_precision="ieee")
            df = tl.reshape(spread, (BLOCK_S, ROWS, BLOCK_W))
            store_tile(
                grad_features + n * out_f_n,
                df,
                s,
                width_s,
                row,
                column,
                height,
                width,
                out_f_c,
                out_f_h,
                out_f_w,
            )


@triton.jit
def _gaussian(coords, sigma, k, count, strides, frame, row, column, BLOCK_A: tl.constexpr):
    """Weights of a tile along its columns and rows, and there the offset and its square, both about their means."""
    at_k, at_j, sigma_k = strides
    height, width, half_x, half_y, scale_x, scale_y = frame
    x, y = load_points(coords, k, count, at_k, at_j)
    spread = tl.load(sigma + k.to(tl.int64) * sigma_k, mask=k < count, other=1.0).to(tl.float32)
    precision = 1.0 / (INVERSE_SQUARE * spread * spread)
    near, lead, inverse, mean_x, square_x = axis_softmax(x, precision, width, half_x, scale_x, BLOCK_A)
    dx, excess_x, along_x = axis_weights(column, near, lead, precision, width, 2 * half_x * scale_x)
    along_x = along_x * inverse[:, None]
    near, lead, inverse, mean_y, square_y = axis_softmax(y, precision, height, half_y, scale_y, BLOCK_A)
    dy, excess_y, along_y = axis_weights(row, near, lead, precision, height, 2 * half_y * scale_y)
    along_y = along_y * inverse[:, None]
    of_x = (along_x, dx - mean_x[:, None], excess_x - square_x[:, None])
    return of_x, (along_y, dy - mean_y[:, None], excess_y - square_y[:, None]), spread


@triton.jit
def gaussian_pool_partials(
    features,
    coords,
    sigma,
    partials,
    feature_n,
    feature_c,
    feature_h,
    feature_w,
    at_n,
    at_k,
    at_j,
    sigma_n,
    sigma_k,
    count,
    width_s,
    height,
    width,
    tiles_x,
    tiles,
    half_x,
    half_y,
    scale_x,
    scale_y,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_A: tl.constexpr,
):
    """Weighted sums of a tile: ``partials (N, tiles, K, S)``."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, row = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    k = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = tl.program_id(2) * BLOCK_S + tl.arange(0, BLOCK_S)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    strides = (at_k, at_j, sigma_k)
    of_x, of_y, _spread = _gaussian(
        coords + n * at_n, sigma + n * sigma_n, k, count, strides, frame, row, column, BLOCK_A
    )
    w = tl.reshape(of_y[0][:, :, None] * of_x[0][:, None, :], (BLOCK_C, ROWS * BLOCK_W))
    f_strides = (feature_c, feature_h, feature_w)
    f = _flat(features + n * feature_n, s, width_s, row, column, height, width, f_strides, 0.0)
    pooled = tl.dot(w, tl.trans(f), input_precision="ieee")
    part = (n * tiles + program % tiles) * count + k
    mask = (k < count)[:, None] & (s < width_s)[None, :]
    tl.store(partials + part[:, None] * width_s + s[None, :], pooled, mask=mask)


@triton.jit
def gaussian_pool_finish(partials, pooled, parts, values, BLOCK_V: tl.constexpr, BLOCK_T: tl.constexpr):
    """The mean features: sums over tiles."""
    n = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    total = summed_parts(partials, n, parts, values, v, BLOCK_T)
    tl.store(pooled + n * values + v, total.to(tl.float32), mask=v < values)


@triton.jit
def gaussian_pool_backward_map(
    grad,
    features,
    coords,
    sigma,
    grad_features,
    partials,
    grad_n,
    grad_c,
    grad_s,
    feature_n,
    feature_c,
    feature_h,
    feature_w,
    out_n,
    out_c,
    out_h,
    out_w,
    at_n,
    at_k,
    at_j,
    sigma_n,
    sigma_k,
    count,
    width_s,
    height,
    width,
    tiles_x,
    tiles,
    blocks_s,
    half_x,
    half_y,
    scale_x,
    scale_y,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_A: tl.constexpr,
):
    """A block of the features' gradient, and its part of the landmarks': ``partials (N, tiles blocks_s, 3 K)``.

    The sum over features is linear in them, so that each block of features can have a part of its own.
    """
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, row = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    s = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    strides = (at_k, at_j, sigma_k)
    f_strides = (feature_c, feature_h, feature_w)
    part = (n * tiles + program % tiles) * blocks_s + tl.program_id(1)
    df = tl.zeros((BLOCK_S, ROWS * BLOCK_W), tl.float32)
    for chunk in range(0, count, BLOCK_C):
        k = chunk + tl.arange(0, BLOCK_C)
        of_x, of_y, spread = _gaussian(
            coords + n * at_n, sigma + n * sigma_n, k, count, strides, frame, row, column, BLOCK_A
        )
        w = of_y[0][:, :, None] * of_x[0][:, None, :]
        g = _upstream(grad + n * grad_n, grad, k, count, s, width_s, grad_c, grad_s, 0.0, False)
        if grad_features is not None:
            flat = tl.reshape(w, (BLOCK_C, ROWS * BLOCK_W))
            df = tl.dot(tl.trans(g), flat, df, input_precision="ieee")
        if partials is not None:
            f = _flat(features + n * feature_n, s, width_s, row, column, height, width, f_strides, 0.0)
            by_weight = tl.dot(g, f, input_precision="ieee")
            moved = w * tl.reshape(by_weight, (BLOCK_C, ROWS, BLOCK_W))
            by_column = tl.sum(moved, 1)
            by_row = tl.sum(moved, 2)
            square = 1.0 / (spread * spread)
            widened = tl.sum(by_column * of_x[2], 1) + tl.sum(by_row * of_y[2], 1)
            pointers = partials + part * (3 * count) + k
            tl.store(pointers + k, tl.sum(by_column * of_x[1], 1) * square * scale_x, mask=k < count)
            tl.store(pointers + k + 1, tl.sum(by_row * of_y[1], 1) * square * scale_y, mask=k < count)
            tl.store(pointers + 2 * count, widened * square / spread, mask=k < count)
    if grad_features is not None:
        store_tile(
            grad_features + n * out_n,
            tl.reshape(df, (BLOCK_S, ROWS, BLOCK_W)),
            s,
            width_s,
            row,
            column,
            height,
            width,
            out_c,
            out_h,
            out_w,
        )


@triton.jit
def gaussian_pool_backward_finish(
    partials, grad_coords, grad_sigma, parts, count, BLOCK_V: tl.constexpr, BLOCK_T: tl.constexpr
):
    """Gradients of the coordinates and of sigma: sums over tiles."""
    n = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    total = summed_parts(partials, n, parts, 3 * count, v, BLOCK_T).to(tl.float32)
    of_coords = v < 2 * count
    tl.store(grad_coords + n * 2 * count + v, total.to(grad_coords.dtype.element_ty), mask=of_coords)
    pointers = grad_sigma + n * count + (v - 2 * count)
    tl.store(pointers, total.to(grad_sigma.dtype.element_ty), mask=(v < 3 * count) & (v >= 2 * count))


def landmark_pool(
    features: Tensor, logits: Tensor, over: str, temperature: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Pooled features ``(N, C, S)`` and mass ``(N, C)``, in float32."""
    plan = _forward_plan(*described(features), *described(logits)[:3], over, temperature, eps, overrides())
    batch, channels = logits.shape[:2]
    pooled = features.new_empty((batch, channels, features.shape[1]), dtype=torch.float32)
    mass = features.new_empty((batch, channels), dtype=torch.float32)
    sums = plan.sums(features)
    plan.first(features, logits, *sums)
    plan.last(*sums, pooled, mass)
    return pooled, mass


def landmark_pool_backward(
    grad_pooled: Tensor | None,
    grad_mass: Tensor | None,
    features: Tensor,
    logits: Tensor,
    pooled: Tensor,
    mass: Tensor,
    over: str,
    temperature: float,
    eps: float,
    need_features: bool,
    need_logits: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the features and of the logits, each in its tensor's dtype and layout."""
    grad_features = torch.empty_like(features) if need_features else features.new_empty((0,))
    grad_logits = torch.empty_like(logits) if need_logits else logits.new_empty((0,))
    if not (need_features or need_logits):
        return grad_features, grad_logits
    plan = _backward_plan(
        *described(features),
        *described(logits)[:3],
        None if grad_pooled is None else grad_pooled.stride(),
        None if grad_mass is None else grad_mass.stride(),
        grad_features.stride() if need_features else None,
        grad_logits.stride() if need_logits else None,
        over,
        temperature,
        eps,
        overrides(),
    )
    sums = plan.sums(features)
    if over == "pixels":
        plan.first(None, logits, None, *sums)
    plan.last(
        grad_pooled,
        grad_mass,
        features,
        logits,
        pooled.contiguous(),
        mass.contiguous(),
        *sums,
        grad_features if need_features else None,
        grad_logits if need_logits else None,
    )
    return grad_features, grad_logits


def gaussian_pool(features: Tensor, coords: Tensor, sigma: Tensor, align_corners: bool) -> Tensor:
    """Pooled features ``(N, K, S)``, in float32; ``sigma`` is ``(N, K)``."""
    plan = _gaussian_plan(
        *described(features), coords.shape[1], coords.stride(), sigma.stride(), align_corners, overrides()
    )
    size = (features.shape[0], coords.shape[1], features.shape[1])
    pooled = features.new_empty(size, dtype=torch.float32)
    sums = plan.sums(features)
    plan.first(features, coords, sigma, *sums)
    plan.last(*sums, pooled)
    return pooled


def gaussian_pool_backward(
    grad: Tensor,
    features: Tensor,
    coords: Tensor,
    sigma: Tensor,
    align_corners: bool,
    need_features: bool,
    need_landmarks: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the features, and of the coordinates and sigma."""
    grad_features = torch.empty_like(features) if need_features else features.new_empty((0,))
    grad_coords = coords.new_empty(coords.shape if need_landmarks else (0,))
    grad_sigma = sigma.new_empty(sigma.shape if need_landmarks else (0,))
    if need_features or need_landmarks:
        plan = _gaussian_backward_plan(
            *described(features),
            coords.shape[1],
            coords.stride(),
            sigma.stride(),
            grad.stride(),
            grad_features.stride() if need_features else None,
            need_landmarks,
            align_corners,
            overrides(),
        )
        (sums,) = plan.sums(features)
        plan.first(grad, features, coords, sigma, grad_features if need_features else None, sums)
        if need_landmarks:
            plan.last(sums, grad_coords, grad_sigma)
    return grad_features, grad_coords, grad_sigma


class _Plan:
    """Launches of one kind of call, and the sizes of what the first leaves for the last."""

    def __init__(self, first: Any, last: Any, workspace: Sequence[tuple[int, ...] | None]) -> None:
        self.first = first
        self.last = last
        self.workspace = workspace

    def sums(self, like: Tensor) -> list[Tensor | None]:
        """What the first launch leaves for the last."""
        return [like.new_empty(size, dtype=torch.float32) if size else None for size in self.workspace]


class _Blocks:
    """Tiles of a map, and how many channels and features a program takes, for one kernel of the launch table."""

    def __init__(
        self, kernel: str, shape: torch.Size, channels: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        width_s, height, width = shape[1:]
        entry = configuration(kernel, architecture(device), channels, height * width, dtype.itemsize)
        self.tiling = Tiling((height, width), entry)
        self.tiles = self.tiling.tiles
        block_c = min(channel_block(channels, 16), entry["BLOCK_C"])
        block_s = min(channel_block(width_s, 16), entry["BLOCK_S"])
        self.chunks = -(-channels // block_c)
        self.blocks_s = -(-width_s // block_s)
        self.constants = {"BLOCK_C": block_c, "BLOCK_S": block_s, **self.tiling.constants}
        self.options = self.tiling.options


def _finishing(
    kernel: str, device: torch.device, values: int, parts: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Blocks and options of a kernel that sums so many parts of so many values."""
    entry = configuration(kernel, architecture(device), values, parts, 4)
    blocks = {
        "BLOCK_V": min(entry["BLOCK_V"], triton.next_power_of_2(values)),
        "BLOCK_T": min(entry["BLOCK_T"], triton.next_power_of_2(parts)),
    }
    return blocks, {"num_warps": entry["num_warps"]}


def _partials_launch(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    channels: int,
    logits_stride: tuple[int, ...],
    over: str,
    temperature: float,
    with_features: bool,
) -> tuple[_Blocks, Launch]:
    """Sums of tiles, or without features only their peaks and masses."""
    b = _Blocks("landmark_pool_partials", shape, channels, dtype, device)
    width_s, height, width = shape[1:]
    launch = Launch(
        landmark_pool_partials,
        (shape[0] * b.tiles, b.chunks, b.blocks_s if with_features else 1),
        (
            *stride,
            *logits_stride,
            channels,
            width_s,
            height,
            width,
            b.tiling.tiles_x,
            b.tiles,
            math.log2(math.e) / temperature,
        ),
        {**b.constants, "CHUNKED": b.chunks > 1, "OVER_PIXELS": over == "pixels"},
        b.options,
    )
    return b, launch


@planned
def _forward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    logits_shape: torch.Size,
    logits_stride: tuple[int, ...],
    logits_dtype: torch.dtype,
    over: str,
    temperature: float,
    eps: float,
    _overrides: object,
) -> _Plan:
    batch, channels, width_s = *logits_shape[:2], shape[1]
    b, first = _partials_launch(
        shape, stride, dtype, device, channels, logits_stride, over, temperature, True
    )
    blocks, options = _finishing("landmark_pool_finish", device, channels * width_s, b.tiles)
    last = Launch(
        landmark_pool_finish,
        (batch, -(-channels * width_s // blocks["BLOCK_V"])),
        (channels, width_s, b.tiles, eps),
        {**blocks, "OVER_PIXELS": over == "pixels"},
        options,
    )
    per_channel = (batch, b.tiles, channels)
    return _Plan(
        first, last, [(*per_channel, width_s), per_channel if over == "pixels" else None, per_channel]
    )


@planned
def _backward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    logits_shape: torch.Size,
    logits_stride: tuple[int, ...],
    logits_dtype: torch.dtype,
    grad_stride: tuple[int, ...] | None,
    mass_stride: tuple[int, ...] | None,
    out_features: tuple[int, ...] | None,
    out_logits: tuple[int, ...] | None,
    over: str,
    temperature: float,
    eps: float,
    _overrides: object,
) -> _Plan:
    batch, channels, width_s = *logits_shape[:2], shape[1]
    first, parts = None, 1
    workspace: list[tuple[int, ...] | None] = [None, None]
    if over == "pixels":
        sums, first = _partials_launch(
            shape, stride, dtype, device, channels, logits_stride, over, temperature, False
        )
        parts = sums.tiles
        workspace = [(batch, parts, channels)] * 2
    b = _Blocks("landmark_pool_backward_map", shape, channels, dtype, device)
    last = Launch(
        landmark_pool_backward_map,
        (batch * b.tiles,),
        (
            *(grad_stride or (0, 0, 0)),
            *(mass_stride or (0, 0)),
            *stride,
            *logits_stride,
            *(out_features or (0, 0, 0, 0)),
            *(out_logits or (0, 0, 0, 0)),
            channels,
            width_s,
            *shape[2:],
            b.tiling.tiles_x,
            b.tiles,
            parts,
            math.log2(math.e) / temperature,
            1 / temperature,
            eps,
        ),
        {
            **b.constants,
            "BLOCK_T": min(16, triton.next_power_of_2(parts)),
            "CHUNKED": b.chunks > 1,
            "OVER_PIXELS": over == "pixels",
        },
        b.options,
    )
    return _Plan(first, last, workspace)


@planned
def _gaussian_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    count: int,
    coords_stride: tuple[int, ...],
    sigma_stride: tuple[int, ...],
    align_corners: bool,
    _overrides: object,
) -> _Plan:
    batch, width_s, height, width = shape
    b = _Blocks("gaussian_pool_partials", shape, count, dtype, device)
    numbers = (*stride, *coords_stride, *sigma_stride, count, width_s, height, width)
    first = Launch(
        gaussian_pool_partials,
        (batch * b.tiles, b.chunks, b.blocks_s),
        (*numbers, b.tiling.tiles_x, b.tiles, *frame_numbers((height, width), align_corners)),
        {**b.constants, "BLOCK_A": axis_block((height, width))},
        b.options,
    )
    values = count * width_s
    blocks, options = _finishing("gaussian_pool_finish", device, values, b.tiles)
    grid = (batch, -(-values // blocks["BLOCK_V"]))
    last = Launch(gaussian_pool_finish, grid, (b.tiles, values), blocks, options)
    return _Plan(first, last, [(batch, b.tiles, values)])


@planned
def _gaussian_backward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    count: int,
    coords_stride: tuple[int, ...],
    sigma_stride: tuple[int, ...],
    grad_stride: tuple[int, ...],
    out_stride: tuple[int, ...] | None,
    need_landmarks: bool,
    align_corners: bool,
    _overrides: object,
) -> _Plan:
    batch, width_s, height, width = shape
    b = _Blocks("gaussian_pool_backward_map", shape, count, dtype, device)
    parts = b.tiles * b.blocks_s
    first = Launch(
        gaussian_pool_backward_map,
        (batch * b.tiles, b.blocks_s),
        (
            *grad_stride,
            *stride,
            *(out_stride or (0, 0, 0, 0)),
            *coords_stride,
            *sigma_stride,
            count,
            width_s,
            height,
            width,
            b.tiling.tiles_x,
            b.tiles,
            b.blocks_s,
            *frame_numbers((height, width), align_corners),
        ),
        {**b.constants, "BLOCK_A": axis_block((height, width))},
        b.options,
    )
    blocks, options = _finishing("gaussian_pool_backward_finish", device, 3 * count, parts)
    grid = (batch, -(-3 * count // blocks["BLOCK_V"]))
    last = Launch(gaussian_pool_backward_finish, grid, (parts, count), blocks, options)
    return _Plan(first, last, [(batch, parts, 3 * count) if need_landmarks else None])
