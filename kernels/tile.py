"""Tiles of a map, ``[channels, rows, columns]``: where they lie, and how they are read and written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch_table import architecture, columns, configuration, options_of

#: All channels of a pixel are in registers up to so many; beyond, they are taken in chunks of so many.
MOST_CHANNELS = 64


@triton.jit
def tile_axes(tile, tiles_x, BLOCK_W: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """Columns of a tile, and its rows at the first step."""
    column = (tile % tiles_x) * BLOCK_W + tl.arange(0, BLOCK_W)
    return column, (tile // tiles_x) * (ROWS * STEPS) + tl.arange(0, ROWS)


@triton.jit
def _places(c, channels, row, column, height, width, stride_c, stride_h, stride_w):
    """Offsets and mask of a tile."""
    by_row = row.to(tl.int64)[None, :, None] * stride_h + column.to(tl.int64)[None, None, :] * stride_w
    inside = (row < height)[None, :, None] & (column < width)[None, None, :]
    return c.to(tl.int64)[:, None, None] * stride_c + by_row, (c < channels)[:, None, None] & inside


@triton.jit
def load_tile(base, c, channels, row, column, height, width, stride_c, stride_h, stride_w, other):
    """A tile in float32, ``other`` outside."""
    offset, mask = _places(c, channels, row, column, height, width, stride_c, stride_h, stride_w)
    return tl.load(base + offset, mask=mask, other=other).to(tl.float32)


@triton.jit
def store_tile(base, values, c, channels, row, column, height, width, stride_c, stride_h, stride_w):
    """A tile in the dtype of what ``base`` points to."""
    offset, mask = _places(c, channels, row, column, height, width, stride_c, stride_h, stride_w)
    tl.store(base + offset, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def summed_parts(partials, n, parts, values, v, BLOCK_T: tl.constexpr):
    """Sum in float64 over the parts of ``partials (N, parts, values)``, at values ``v``."""
    total = tl.zeros(v.shape, tl.float64)
    for first in range(0, parts, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        pointers = partials + (n * parts + t)[:, None] * values + v[None, :]
        mask = (t < parts)[:, None] & (v < values)[None, :]
        total += tl.sum(tl.load(pointers, mask=mask, other=0.0).to(tl.float64), 0)
    return total


class Tiling:
    """A map of so many pixels cut into tiles, as an entry of the launch table says."""

    def __init__(self, size: torch.Size | tuple[int, ...], entry: dict[str, int]) -> None:
        height, width = size
        self.block_w = columns(width, entry["TILE"])
        self.rows = min(max(entry["TILE"] // self.block_w, 1), triton.next_power_of_2(height))
        if self.rows * self.block_w < 16:  # a matrix product's least size
            self.rows = 16 // self.block_w
        self.steps = max(min(entry.get("STEPS", 1), -(-height // self.rows)), 1)
        self.tiles_x = -(-width // self.block_w)
        self.tiles = self.tiles_x * -(-height // (self.rows * self.steps))
        self.constants = {"BLOCK_W": self.block_w, "ROWS": self.rows, "STEPS": self.steps}
        self.options = options_of(entry)


def channel_block(channels: int, least: int = 1) -> int:
    """Channels that a program takes at a time."""
    return max(min(int(triton.next_power_of_2(channels)), MOST_CHANNELS), least)


def finishing(
    kernel: str, device: torch.device, values: int, parts: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Blocks and options of a kernel that sums so many parts of so many values."""
    entry = configuration(kernel, architecture(device), values, parts, 4)
    blocks = {
        "BLOCK_V": min(entry["BLOCK_V"], triton.next_power_of_2(values)),
        "BLOCK_T": min(entry["BLOCK_T"], triton.next_power_of_2(parts)),
    }
    return blocks, options_of(entry)
