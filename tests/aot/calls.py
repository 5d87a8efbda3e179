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

    for k in LANDMARKS:
        for over in ("channels", "pixels", "marginals"):
            for last in (False, True):
                options = (over, True, 1.0, False, 1e-6)
                z = maps(k + 1, dtype, last)
                saved = floats(BATCH, k, 2), floats(BATCH, k, 2), floats(BATCH, k)
                layout = "channels_last" if last else "contiguous"
                yield f"{layout} K={k}", lambda z=z, o=options: room.heatmap_moments(z, *o, False)  # type: ignore[misc]
                yield (
                    f"{layout} K={k}",
                    lambda z=z, o=options, s=saved: room.heatmap_moments_backward(*s, z, *s, *o),  # type: ignore[misc]
                )


ROOMS = {"heatmap_moments": heatmap_moments}
