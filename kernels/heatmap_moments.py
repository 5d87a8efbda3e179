"""Heatmaps to landmarks: softmax, then mass, mean and variance of each channel; see the reference of this name.

The kernels are in :mod:`.spatial_moments` and :mod:`.moments_gradient` (softmax across channels or pixels) and
:mod:`.marginals`; here is what they are launched with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..reference.lattice import width_scales
from .launch import ALIGNMENT, Launch, Plan, Prepared, laid_out, memory, planned
from .launch_table import architecture, configuration, options_of, overrides
from .marginals import heatmap_moments_axes, heatmap_moments_backward_marginals, heatmap_moments_marginals
from .moments_gradient import heatmap_moments_backward_channels, heatmap_moments_backward_pixels
from .spatial_moments import heatmap_moments_channels, heatmap_moments_finish, heatmap_moments_pixels
from .tile import Tiling, channel_block


@Prepared
def heatmap_moments(
    logits: Tensor,
    over: str,
    background: bool,
    temperature: float,
    align_corners: bool,
    eps: float,
    covariance: bool,
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Coordinates ``(N, K, 2)``, variance ``(N, K, 2)`` or covariance ``(N, K, 3)``, and mass ``(N, K)``."""
    call = _Call(
        logits.shape,
        logits.stride(),
        logits.dtype,
        logits.device,
        over,
        background,
        temperature,
        align_corners,
    )
    plan = _forward_plan(call, eps, covariance, overrides())
    first, last, workspace = plan.for_aligned(logits)
    empty, address = memory(logits)
    float32 = torch.float32
    batch, count = call.shape[0], call.landmarks
    points, squares, weights = map(
        laid_out, ((batch, count, 2), (batch, count, 3 if covariance else 2), (batch, count))
    )

    def run(logits: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
        coords, variance, mass = empty(*points, float32), empty(*squares, float32), empty(*weights, float32)
        sums = [None if places is None else empty(*places, float32) for places in workspace]
        if address(logits) % ALIGNMENT:
            plan.first(logits, *sums)
        else:
            first(logits, *sums)
        last(*sums, coords, variance, mass)
        return coords, variance, mass

    return run


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
    call = _Call(
        logits.shape,
        logits.stride(),
        logits.dtype,
        logits.device,
        over,
        background,
        temperature,
        align_corners,
    )
    plan = _backward_plan(call, grad.stride(), strides, variance.shape[-1] == 3, eps, overrides())
    coords, variance, mass = (t.contiguous() for t in (coords, variance, mass))
    sums = plan.sums(logits)
    if plan.first is not None:
        plan.first(logits, *sums)
    if over == "marginals":
        plan.last(grad_coords, grad_variance, coords, *sums, grad)
    elif over == "pixels":
        plan.last(grad_coords, grad_variance, logits, coords, variance, *sums, grad)
    else:
        plan.last(grad_coords, grad_variance, grad_mass, logits, coords, variance, mass, grad)
    return grad


#: A tile is so high at most: second moments in float32 lose the square of that.
MOST_ROWS = 32


class _Call(NamedTuple):
    """What a plan depends on; ``logits`` are described by shape, strides, dtype and device."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    over: str
    background: bool
    temperature: float
    align_corners: bool

    @property
    def landmarks(self) -> int:
        """K"""
        return self.shape[1] - int(self.background)

    @property
    def scale(self) -> float:
        """Of the logits, for powers of two."""
        return math.log2(math.e) / self.temperature

    @property
    def step(self) -> tuple[float, float]:
        """Frame units per pixel along x and y."""
        height, width = self.shape[2:]
        spans = [max(n - 1, 1) if self.align_corners else n for n in (width, height)]
        return 2 / spans[0], 2 / spans[1]

    @property
    def widths(self) -> tuple[float, float]:
        """Width units per frame unit along x and y."""
        return width_scales(self.shape[2], self.shape[3], self.align_corners)

    def entry(self, kernel: str) -> dict[str, int]:
        """Of the launch table."""
        _, channels, height, width = self.shape
        return configuration(kernel, architecture(self.device), channels, height * width, self.dtype.itemsize)

    def tiling(self, kernel: str, block_c: int) -> tuple[Tiling, tuple[int, int], dict[str, Any]]:
        """Tiles, grid and constants of a kernel that takes ``block_c`` channels at a time."""
        entry = self.entry(kernel)
        t = Tiling(self.shape[2:], entry)
        if t.rows * t.steps > MOST_ROWS:
            t = Tiling(self.shape[2:], {**entry, "STEPS": max(MOST_ROWS // t.rows, 1)})
        chunks = -(-self.shape[1] // block_c)
        return t, (self.shape[0] * t.tiles, chunks), {"BLOCK_C": block_c, **t.constants}

    def few_channels(self, kernel: str) -> int:
        """Channels at a time where a softmax does not run across them."""
        return min(self.entry(kernel)["BLOCK_C"], channel_block(self.shape[1]))

    def axes(self) -> tuple[Tiling, list[tuple[int, ...]], Launch]:
        """Sums along the axes: tiles, their sizes, the launch."""
        kernel = heatmap_moments_axes
        t, grid, constants = self.tiling(kernel.__name__, self.few_channels(kernel.__name__))
        batch, channels, height, width = self.shape
        tiles_y = t.tiles // t.tiles_x
        numbers = (*self.stride, channels, height, width, t.tiles_x, t.tiles)
        sizes: list[tuple[int, ...]] = [
            (batch, channels, tiles_y, width),
            (batch, channels, t.tiles_x, height),
        ]
        return t, sizes, Launch(kernel, grid, numbers, constants, t.options)

    def pixels(self) -> tuple[Tiling, int, Launch]:
        """Moments of tiles for a softmax across pixels: tiles, channels at a time, the launch."""
        kernel = heatmap_moments_pixels
        block_c = self.few_channels(kernel.__name__)
        t, grid, constants = self.tiling(kernel.__name__, block_c)
        numbers = (*self.stride, *self.shape[1:], t.tiles_x, t.tiles, grid[1] * block_c, self.scale)
        return t, block_c, Launch(kernel, grid, numbers, constants, t.options)


@planned
def _forward_plan(call: _Call, eps: float, covariance: bool, _overrides: object) -> Plan:
    batch, channels, height, width = call.shape
    step, widths = call.step, call.widths
    to = step[0] * widths[0], step[1] * widths[1]
    if call.over == "marginals":
        t, workspace, first = call.axes()
        tiles = t.tiles_x, t.tiles // t.tiles_x
        scales = call.scale / height, call.scale / width
        blocks = {
            "BLOCK_X": triton.next_power_of_2(width),
            "BLOCK_Y": triton.next_power_of_2(height),
            "COVARIANCE": covariance,
        }
        kernel = heatmap_moments_marginals
        numbers = (channels, call.landmarks, height, width, *tiles, *scales, *step, *to)
        last = Launch(kernel, (batch * call.landmarks,), numbers, blocks, call.entry(kernel.__name__))
        return Plan(first, last, workspace)
    if call.over == "pixels":
        t, block_c, first = call.pixels()
        blocks_c = first.grid[1] * block_c
    else:
        kernel = heatmap_moments_channels
        block_c = channel_block(channels)
        t, grid, constants = call.tiling(kernel.__name__, block_c)
        blocks_c = grid[1] * block_c
        maps = (*call.stride, channels, height, width, t.tiles_x, t.tiles, blocks_c)
        first = Launch(kernel, grid, (*maps, call.scale), {**constants, "CHUNKED": grid[1] > 1}, t.options)
    kernel = heatmap_moments_finish
    entry = call.entry(kernel.__name__)
    constants = {
        "BLOCK_C": block_c,
        "BLOCK_T": min(entry["BLOCK_T"], triton.next_power_of_2(t.tiles)),
        "OVER_PIXELS": call.over == "pixels",
        "COVARIANCE": covariance,
    }
    rest = (call.landmarks, t.tiles, blocks_c, *step, *to, eps)
    options = options_of(entry)
    last = Launch(kernel, (batch, first.grid[1]), rest, constants, options)
    return Plan(first, last, [(batch * t.tiles, 7, blocks_c)])


@planned
def _backward_plan(
    call: _Call,
    out_stride: tuple[int, ...],
    grad_strides: tuple[tuple[int, ...] | None, ...],
    covariance: bool,
    eps: float,
    _overrides: object,
) -> Plan:
    batch, channels, height, width = call.shape
    step, widths = call.step, call.widths
    half = step[0] / 2, step[1] / 2
    of_coords, of_variance, of_mass = (s or (0, 0, 0) for s in grad_strides)
    if call.over == "marginals":
        t, workspace, first = call.axes()
        kernel = heatmap_moments_backward_marginals
        entry = call.entry(kernel.__name__)
        block_x = triton.next_power_of_2(width)
        blocks = {
            "BLOCK_X": block_x,
            "BLOCK_Y": triton.next_power_of_2(height),
            "ROWS": min(max(entry["TILE"] // block_x, 1), triton.next_power_of_2(height)),
        }
        tiles = t.tiles_x, t.tiles // t.tiles_x
        scales = call.scale / height, call.scale / width
        shares = 1 / (call.temperature * width), 1 / (call.temperature * height)
        sizes = channels, call.landmarks, height, width, *tiles
        numbers = (*of_coords, *of_variance, *out_stride, *sizes, *scales, *shares, *half, *widths)
        options = options_of(entry)
        return Plan(first, Launch(kernel, (batch * channels,), numbers, blocks, options), workspace)
    maps = (*call.stride, *out_stride, channels, call.landmarks, height, width)
    shares = call.scale, 1 / call.temperature
    if call.over == "pixels":
        partial, block_c, first = call.pixels()
        blocks_c = first.grid[1] * block_c
        kernel = heatmap_moments_backward_pixels
        t, grid, constants = call.tiling(kernel.__name__, block_c)
        partials = partial.tiles, blocks_c
        numbers = (*of_coords, *of_variance, *maps, t.tiles_x, t.tiles, *partials, *shares, *half, *widths)
        constants |= {
            "BLOCK_T": min(16, triton.next_power_of_2(partial.tiles)),
            "COVARIANCE": covariance,
        }
        last = Launch(kernel, grid, numbers, constants, t.options)
        return Plan(first, last, [(batch * partial.tiles, 7, blocks_c)])
    kernel = heatmap_moments_backward_channels
    t, grid, constants = call.tiling(kernel.__name__, channel_block(channels))
    constants |= {"CHUNKED": grid[1] > 1, "COVARIANCE": covariance}
    upstreams = (*of_coords, *of_variance, *of_mass[:2])
    numbers = (*upstreams, *maps, t.tiles_x, t.tiles, *shares, *half, *widths, eps)
    return Plan(None, Launch(kernel, grid, numbers, constants, t.options))
