"""Warping images against a plain spline grid and grid_sample, and against grid_sample alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmdis_fast.ops import ThinPlateSpline, tps_warp

from .harness import Contender, Timing, compare


def plain(image: Tensor, spline: ThinPlateSpline) -> Tensor:
    """Distances, kernel and grid in memory, then grid_sample."""
    n, _, height, width = image.shape
    x, y = ((2 * torch.arange(s) + 1) / s - 1 for s in (width, height))
    points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).view(-1, 2)
    grid = spline.transform(points.expand(n, -1, -1)).view(n, height, width, 2)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def run() -> list[Timing]:
    """All cases."""
    timings = []
    for size in (64, 96, 128):
        image = torch.rand(16, 3, size, size)
        spline = ThinPlateSpline.random(16, std=0.05, generator=torch.Generator().manual_seed(0))
        grid = spline.grid((size, size))
        contenders = [
            Contender("points, kernel, grid_sample", lambda i, s=spline: plain(i, s)),
            Contender("lmdis_fast", lambda i, s=spline: tps_warp(i, s)),
            Contender(
                "grid_sample, grid given",
                lambda i, g=grid: F.grid_sample(i, g, padding_mode="border", align_corners=False),
            ),
        ]
        timings += compare(f"16x3x{size}x{size}, 49 points", contenders, [image])
    return timings
