"""Kernels of gaussian_pool: features weighted by Gaussians; see the reference of landmark_pool."""

from __future__ import annotations

import triton
import triton.language as tl

from .gaussian_axes import INVERSE_SQUARE, axis_softmax, axis_weights, load_points
from .softmax_pool import load_flat, scaled_upstream
from .tile import store_tile, summed_parts, tile_axes


@triton.jit
def _axes(coords, sigma, k, count, strides, frame, BLOCK_A: tl.constexpr):
    """What the softmax along x and along y take of the whole axis, and the landmarks' widths."""
    at_k, at_j, sigma_k = strides
    height, width, half_x, half_y, scale_x, scale_y = frame
    x, y = load_points(coords, k, count, at_k, at_j)
    spread = tl.load(sigma + k.to(tl.int64) * sigma_k, mask=k < count, other=1.0).to(tl.float32)
    precision = 1.0 / (INVERSE_SQUARE * spread * spread)
    whole_x = axis_softmax(x, precision, width, half_x, scale_x, BLOCK_A)
    whole_y = axis_softmax(y, precision, height, half_y, scale_y, BLOCK_A)
    of_x = (whole_x, precision, width, 2 * half_x * scale_x)
    return of_x, (whole_y, precision, height, 2 * half_y * scale_y), spread


@triton.jit
def _along(axis, i):
    """Weights at the pixels ``i`` of an axis, and there the offset and its square, both about their means."""
    whole, precision, length, pitch = axis
    near, lead, inverse, mean, square = whole
    d, excess, weight = axis_weights(i, near, lead, precision, length, pitch)
    return weight * inverse[:, None], d - mean[:, None], excess - square[:, None]


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
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    k = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = tl.program_id(2) * BLOCK_S + tl.arange(0, BLOCK_S)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    strides = (at_k, at_j, sigma_k)
    axis_x, axis_y, _spread = _axes(coords + n * at_n, sigma + n * sigma_n, k, count, strides, frame, BLOCK_A)
    of_x = _along(axis_x, column)
    f_strides = (feature_c, feature_h, feature_w)
    pooled = tl.zeros((BLOCK_C, BLOCK_S), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        of_y = _along(axis_y, row)
        w = tl.reshape(of_y[0][:, :, None] * of_x[0][:, None, :], (BLOCK_C, ROWS * BLOCK_W))
        f = load_flat(features + n * feature_n, s, width_s, row, column, height, width, f_strides, 0.0)
        pooled = tl.dot(w, tl.trans(f), pooled, input_precision="ieee")
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
    tl.static_assert(STEPS == 1)
    column, row = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    s = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    strides = (at_k, at_j, sigma_k)
    f_strides = (feature_c, feature_h, feature_w)
    part = (n * tiles + program % tiles) * blocks_s + tl.program_id(1)
    df = tl.zeros((BLOCK_S, ROWS * BLOCK_W), tl.float32)
    for chunk in range(0, count, BLOCK_C):
        k = chunk + tl.arange(0, BLOCK_C)
        axis_x, axis_y, spread = _axes(
            coords + n * at_n, sigma + n * sigma_n, k, count, strides, frame, BLOCK_A
        )
        of_x = _along(axis_x, column)
        of_y = _along(axis_y, row)
        w = of_y[0][:, :, None] * of_x[0][:, None, :]
        g = scaled_upstream(grad + n * grad_n, grad, k, count, s, width_s, grad_c, grad_s, 0.0, False)
        if grad_features is not None:
            flat = tl.reshape(w, (BLOCK_C, ROWS * BLOCK_W))
            df = tl.dot(tl.trans(g), flat, df, input_precision="ieee")
        if partials is not None:
            f = load_flat(features + n * feature_n, s, width_s, row, column, height, width, f_strides, 0.0)
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
