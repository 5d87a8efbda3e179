"""Channel softmax and coordinates against the eager forms in use."""

from __future__ import annotations

import torch
from torch import Tensor

from lmdis_fast.ops import heatmap_moments

from .harness import Contender, Timing, compare


def centres(size: int) -> Tensor:
    """Pixel centres along one axis."""
    return (2 * torch.arange(size) + 1) / size - 1


def product(logits: Tensor) -> Tensor:
    """Softmax, then one matrix product with the coordinates: the best eager form."""
    q = torch.softmax(logits, 1)[:, :-1].flatten(2)
    y, x = torch.meshgrid(centres(logits.shape[2]), centres(logits.shape[3]), indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y, x * x, y * y]).flatten(1)
    sums = q @ basis.T
    mean = sums[..., 1:3] / (sums[..., :1] + 1e-6)
    return torch.cat([mean, sums[..., 3:] / (sums[..., :1] + 1e-6) - mean**2], -1)


def operator(logits: Tensor) -> Tensor:
    """This package's."""
    moments = heatmap_moments(logits)
    return torch.cat([moments.coords, moments.variance], -1)


def run() -> list[Timing]:
    """All cases."""
    timings = []
    for landmarks, size in ((10, 64), (10, 128), (30, 64)):
        logits = torch.randn(32, landmarks + 1, size, size).requires_grad_()
        contenders = [Contender("softmax + product", product), Contender("lmdis_fast", operator)]
        timings += compare(f"32x{landmarks + 1}x{size}x{size}", contenders, [logits])
    return timings
