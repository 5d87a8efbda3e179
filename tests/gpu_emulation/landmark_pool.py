"""landmark_pool and gaussian_pool as the operators of csrc/cuda/landmark_pool.cu, on emulated kernels."""

import torch
from torch import Tensor

from .emulated import arrays, dtype_name, kernels


def _pair(features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype, as the entry makes them."""
    same = features.dtype == logits.dtype
    return (features, logits) if same else (features.float(), logits.float())


def landmark_pool(
    features: Tensor, logits: Tensor, over: str, temperature: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Pooled features and mass."""
    features, logits = _pair(features, logits)
    pooled = torch.empty(*logits.shape[:2], features.shape[1])
    mass = torch.empty(logits.shape[:2])
    kernels("landmark_pool").landmark_pool(
        *arrays(features, logits),
        dtype_name(features),
        over == "pixels",
        temperature,
        eps,
        *arrays(pooled, mass),
    )
    return pooled, mass


def landmark_pool_backward(
    grad_pooled: Tensor | None,
    grad_mass: Tensor | None,
    features: Tensor,
    logits: Tensor,
    pooled: Tensor,
    mass: Tensor,
    over: str,
    temperature: float,
    eps: float,
    need_features: bool,
    need_logits: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the features and of the logits."""
    f, z = _pair(features, logits)
    grad_features = torch.empty_like(features).to(f.dtype) if need_features else None
    grad_logits = torch.empty_like(logits).to(z.dtype) if need_logits else None
    small = [None if t is None else t.contiguous() for t in (grad_pooled, grad_mass)]
    kernels("landmark_pool").landmark_pool_backward(
        *arrays(*small, f, z),
        dtype_name(f),
        *arrays(pooled.contiguous(), mass.contiguous()),
        over == "pixels",
        temperature,
        eps,
        *arrays(grad_features, grad_logits),
    )
    return (
        features.new_empty(0) if grad_features is None else grad_features.to(features.dtype),
        logits.new_empty(0) if grad_logits is None else grad_logits.to(logits.dtype),
    )


def gaussian_pool(features: Tensor, coords: Tensor, sigma: Tensor, align_corners: bool) -> Tensor:
    """Pooled features."""
    pooled = torch.empty(*coords.shape[:2], features.shape[1])
    points, widths = coords.float().contiguous(), sigma.float().contiguous()
    kernels("landmark_pool").gaussian_pool(
        *arrays(features), dtype_name(features), *arrays(points, widths), align_corners, *arrays(pooled)
    )
    return pooled


def gaussian_pool_backward(
    grad: Tensor,
    features: Tensor,
    coords: Tensor,
    sigma: Tensor,
    align_corners: bool,
    need_features: bool,
    need_landmarks: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the features, and of the coordinates and sigma."""
    points, widths = coords.float().contiguous(), sigma.float().contiguous()
    grad_features = torch.empty_like(features) if need_features else None
    grad_coords = torch.empty_like(points) if need_landmarks else None
    grad_sigma = torch.empty_like(widths) if need_landmarks else None
    kernels("landmark_pool").gaussian_pool_backward(
        *arrays(grad.contiguous(), features),
        dtype_name(features),
        *arrays(points, widths),
        align_corners,
        *arrays(grad_features, grad_coords, grad_sigma),
    )
    return (
        features.new_empty(0) if grad_features is None else grad_features,
        coords.new_empty(0) if grad_coords is None else grad_coords.to(coords.dtype),
        sigma.new_empty(0) if grad_sigma is None else grad_sigma.to(sigma.dtype),
    )
