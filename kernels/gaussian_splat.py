"""Landmarks to maps: Gaussians of one or several widths, and features spread over them; see the reference of this name.

A program owns a tile of pixels at one level: exponentials are taken along its columns and rows and multiplied. The
levels' numbers are compiled in, so that a new set of widths is a new kernel. Backward, the coordinates' and the
features' sums over tiles and levels are left to a second kernel.
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
    axis_offsets,
    axis_softmax,
    axis_weights,
    frame_numbers,
    load_points,
)
from .launch import Launch, described, planned
from .launch_table import architecture, configuration, overrides
from .tile import Tiling, channel_block, load_tile, store_tile, summed_parts, tile_axes


@triton.jit
def _of_level(level, LEVELS: tl.constexpr):
    """Precision, gain and background of a level."""
    precision = tl.full((), LEVELS[0][0], tl.float32)
    gain = tl.full((), LEVELS[0][1], tl.float32)
    floor = tl.full((), LEVELS[0][2], tl.float32)
    for i in tl.static_range(1, len(LEVELS)):
        precision = tl.where(level == i, LEVELS[i][0], precision)
        gain = tl.where(level == i, LEVELS[i][1], gain)
        floor = tl.where(level == i, LEVELS[i][2], floor)
    return precision, gain, floor


@triton.jit
def _along(point, whole, i, length, half, scale, precision, SUM: tl.constexpr):
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
def _whole(point, length, half, scale, precision, BLOCK_A: tl.constexpr, SUM: tl.constexpr):
    """What :func:`_along` needs of the whole axis."""
    if SUM:
        p = tl.zeros(point.shape, tl.float32) + precision
        found = axis_softmax(point, p, length, half, scale, BLOCK_A)
    else:
        found = (point, point, point, point, point)
    return found


@triton.jit
def _product(along_x, along_y, k, count, numbers):
    """Gaussians ``[channels, rows, columns]``, the background at ``count`` and 0 beyond."""
    _precision, gain, floor = numbers
    g = (gain * along_y)[:, :, None] * along_x[:, None, :]
    others = tl.where(k == count, floor, 0.0)
    return tl.where((k < count)[:, None, None], g, others[:, None, None])


@triton.jit
def _gaussians(points, k, row, column, frame, numbers):
    """Gaussians of a tile for the landmarks ``k``, and the background."""
    coords, count, at_k, at_j = points
    height, width, half_x, half_y, scale_x, scale_y = frame
    x, y = load_points(coords, k, count, at_k, at_j)
    along_x, _dx = _along(x, x, column, width, half_x, scale_x, numbers[0], False)
    along_y, _dy = _along(y, y, row, height, half_y, scale_y, numbers[0], False)
    return _product(along_x, along_y, k, count, numbers)


@triton.jit
def _total(points, row, column, frame, numbers, BLOCK_K: tl.constexpr):
    """Sum of all landmarks and the background at each pixel of a tile, chunk by chunk."""
    total = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for chunk in range(0, points[1] + 1, BLOCK_K):
        total += tl.sum(_gaussians(points, chunk + tl.arange(0, BLOCK_K), row, column, frame, numbers), 0)
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
    LEVELS: tl.constexpr,
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
    numbers = _of_level(level, LEVELS)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    points = (coords + n * at_n, count, at_k, at_j)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    k = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    x, y = load_points(coords + n * at_n, k, count, at_k, at_j)
    SUM: tl.constexpr = NORMALIZE == "sum"
    whole_x = _whole(x, width, half_x, scale_x, numbers[0], BLOCK_A, SUM)
    whole_y = _whole(y, height, half_y, scale_y, numbers[0], BLOCK_A, SUM)
    along_x, _dx = _along(x, whole_x, column, width, half_x, scale_x, numbers[0], SUM)
    plane = tl.cast(height, tl.int64) * width
    base = out + (n * len(LEVELS) + level) * channels * plane
    for step in range(STEPS):
        row = first + step * ROWS
        along_y, _dy = _along(y, whole_y, row, height, half_y, scale_y, numbers[0], SUM)
        g = _product(along_x, along_y, k, count, numbers)
        if NORMALIZE == "channels":
            total = _total(points, row, column, frame, numbers, BLOCK_K) if CHUNKED else tl.sum(g, 0)
            g = g * (1.0 / total)[None, :, :]
        store_tile(base, g, k, channels, row, column, height, width, plane, width, 1)


@triton.jit
def _store_moved(partials, part, k, count, moved, moved_y, dx, precision, scale_x, scale_y):
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
    LEVELS: tl.constexpr,
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
    numbers = _of_level(level, LEVELS)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    points = (coords + n * at_n, count, at_k, at_j)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    k = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    x, y = load_points(coords + n * at_n, k, count, at_k, at_j)
    SUM: tl.constexpr = NORMALIZE == "sum"
    whole_x = _whole(x, width, half_x, scale_x, numbers[0], BLOCK_A, SUM)
    whole_y = _whole(y, height, half_y, scale_y, numbers[0], BLOCK_A, SUM)
    along_x, dx = _along(x, whole_x, column, width, half_x, scale_x, numbers[0], SUM)
    base = grad + n * stride_n + tl.cast(level, tl.int64) * stride_l
    moved = tl.zeros((BLOCK_K, ROWS, BLOCK_W), tl.float32)
    moved_y = tl.zeros((BLOCK_K, ROWS, BLOCK_W), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        along_y, dy = _along(y, whole_y, row, height, half_y, scale_y, numbers[0], SUM)
        g = _product(along_x, along_y, k, count, numbers)
        upstream = load_tile(base, k, channels, row, column, height, width, stride_c, stride_h, stride_w, 0.0)
        if NORMALIZE == "channels":
            if CHUNKED:
                total = tl.zeros((ROWS, BLOCK_W), tl.float32)
                expected = tl.zeros((ROWS, BLOCK_W), tl.float32)
                for chunk in range(0, channels, BLOCK_K):
                    c = chunk + tl.arange(0, BLOCK_K)
                    other = _gaussians(points, c, row, column, frame, numbers)
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
    part = (n * len(LEVELS) + level) * tiles + program % tiles
    _store_moved(partials, part, k, count, moved, moved_y, dx, numbers[0], scale_x, scale_y)


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
    LEVELS: tl.constexpr,
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
    numbers = _of_level(level, LEVELS)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    points = (coords + n * at_n, count, at_k, at_j)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    channels = count + 1
    block = tl.program_id(2)
    s = block * BLOCK_S + tl.arange(0, BLOCK_S)
    plane = tl.cast(height, tl.int64) * width
    base = out + n * len(LEVELS) * (channels + width_s) * plane
    base_s = base + (len(LEVELS) * channels + level * width_s) * plane
    for step in range(STEPS):
        row = first + step * ROWS
        inverse = 1.0 / _total(points, row, column, frame, numbers, BLOCK_K)
        spread = tl.zeros((BLOCK_S, ROWS * BLOCK_W), tl.float32)
        for chunk in range(0, channels, BLOCK_K):
            c = chunk + tl.arange(0, BLOCK_K)
            share = _gaussians(points, c, row, column, frame, numbers) * inverse[None, :, :]
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
    LEVELS: tl.constexpr,
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
    numbers = _of_level(level, LEVELS)
    frame = (height, width, half_x, half_y, scale_x, scale_y)
    points = (coords + n * at_n, count, at_k, at_j)
    column, first = tile_axes(program % tiles, tiles_x, BLOCK_W, ROWS, STEPS)
    channels = count + 1
    block = tl.program_id(2) % blocks_s
    k = tl.program_id(2) // blocks_s * BLOCK_K + tl.arange(0, BLOCK_K)
    s = block * BLOCK_S + tl.arange(0, BLOCK_S)
    loaded = tl.where(block == 0, channels, 0)
    base = grad + n * stride_n + (level * channels).to(tl.int64) * stride_c
    base_s = grad + n * stride_n + (len(LEVELS) * channels + level * width_s).to(tl.int64) * stride_c
    x, y = load_points(coords + n * at_n, k, count, at_k, at_j)
    along_x, dx = _along(x, x, column, width, half_x, scale_x, numbers[0], False)
    f = _features(features + n * feature_n, k, s, channels, width_s, feature_c, feature_s)
    moved = tl.zeros((BLOCK_K, ROWS, BLOCK_W), tl.float32)
    moved_y = tl.zeros((BLOCK_K, ROWS, BLOCK_W), tl.float32)
    pooled = tl.zeros((BLOCK_K, BLOCK_S), tl.float32)
    for step in range(STEPS):
        row = first + step * ROWS
        along_y, dy = _along(y, y, row, height, half_y, scale_y, numbers[0], False)
        g = _product(along_x, along_y, k, count, numbers)
        of_spread = tl.reshape(
            load_tile(base_s, s, width_s, row, column, height, width, stride_c, stride_h, stride_w, 0.0),
            (BLOCK_S, ROWS * BLOCK_W),
        )
        total = _total(points, row, column, frame, numbers, BLOCK_K) if CHUNKED else tl.sum(g, 0)
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
                    other = _gaussians(points, c, row, column, frame, numbers)
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
    part = (n * len(LEVELS) + level) * tiles + program % tiles
    if partials is not None:
        _store_moved(
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


def render_gaussians(
    coords: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Tensor:
    """Maps ``(N, L, K, H, W)``, or ``(N, L, K+1, H, W)`` for ``channels``, in the coordinates' dtype."""
    levels = _levels(sigma, gain, background)
    plan = _render_plan(*described(coords), tuple(size), levels, normalize, align_corners, overrides())
    maps = coords.new_empty(plan.result)
    plan.first(coords, maps)
    return maps


def render_gaussians_backward(
    grad: Tensor,
    coords: Tensor,
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Tensor:
    """Gradient ``(N, K, 2)`` of the coordinates, in their dtype."""
    levels = _levels(sigma, gain, background)
    plan = _render_backward_plan(
        *described(coords), *described(grad)[:3], levels, normalize, align_corners, overrides()
    )
    grad_coords = coords.new_empty(coords.shape)
    sums = plan.sums(coords)
    plan.first(grad, coords, *sums)
    plan.last(*sums, grad_coords)
    return grad_coords


def splat_landmarks(
    coords: Tensor,
    features: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float],
    align_corners: bool,
) -> Tensor:
    """Maps of all levels, then features of all levels: ``(N, L (K+1) + L S, H, W)``, in the features' dtype."""
    levels = _levels(sigma, gain, background)
    plan = _splat_plan(
        *described(coords), *described(features)[:3], tuple(size), levels, align_corners, overrides()
    )
    maps = features.new_empty(plan.result)
    plan.first(coords, features, maps)
    return maps


def splat_landmarks_backward(
    grad: Tensor,
    coords: Tensor,
    features: Tensor,
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float],
    align_corners: bool,
    need_coords: bool,
    need_features: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the coordinates ``(N, K, 2)`` and of the features ``(N, K+1, S)``, each in its dtype."""
    levels = _levels(sigma, gain, background)
    plan = _splat_backward_plan(
        *described(coords),
        *described(features)[:3],
        *described(grad)[:3],
        levels,
        align_corners,
        need_coords,
        need_features,
        overrides(),
    )
    grad_coords = coords.new_empty(coords.shape if need_coords else (0,))
    grad_features = features.new_empty(features.shape if need_features else (0,))
    if need_coords or need_features:
        sums = plan.sums(coords)
        plan.first(grad, coords, features, *sums)
        plan.last(*sums, grad_coords if need_coords else None, grad_features if need_features else None)
    return grad_coords, grad_features


_Numbers = tuple[tuple[float, float, float], ...]


def _levels(sigma: Sequence[float], gain: Sequence[float], background: Sequence[float] | None) -> _Numbers:
    """Precision, gain and background of each level."""
    floor = [0.0] * len(sigma) if background is None else background
    half = 0.5 * math.log2(math.e)
    return tuple((half / s**2, float(g), float(b)) for s, g, b in zip(sigma, gain, floor, strict=True))


class _Plan:
    """Launches of one kind of call, the result's shape, and the sizes of what the first leaves for the last."""

    def __init__(
        self,
        first: Launch,
        last: Launch | None = None,
        result: tuple[int, ...] = (),
        workspace: Sequence[tuple[int, ...] | None] = (),
    ) -> None:
        self.first = first
        self.last: Any = last
        self.result = result
        self.workspace = workspace

    def sums(self, like: Tensor) -> list[Tensor | None]:
        """What the first launch leaves for the last."""
        return [like.new_empty(size, dtype=torch.float32) if size else None for size in self.workspace]


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


def _render_tiling(
    kernel: str,
    count: int,
    size: tuple[int, ...],
    levels: _Numbers,
    dtype: torch.dtype,
    device: torch.device,
    normalize: str,
) -> tuple[Tiling, int, int, dict[str, Any]]:
    """Tiles, channels of a map, chunks of them, and the kernel's constants."""
    channels = count + int(normalize == "channels")
    entry = configuration(kernel, architecture(device), channels, size[0] * size[1], dtype.itemsize)
    t = Tiling(size, entry)
    block = channel_block(channels)
    chunks = -(-channels // block)
    constants = {
        "LEVELS": levels,
        "BLOCK_K": block,
        **t.constants,
        "BLOCK_A": axis_block(size),
        "NORMALIZE": normalize,
        "CHUNKED": chunks > 1,
    }
    return t, channels, chunks, constants


@planned
def _render_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    size: tuple[int, ...],
    levels: _Numbers,
    normalize: str,
    align_corners: bool,
    _overrides: object,
) -> _Plan:
    batch, count = shape[:2]
    t, channels, chunks, constants = _render_tiling(
        "render_gaussians_maps", count, size, levels, dtype, device, normalize
    )
    frame = frame_numbers(size, align_corners)
    launch = Launch(
        render_gaussians_maps,
        (batch * t.tiles, len(levels), chunks),
        (*stride, count, channels, *size, t.tiles_x, t.tiles, *frame),
        constants,
        t.options,
    )
    return _Plan(launch, result=(batch, len(levels), channels, *size))


@planned
def _render_backward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    grad_shape: torch.Size,
    grad_stride: tuple[int, ...],
    grad_dtype: torch.dtype,
    levels: _Numbers,
    normalize: str,
    align_corners: bool,
    _overrides: object,
) -> _Plan:
    batch, count = shape[:2]
    size = grad_shape[3:]
    t, channels, chunks, constants = _render_tiling(
        "render_gaussians_backward_partials", count, size, levels, grad_dtype, device, normalize
    )
    first = Launch(
        render_gaussians_backward_partials,
        (batch * t.tiles, len(levels), chunks),
        (
            *grad_stride,
            *stride,
            count,
            channels,
            *size,
            t.tiles_x,
            t.tiles,
            *frame_numbers(size, align_corners),
        ),
        constants,
        t.options,
    )
    parts, values = len(levels) * t.tiles, 2 * count
    blocks, options = _finishing("render_gaussians_backward_finish", device, values, parts)
    last = Launch(
        render_gaussians_backward_finish,
        (batch, -(-values // blocks["BLOCK_V"])),
        (parts, values),
        blocks,
        options,
    )
    return _Plan(first, last, workspace=[(batch, parts, values)])


def _splat_blocks(entry: dict[str, int], channels: int, width_s: int) -> tuple[int, int]:
    """Landmarks and features that a program takes at a time: the sides of its matrix products."""
    return min(channel_block(channels, 16), entry["BLOCK_K"]), min(
        channel_block(width_s, 16), entry["BLOCK_S"]
    )


@planned
def _splat_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    feature_shape: torch.Size,
    feature_stride: tuple[int, ...],
    feature_dtype: torch.dtype,
    size: tuple[int, ...],
    levels: _Numbers,
    align_corners: bool,
    _overrides: object,
) -> _Plan:
    batch, channels, width_s = feature_shape
    count = channels - 1
    arch = architecture(device)
    entry = configuration("splat_landmarks_maps", arch, channels, size[0] * size[1], feature_dtype.itemsize)
    t = Tiling(size, entry)
    block_k, block_s = _splat_blocks(entry, channels, width_s)
    first = Launch(
        splat_landmarks_maps,
        (batch * t.tiles, len(levels), -(-width_s // block_s)),
        (
            *stride,
            *feature_stride,
            count,
            width_s,
            *size,
            t.tiles_x,
            t.tiles,
            *frame_numbers(size, align_corners),
        ),
        {"LEVELS": levels, "BLOCK_K": block_k, "BLOCK_S": block_s, **t.constants},
        t.options,
    )
    return _Plan(first, result=(batch, len(levels) * (channels + width_s), *size))


@planned
def _splat_backward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    feature_shape: torch.Size,
    feature_stride: tuple[int, ...],
    feature_dtype: torch.dtype,
    grad_shape: torch.Size,
    grad_stride: tuple[int, ...],
    grad_dtype: torch.dtype,
    levels: _Numbers,
    align_corners: bool,
    need_coords: bool,
    need_features: bool,
    _overrides: object,
) -> _Plan:
    batch, channels, width_s = feature_shape
    count, size = channels - 1, grad_shape[2:]
    kernel = "splat_landmarks_backward_partials"
    entry = configuration(kernel, architecture(device), channels, size[0] * size[1], grad_dtype.itemsize)
    t = Tiling(size, entry)
    block_k, block_s = _splat_blocks(entry, channels, width_s)
    chunks, blocks_s = -(-channels // block_k), -(-width_s // block_s)
    first = Launch(
        splat_landmarks_backward_partials,
        (batch * t.tiles, len(levels), chunks * blocks_s),
        (
            *grad_stride,
            *stride,
            *feature_stride,
            count,
            width_s,
            *size,
            t.tiles_x,
            t.tiles,
            blocks_s,
            *frame_numbers(size, align_corners),
        ),
        {"LEVELS": levels, "BLOCK_K": block_k, "BLOCK_S": block_s, **t.constants, "CHUNKED": chunks > 1},
        t.options,
    )
    parts, values, values_s = len(levels) * t.tiles, 2 * count, channels * width_s
    constants, options = _finishing("splat_landmarks_backward_finish", device, max(values, values_s), parts)
    blocks, blocks_f = (-(-v // constants["BLOCK_V"]) for v in (values, values_s))
    blocks, blocks_f = blocks * need_coords, blocks_f * need_features
    last = Launch(
        splat_landmarks_backward_finish,
        (batch, blocks + blocks_f),
        (parts * blocks_s, values, blocks, parts, values_s),
        constants,
        options,
    )
    workspace = [
        (batch, parts * blocks_s, values) if need_coords else None,
        (batch, parts, values_s) if need_features else None,
    ]
    return _Plan(first, last, workspace=workspace)
