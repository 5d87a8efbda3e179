"""Landmarks to maps: Gaussians of one or several widths, and features spread over them; see the reference of this name.

The kernels are in :mod:`.gaussian_maps` and :mod:`.splatting`; here is what they are launched with. A program owns a
tile of pixels at one level; the levels' numbers are arguments, so that another set of widths is the same kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .gaussian_axes import axis_block, frame_numbers
from .gaussian_maps import (
    render_gaussians_backward_finish,
    render_gaussians_backward_partials,
    render_gaussians_maps,
)
from .launch import ALIGNMENT, Launch, Plan, Prepared, described, laid_out, memory, planned
from .launch_table import architecture, configuration, overrides
from .splatting import (
    splat_landmarks_backward_finish,
    splat_landmarks_backward_partials,
    splat_landmarks_maps,
)
from .tile import Tiling, channel_block, finishing


@Prepared
def render_gaussians(
    coords: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Callable[..., Tensor]:
    """Maps ``(N, L, K, H, W)``, or ``(N, L, K+1, H, W)`` for ``channels``, in the coordinates' dtype."""
    levels = _levels(sigma, gain, background)
    plan = _render_plan(*described(coords), tuple(size), levels, normalize, align_corners, overrides())
    first = plan.first.for_aligned(coords)
    empty, address = memory(coords)
    places, dtype = laid_out(plan.result), coords.dtype

    def run(coords: Tensor, *_: object) -> Tensor:
        maps = empty(*places, dtype)
        if address(coords) % ALIGNMENT:
            plan.first(coords, maps)
        else:
            first(coords, maps)
        return maps

    return run


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


@Prepared
def splat_landmarks(
    coords: Tensor,
    features: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float],
    align_corners: bool,
) -> Callable[..., Tensor]:
    """Maps of all levels, then features of all levels: ``(N, L (K+1) + L S, H, W)``, in the features' dtype."""
    levels = _levels(sigma, gain, background)
    plan = _splat_plan(
        *described(coords), *described(features)[:3], tuple(size), levels, align_corners, overrides()
    )
    first = plan.first.for_aligned(features)
    empty, address = memory(coords, features)
    places, dtype = laid_out(plan.result), features.dtype

    def run(coords: Tensor, features: Tensor, *_: object) -> Tensor:
        maps = empty(*places, dtype)
        if (address(coords) | address(features)) % ALIGNMENT:
            plan.first(coords, features, maps)
        else:
            first(coords, features, maps)
        return maps

    return run


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


def _levels(
    sigma: Sequence[float], gain: Sequence[float], background: Sequence[float] | None
) -> tuple[float, ...]:
    """Precision, gain and background of each level, one after the other."""
    floor = [0.0] * len(sigma) if background is None else background
    half = 0.5 * math.log2(math.e)
    triples = zip(sigma, gain, floor, strict=True)
    return tuple(value for s, g, b in triples for value in (half / s**2, float(g), float(b)))


def _render_tiling(
    kernel: str,
    count: int,
    size: tuple[int, ...],
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
    levels: tuple[float, ...],
    normalize: str,
    align_corners: bool,
    _overrides: object,
) -> Plan:
    batch, count = shape[:2]
    t, channels, chunks, constants = _render_tiling(
        "render_gaussians_maps", count, size, dtype, device, normalize
    )
    frame = frame_numbers(size, align_corners)
    launch = Launch(
        render_gaussians_maps,
        (batch * t.tiles, len(levels) // 3, chunks),
        (*stride, count, channels, *size, t.tiles_x, t.tiles, *frame, levels),
        constants,
        t.options,
    )
    return Plan(launch, result=(batch, len(levels) // 3, channels, *size))


@planned
def _render_backward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    grad_shape: torch.Size,
    grad_stride: tuple[int, ...],
    grad_dtype: torch.dtype,
    levels: tuple[float, ...],
    normalize: str,
    align_corners: bool,
    _overrides: object,
) -> Plan:
    batch, count = shape[:2]
    size = grad_shape[3:]
    t, channels, chunks, constants = _render_tiling(
        "render_gaussians_backward_partials", count, size, grad_dtype, device, normalize
    )
    first = Launch(
        render_gaussians_backward_partials,
        (batch * t.tiles, len(levels) // 3, chunks),
        (
            *grad_stride,
            *stride,
            count,
            channels,
            *size,
            t.tiles_x,
            t.tiles,
            *frame_numbers(size, align_corners),
            levels,
        ),
        constants,
        t.options,
    )
    parts, values = len(levels) // 3 * t.tiles, 2 * count
    blocks, options = finishing("render_gaussians_backward_finish", device, values, parts)
    last = Launch(
        render_gaussians_backward_finish,
        (batch, -(-values // blocks["BLOCK_V"])),
        (parts, values),
        blocks,
        options,
    )
    return Plan(first, last, workspace=[(batch, parts, values)])


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
    levels: tuple[float, ...],
    align_corners: bool,
    _overrides: object,
) -> Plan:
    batch, channels, width_s = feature_shape
    count = channels - 1
    arch = architecture(device)
    entry = configuration("splat_landmarks_maps", arch, channels, size[0] * size[1], feature_dtype.itemsize)
    t = Tiling(size, entry)
    block_k, block_s = _splat_blocks(entry, channels, width_s)
    first = Launch(
        splat_landmarks_maps,
        (batch * t.tiles, len(levels) // 3, -(-width_s // block_s)),
        (
            *stride,
            *feature_stride,
            count,
            width_s,
            *size,
            t.tiles_x,
            t.tiles,
            *frame_numbers(size, align_corners),
            levels,
        ),
        {"BLOCK_K": block_k, "BLOCK_S": block_s, **t.constants},
        t.options,
    )
    return Plan(first, result=(batch, len(levels) // 3 * (channels + width_s), *size))


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
    levels: tuple[float, ...],
    align_corners: bool,
    need_coords: bool,
    need_features: bool,
    _overrides: object,
) -> Plan:
    batch, channels, width_s = feature_shape
    count, size = channels - 1, grad_shape[2:]
    kernel = "splat_landmarks_backward_partials"
    entry = configuration(kernel, architecture(device), channels, size[0] * size[1], grad_dtype.itemsize)
    t = Tiling(size, entry)
    block_k, block_s = _splat_blocks(entry, channels, width_s)
    chunks, blocks_s = -(-channels // block_k), -(-width_s // block_s)
    first = Launch(
        splat_landmarks_backward_partials,
        (batch * t.tiles, len(levels) // 3, chunks * blocks_s),
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
            levels,
        ),
        {"BLOCK_K": block_k, "BLOCK_S": block_s, **t.constants, "CHUNKED": chunks > 1},
        t.options,
    )
    parts, values, values_s = len(levels) // 3 * t.tiles, 2 * count, channels * width_s
    constants, options = finishing("splat_landmarks_backward_finish", device, max(values, values_s), parts)
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
    return Plan(first, last, workspace=workspace)
