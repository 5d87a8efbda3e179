"""Kernels of splat_landmarks: a tile's maps and the features spread over it; see the reference of gaussian_splat."""

from __future__ import annotations

import triton
import triton.language as tl

from .gaussian_axes import load_points
from .gaussian_maps import along_axis, gaussian_product, gaussians, of_level, store_moved, total_of_channels
from .tile import load_tile, store_tile, summed_parts, tile_axes


@triton.jit
def _features(features, c, s, channels, width_s, at_c, at_s):
    """An image's features ``[channels, features]``, 0 outside."""
    pointers = features + c.to(tl.int64)[:, None] * at_c + s.to(tl.int64)[None, :] * at_s
    mask = (c < channels)[:, None] & (s < width_s)[None, :]
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def splat_landmarks_maps(
    coords,
    features,
    out,
    at_n,
    at_k,
    at_j,
    feature_n,
    feature_c,
    feature_s,
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
    levels,
    BLOCK_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Maps of a tile at one level, and ``BLOCK_S`` of the features spread over it."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    level = tl.program_id(1)
    numbers = of_level(level, levels)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    points = (coords + n * at_n, count, at_k, at_j)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    channels = count + 1
    block = tl.program_id(2)
    s = block * BLOCK_S + tl.arange(0, BLOCK_S)
    plane = tl.cast(height, tl.int64) * width
    base = out + n * (len(levels) // 3) * (channels + width_s) * plane
    base_s = base + ((len(levels) // 3) * channels + level * width_s) * plane
    for step in range(STEPS):
        row = first + step * ROWS
        inverse = 1.0 / total_of_channels(points, row, column, frame, numbers, BLOCK_K)
        spread = tl.zeros((BLOCK_S, ROWS * BLOCK_W), tl.float32)
        for chunk in range(0, channels, BLOCK_K):
            c = chunk + tl.arange(0, BLOCK_K)
            share = gaussians(points, c, row, column, frame, numbers) * inverse[None, :, :]
            # the first block of features writes the maps
            stored = tl.where(block == 0, channels, 0)
            store_tile(
                base + level * channels * plane, share, c, stored, row, column, height, width, plane, width, 1
            )
            f = _features(features + n * feature_n, c, s, channels, width_s, feature_c, feature_s)
            flat = tl.reshape(share, (BLOCK_K, ROWS * BLOCK_W))
            spread = tl.dot(tl.trans(f), flat, spread, input_precision="ieee")
        store_tile(
            base_s,
            tl.reshape(spread, (BLOCK_S, ROWS, BLOCK_W)),
            s,
            width_s,
            row,
            column,
            height,
            width,
            plane,
            width,
            1,
        )


@triton.jit
def splat_landmarks_backward_partials(
    grad,
    coords,
    features,
    partials,
    partials_s,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    at_n,
    at_k,
    at_j,
    feature_n,
    feature_c,
    feature_s,
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
    levels,
    BLOCK_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    CHUNKED: tl.constexpr,
):
    """A tile's part of both gradients at one level, by ``BLOCK_S`` of the spread features.

    ``partials (N, L tiles blocks_s, 2 K)`` and ``partials_s (N, L tiles, (K+1) S)``. The maps' own gradient counts
    with the first block of features.
    """
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    level = tl.program_id(1)
    numbers = of_level(level, levels)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    points = (coords + n * at_n, count, at_k, at_j)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    channels = count + 1
    block = tl.program_id(2) % blocks_s
    k = tl.program_id(2) // blocks_s * BLOCK_K + tl.arange(0, BLOCK_K)
    s = block * BLOCK_S + tl.arange(0, BLOCK_S)
    loaded = tl.where(block == 0, channels, 0)
    base = grad + n * stride_n + (level * channels).to(tl.int64) * stride_c
    base_s = grad + n * stride_n + ((len(levels) // 3) * channels + level * width_s).to(tl.int64) * stride_c
    x, y = load_points(coords + n * at_n, k, count, at_k, at_j)
    along_x, dx = along_axis(x, x, column, width, half_x, scale_x, numbers[0], False)
    f = _features(features + n * feature_n, k, s, channels, width_s, feature_c, feature_s)
    moved = tl.zeros((BLOCK_K, ROWS, BLOCK_W), tl.float32)
    moved_y = tl.zeros((BLOCK_K, ROWS, BLOCK_W), tl.float32)
    pooled = tl.zeros((BLOCK_K, BLOCK_S), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        along_y, dy = along_axis(y, y, row, height, half_y, scale_y, numbers[0], False)
        g = gaussian_product(along_x, along_y, k, count, numbers)
        of_spread = tl.reshape(
            load_tile(base_s, s, width_s, row, column, height, width, stride_c, stride_h, stride_w, 0.0),
            (BLOCK_S, ROWS * BLOCK_W),
        )
        total = total_of_channels(points, row, column, frame, numbers, BLOCK_K) if CHUNKED else tl.sum(g, 0)
        share = g * (1.0 / total)[None, :, :]
        if partials is not None:
            upstream = load_tile(
                base, k, loaded, row, column, height, width, stride_c, stride_h, stride_w, 0.0
            )
            through = tl.dot(f, of_spread, input_precision="ieee")
            upstream += tl.reshape(through, (BLOCK_K, ROWS, BLOCK_W))
            if CHUNKED:
                expected = tl.zeros((ROWS, BLOCK_W), tl.float32)
                for chunk in range(0, channels, BLOCK_K):
                    c = chunk + tl.arange(0, BLOCK_K)
                    other_f = _features(
                        features + n * feature_n, c, s, channels, width_s, feature_c, feature_s
                    )
                    other = gaussians(points, c, row, column, frame, numbers)
                    by_other = load_tile(
                        base, c, loaded, row, column, height, width, stride_c, stride_h, stride_w, 0.0
                    )
                    by_spread = tl.dot(other_f, of_spread, input_precision="ieee")
                    by_other += tl.reshape(by_spread, (BLOCK_K, ROWS, BLOCK_W))
                    expected += tl.sum(other * by_other, 0)
                expected = expected / total
            else:
                expected = tl.sum(share * upstream, 0)
            by_point = share * (upstream - expected[None, :, :])
            moved += by_point
            moved_y += by_point * dy[:, :, None]
        if partials_s is not None:
            flat = tl.reshape(share, (BLOCK_K, ROWS * BLOCK_W))
            pooled = tl.dot(flat, tl.trans(of_spread), pooled, input_precision="ieee")
    part = (n * (len(levels) // 3) + level) * tiles + program % tiles
    if partials is not None:
        store_moved(
            partials, part * blocks_s + block, k, count, moved, moved_y, dx, numbers[0], scale_x, scale_y
        )
    if partials_s is not None:
        pointers = partials_s + (part * channels + k)[:, None] * width_s + s[None, :]
        tl.store(pointers, pooled, mask=(k < channels)[:, None] & (s < width_s)[None, :])


@triton.jit
def splat_landmarks_backward_finish(
    partials,
    partials_s,
    grad_coords,
    grad_features,
    parts,
    values,
    blocks,
    parts_s,
    values_s,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Both gradients: sums over tiles and levels. The first ``blocks`` programs of an image do the coordinates."""
    n = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    if block < blocks:
        if partials is not None:
            v = block * BLOCK_V + tl.arange(0, BLOCK_V)
            total = summed_parts(partials, n, parts, values, v, BLOCK_T)
            tl.store(
                grad_coords + n * values + v,
                total.to(tl.float32).to(grad_coords.dtype.element_ty),
                mask=v < values,
            )
    else:
        if partials_s is not None:
            v = (block - blocks) * BLOCK_V + tl.arange(0, BLOCK_V)
            total = summed_parts(partials_s, n, parts_s, values_s, v, BLOCK_T)
            pointers = grad_features + n * values_s + v
            tl.store(pointers, total.to(tl.float32).to(grad_features.dtype.element_ty), mask=v < values_s)
