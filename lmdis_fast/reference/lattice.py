"""The frame that points, widths and pixels share.

Points are ``(x, y)`` in ``[-1, 1]``. Widths count in units where half of ``sqrt(H W)`` pixels is 1, which makes a
Gaussian round in pixels: an offset ``dx`` of the frame counts ``scale_x * dx`` width units.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 when any of the tensors is float64, otherwise float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def pixel_centres(count: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Centres of ``count`` pixels along one axis, shape ``(count,)``.

    ``(2 i + 1) / count - 1``, or ``linspace(-1, 1, count)`` with ``align_corners``, where a single pixel sits at 0.
    The numerators are exact integers, so each centre is rounded once and the lattice is symmetric.
    """
    index = torch.arange(count, dtype=dtype, device=device)
    if align_corners:
        return (2 * index - (count - 1)) / max(count - 1, 1)
    return (2 * index + (1 - count)) / count


def width_scales(height: int, width: int, align_corners: bool) -> tuple[float, float]:
    """``(scale_x, scale_y)``: width units per unit of the frame along each axis.

    The frame spans ``W`` pixels, or ``W - 1`` with ``align_corners``, and ``sqrt(H W) / 2`` pixels make one width
    unit. With ``align_corners`` an axis of one pixel has scale 0: all of the frame falls on that pixel.
    """
    side = math.sqrt(height * width)
    inset = 1 if align_corners else 0
    return (width - inset) / side, (height - inset) / side


def in_layout_of(result: Tensor, like: Tensor) -> Tensor:
    """``result`` with the strides that ``torch.empty_like(like)`` has, copied only where they differ."""
    if result.stride() == torch.empty_like(like, device="meta").stride():
        return result
    return torch.empty_like(like, dtype=result.dtype, device=result.device).copy_(result)
