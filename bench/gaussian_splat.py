"""Rendering and splatting against the same written with broadcasts and einsum."""

from __future__ import annotations

import torch
from torch import Tensor

from lmdis_fast.ops import splat_landmarks

from .harness import Contender, Timing, compare
from .heatmap_moments import centres

SIGMAS = (0.25, 0.354, 0.5)


def einsum(coords: Tensor, features: Tensor, size: int) -> Tensor:
    """One exponential for each pixel, landmark and width."""
    y, x = torch.meshgrid(centres(size), centres(size), indexing="ij")
    distance = (x - coords[..., 0, None, None]) ** 2 + (y - coords[..., 1, None, None]) ** 2
    maps, spread = [], []
    for sigma in SIGMAS:
        g = torch.cat([torch.exp(-distance / (2 * sigma**2)), torch.ones_like(distance[:, :1])], 1)
        g = g / g.sum(1, keepdim=True)
        maps.append(g)
        spread.append(torch.einsum("nkhw,nks->nshw", g, features))
    return torch.cat(maps + spread, 1)


def run() -> list[Timing]:
    """All cases."""
    timings = []
    for landmarks, size in ((10, 32), (10, 80), (30, 80)):
        coords = (torch.rand(16, landmarks, 2) * 2 - 1).requires_grad_()
        features = torch.randn(16, landmarks + 1, 32).requires_grad_()
        contenders = [
            Contender("broadcast + einsum", lambda c, f, size=size: einsum(c, f, size)),
            Contender(
                "lmdis_fast", lambda c, f, size=size: splat_landmarks(c, f, (size, size), sigma=list(SIGMAS))
            ),
        ]
        timings += compare(f"16x{landmarks + 1}x{size}x{size}, 3 widths", contenders, [coords, features])
    return timings
