"""heatmap_moments as the operators of csrc/cuda/heatmap_moments.cu, on emulated kernels."""

import torch
from torch import Tensor

from .emulated import arrays, dtype_name, kernels

OVER = {"channels": 0, "pixels": 1, "marginals": 2}


def heatmap_moments(
    logits: Tensor,
    over: str,
    background: bool,
    temperature: float,
    align_corners: bool,
    eps: float,
    covariance: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates, variance or covariance, mass."""
    batch, count, second = logits.shape[0], logits.shape[1] - int(background), 3 if covariance else 2
    coords, variance = torch.empty(batch, count, 2), torch.empty(batch, count, second)
    mass = torch.empty(batch, count)
    kernels("heatmap_moments").forward(
        *arrays(logits),
        dtype_name(logits),
        OVER[over],
        count,
        temperature,
        eps,
        align_corners,
        second,
        *arrays(coords, variance, mass),
    )
    return coords, variance, mass


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
    """Gradient of the logits."""
    grad = torch.empty_like(logits)
    small = [None if t is None else t.contiguous() for t in (grad_coords, grad_variance, grad_mass)]
    kernels("heatmap_moments").backward(
        *arrays(*small, logits),
        dtype_name(logits),
        OVER[over],
        logits.shape[1] - int(background),
        temperature,
        eps,
        align_corners,
        variance.shape[2],
        *arrays(coords.contiguous(), variance.contiguous(), mass.contiguous(), grad),
    )
    return grad
