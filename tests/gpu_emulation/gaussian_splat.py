"""render_gaussians and splat_landmarks as the operators of csrc/cuda/gaussian_splat.cu, on emulated kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .emulated import arrays, dtype_name, kernels

NORMALIZE = {"peak": 0, "sum": 1, "channels": 2}


def render_gaussians(
    coords: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Tensor:
    """Maps of all levels."""
    batch, count = coords.shape[:2]
    maps = torch.empty(batch, len(sigma), count + (background is not None), *size, dtype=coords.dtype)
    kernels("gaussian_splat").forward(
        *arrays(coords.float().contiguous(), None),
        sigma,
        gain,
        background,
        NORMALIZE[normalize],
        align_corners,
        *arrays(maps.view(batch, -1, *size) if batch else maps.new_empty(0, 1, *size)),
        dtype_name(maps),
    )
    return maps


def render_gaussians_backward(
    grad: Tensor,
    coords: Tensor,
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Tensor:
    """Gradient of the coordinates."""
    upstream = grad.to(coords.dtype)
    points = coords.float().contiguous()
    grad_coords = torch.empty_like(points)
    planes = upstream.shape[1] * upstream.shape[2]
    kernels("gaussian_splat").backward(
        *arrays(upstream.reshape(upstream.shape[0], planes, *upstream.shape[3:])),
        dtype_name(upstream),
        *arrays(points, None),
        sigma,
        gain,
        background,
        NORMALIZE[normalize],
        align_corners,
        *arrays(grad_coords, None),
    )
    return grad_coords.to(coords.dtype)


def splat_landmarks(
    coords: Tensor,
    features: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float],
    align_corners: bool,
) -> Tensor:
    """Maps of all levels, then features of all levels."""
    planes = len(sigma) * (features.shape[1] + features.shape[2])
    maps = features.new_empty(coords.shape[0], planes, *size)
    kernels("gaussian_splat").forward(
        *arrays(coords.float().contiguous(), features.float().contiguous()),
        sigma,
        gain,
        background,
        NORMALIZE["channels"],
        align_corners,
        *arrays(maps),
        dtype_name(maps),
    )
    return maps


def splat_landmarks_backward(
    grad: Tensor,
    coords: Tensor,
    features: Tensor,
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float],
    align_corners: bool,
    need_coords: bool,
    need_features: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the coordinates and of the features."""
    upstream = grad.to(features.dtype)
    points, vectors = coords.float().contiguous(), features.float().contiguous()
    grad_coords = torch.empty_like(points) if need_coords else None
    grad_features = torch.empty_like(vectors) if need_features else None
    kernels("gaussian_splat").backward(
        *arrays(upstream),
        dtype_name(upstream),
        *arrays(points, vectors),
        sigma,
        gain,
        background,
        NORMALIZE["channels"],
        align_corners,
        *arrays(grad_coords, grad_features),
    )
    return (
        coords.new_empty(0) if grad_coords is None else grad_coords.to(coords.dtype),
        features.new_empty(0) if grad_features is None else grad_features.to(features.dtype),
    )
