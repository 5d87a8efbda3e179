"""The sizes of a run, shared by the rooms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """What the rooms make their cases from: N images, K landmarks, pixels of a side, inputs' dtypes."""

    batch: int = 32
    landmarks: tuple[int, ...] = (10, 30)
    pixels: tuple[int, ...] = (64, 80, 128)
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    extras: bool = True
    """Cases beside those of the targets: other layouts and options."""

    def grid(self) -> Iterator[tuple[int, int, torch.dtype]]:
        """(K, pixels, dtype) of the main cases."""
        for landmarks in self.landmarks:
            for pixels in self.pixels:
                for dtype in self.dtypes:
                    yield landmarks, pixels, dtype


FULL = Sizes()
QUICK = Sizes(batch=8, landmarks=(10,), pixels=(64,), dtypes=(torch.float32,), extras=False)
EXTRA_PIXELS = 80
"""Side of the cases beside the targets, which have 10 landmarks."""


def seeded() -> torch.Generator:
    """The same numbers for every case and every run."""
    return torch.Generator().manual_seed(0)


def laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    """The tensor (N, C, H, W) in one of the two layouts."""
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def centres(size: int) -> Tensor:
    """Pixel centres along one axis, (size,) in [-1, 1]."""
    return (2 * torch.arange(size) + 1) / size - 1
