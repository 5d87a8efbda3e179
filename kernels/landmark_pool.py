"""Features to landmarks: the weighted mean of a feature map for each channel; see the reference of this name.

The kernels are in :mod:`.softmax_pool` and :mod:`.gaussian_pool`; here is what they are launched with.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from .gaussian_axes import axis_block, frame_numbers
from .gaussian_pool import (
    gaussian_pool_backward_finish,
    gaussian_pool_backward_map,
    gaussian_pool_finish,
    gaussian_pool_partials,
)
from .launch import ALIGNMENT, Launch, Plan, Prepared, described, laid_out, memory, planned
from .launch_table import architecture, configuration, overrides
from .softmax_pool import landmark_pool_backward_map, landmark_pool_finish, landmark_pool_partials
from .tile import Tiling, channel_block, finishing


@Prepared
def landmark_pool(
    features: Tensor, logits: Tensor, over: str, temperature: float, eps: float
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Pooled features ``(N, C, S)`` and mass ``(N, C)``, in float32."""
    plan = _forward_plan(*described(features), *described(logits)[:3], over, temperature, eps, overrides())
    first, last, workspace = plan.for_aligned(features)
    empty, address = memory(features, logits)
    float32 = torch.float32
    batch, channels = logits.shape[:2]
    means, weights = laid_out((batch, channels, features.shape[1])), laid_out((batch, channels))

    def run(features: Tensor, logits: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        pooled, mass = empty(*means, float32), empty(*weights, float32)
        sums = [None if places is None else empty(*places, float32) for places in workspace]
        if (address(features) | address(logits)) % ALIGNMENT:
            plan.first(features, logits, *sums)
        else:
            first(features, logits, *sums)
        last(*sums, pooled, mass)
        return pooled, mass

    return run


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


@Prepared
def gaussian_pool(
    features: Tensor, coords: Tensor, sigma: Tensor, align_corners: bool
) -> Callable[..., Tensor]:
    """Pooled features ``(N, K, S)``, in float32; ``sigma`` is ``(N, K)``."""
    plan = _gaussian_plan(
        *described(features), coords.shape[1], coords.stride(), sigma.stride(), align_corners, overrides()
    )
    first, last, (places,) = plan.for_aligned(features)
    empty, address = memory(features, coords, sigma)
    float32 = torch.float32
    means = laid_out((features.shape[0], coords.shape[1], features.shape[1]))
    assert places is not None

    def run(features: Tensor, coords: Tensor, sigma: Tensor, *_: object) -> Tensor:
        pooled, sums = empty(*means, float32), empty(*places, float32)
        if (address(features) | address(coords) | address(sigma)) % ALIGNMENT:
            plan.first(features, coords, sigma, sums)
        else:
            first(features, coords, sigma, sums)
        last(sums, pooled)
        return pooled

    return run


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
) -> Plan:
    batch, channels, width_s = *logits_shape[:2], shape[1]
    b, first = _partials_launch(
        shape, stride, dtype, device, channels, logits_stride, over, temperature, True
    )
    blocks, options = finishing("landmark_pool_finish", device, channels * width_s, b.tiles)
    last = Launch(
        landmark_pool_finish,
        (batch, -(-channels * width_s // blocks["BLOCK_V"])),
        (channels, width_s, b.tiles, eps),
        {**blocks, "OVER_PIXELS": over == "pixels"},
        options,
    )
    per_channel = (batch, b.tiles, channels)
    return Plan(
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
) -> Plan:
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
    return Plan(first, last, workspace)


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
) -> Plan:
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
    blocks, options = finishing("gaussian_pool_finish", device, values, b.tiles)
    grid = (batch, -(-values // blocks["BLOCK_V"]))
    last = Launch(gaussian_pool_finish, grid, (b.tiles, values), blocks, options)
    return Plan(first, last, [(batch, b.tiles, values)])


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
) -> Plan:
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
    blocks, options = finishing("gaussian_pool_backward_finish", device, 3 * count, parts)
    grid = (batch, -(-3 * count // blocks["BLOCK_V"]))
    last = Launch(gaussian_pool_backward_finish, grid, (parts, count), blocks, options)
    return Plan(first, last, [(batch, parts, 3 * count) if need_landmarks else None])
