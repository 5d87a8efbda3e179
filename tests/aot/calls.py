"""The calls whose kernels are compiled ahead of time: every room, layout and channel bucket, on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

BATCH = 4
HEIGHT = WIDTH = 80
#: One count in each bucket: in registers (16, 32, 64 channels with the background) and in chunks.
LANDMARKS = (10, 30, 60, 100)


def maps(channels: int, dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    """(N, C, H, W) on device meta."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((BATCH, channels, HEIGHT, WIDTH), dtype=dtype, device="meta", memory_format=layout)


def floats(*shape: int) -> Tensor:
    """float32 on device meta."""
    return torch.empty(shape, device="meta")


def heatmap_moments(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Forward and backward over channels, pixels and marginals."""
    from lmdis_fast.kernels import heatmap_moments as room

    for k, over, layout in [
        *((k, "channels", "contiguous") for k in LANDMARKS),
        *((k, "channels", "channels_last") for k in LANDMARKS[:2]),
        *(
            (10, over, layout)
            for over in ("pixels", "marginals")
            for layout in ("contiguous", "channels_last")
        ),
    ]:
        z = maps(k + 1, dtype, layout == "channels_last")
        options = (over, True, 1.0, False, 1e-6)
        saved = floats(BATCH, k, 2), floats(BATCH, k, 2), floats(BATCH, k)

        def forward(z: Tensor = z, options: tuple[Any, ...] = options) -> None:
            room.heatmap_moments(z, *options, False)

        def backward(
            z: Tensor = z, options: tuple[Any, ...] = options, saved: tuple[Any, ...] = saved
        ) -> None:
            room.heatmap_moments_backward(*saved, z, *saved, *options)

        yield f"{layout} K={k}", forward
        yield f"{layout} K={k}", backward


ROOMS = {"heatmap_moments": heatmap_moments}
