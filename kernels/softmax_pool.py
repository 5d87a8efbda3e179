"""Kernels of landmark_pool: features weighted by a softmax; see the reference of this operator.

A program owns a tile of pixels and a block of features: the tile's weights times its features is a matrix product,
whose sum over the tiles a second kernel takes in float64. Backward, a tile's weights are made again, and both
gradients come from products with the upstream gradient.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .softmax import across_channels, finite_peak, inverse_total, running
from .tile import load_tile, store_tile, tile_axes


@triton.jit
def load_flat(base, c, channels, row, column, height, width, strides, other):
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
        z = scale * load_flat(base, c, channels, row, column, height, width, strides, float("-inf"))
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
        z = scale * load_flat(base, c, channels, row, column, height, width, strides, float("-inf"))
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
            f = load_flat(features + n * feature_n, s, width_s, row, column, height, width, f_strides, 0.0)
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
def scaled_upstream(grad, mass, c, channels, s, width_s, grad_c, grad_s, eps, DIVIDED: tl.constexpr):
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
            g = scaled_upstream(grad, mass, c, channels, s, width_s, grad_c, grad_s, eps, DIVIDED)
            inside = (c < channels)[:, None] & (s < width_s)[None, :]
            mean = tl.load(pooled + c[:, None] * width_s + s[None, :], mask=inside, other=0.0).to(tl.float32)
            level -= tl.sum(g * mean, 1)
            f = load_flat(features, s, width_s, row, column, height, width, f_strides, 0.0)
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
    z = scale * load_flat(base, c, channels, row, column, height, width, strides, float("-inf"))
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
    tl.static_assert(STEPS == 1)
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
                g = scaled_upstream(
                    grad, of_image, c, channels, s, width_s, grad_c, grad_s, eps, not OVER_PIXELS
                )
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
