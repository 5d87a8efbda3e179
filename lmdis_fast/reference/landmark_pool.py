r"""Features to landmarks: the weighted mean of a feature map for each channel.

``landmark_pool``: ``f_ks = sum_p q_kp F_sp / D_k`` with ``q`` the softmax of the logits and ``D_k = M_k + eps`` the
channel's mass, or 1 for ``over="pixels"`` (Zhang et al. 2018, eq. 6, with the softmax itself as the weight).
Backward: ``dF_sp = sum_k (g_ks / D_k) q_kp``; ``h_kp = (sum_s g_ks F_sp - sum_s g_ks f_ks) / D_k + g_M_k`` and
``dz = q (h - sum q h) / T``, the sum running over whatever the softmax ran over.

``gaussian_pool``: ``f_ks = sum_p w_kp F_sp`` with ``w_kp = exp(-|s ((x, y)_p - c_k)|^2 / (2 sigma^2)) / sum_p (...)``
(eqs. 6 and 10). The weight is the product of a softmax along each axis, so that it is exact, and never 0 / 0, for a
landmark however far outside the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gaussian_splat import scaled_offsets
from .heatmap_moments import probabilities
from .lattice import arithmetic_dtype, in_layout_of, width_scales


def _absent(like: Tensor) -> Tensor:
    """Stands for a gradient that was not asked for."""
    return like.new_empty((0,))


def landmark_pool(
    features: Tensor, logits: Tensor, over: str, temperature: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Pooled features ``(N, C, S)`` and mass ``(N, C)``, in float32 at least."""
    dtype = arithmetic_dtype(features, logits)
    q = probabilities(logits.to(dtype), over, temperature).flatten(2)
    mass = q.sum(2)
    pooled = torch.bmm(q, features.to(dtype).flatten(2).transpose(1, 2))
    if over == "channels":
        pooled = pooled / (mass + eps).unsqueeze(-1)
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
    """Gradients of the features and of the logits, each in its tensor's dtype and layout."""
    dtype = arithmetic_dtype(features, logits)
    q = probabilities(logits.to(dtype), over, temperature).flatten(2)
    grad = torch.zeros_like(pooled) if grad_pooled is None else grad_pooled.to(dtype)
    if over == "channels":
        grad = grad / (mass + eps).unsqueeze(-1)
    grad_features, grad_logits = _absent(features), _absent(logits)
    if need_features:
        spread = torch.unflatten(torch.bmm(grad.transpose(1, 2), q), 2, features.shape[2:])
        grad_features = in_layout_of(spread.to(features.dtype), features)
    if need_logits:
        by_weight = torch.bmm(grad, features.to(dtype).flatten(2)) - (grad * pooled).sum(2, keepdim=True)
        if grad_mass is not None and over == "channels":
            by_weight = by_weight + grad_mass.unsqueeze(-1)
        expected = (q * by_weight).sum(1 if over == "channels" else 2, keepdim=True)
        by_logit = torch.unflatten((q * (by_weight - expected) / temperature), 2, logits.shape[2:])
        grad_logits = in_layout_of(by_logit.to(logits.dtype), logits)
    return grad_features, grad_logits


def _axis_weights(
    coords: Tensor, sigma: Tensor, height: int, width: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scaled offsets and normalised weights along each axis: two ``(N, K, W)`` and two ``(N, K, H)``."""
    offset_x, offset_y = scaled_offsets(coords, height, width, align_corners)
    precision = (0.5 / sigma.square()).unsqueeze(-1)
    weight_x = torch.softmax(-precision * offset_x.square(), -1)
    weight_y = torch.softmax(-precision * offset_y.square(), -1)
    return offset_x, weight_x, offset_y, weight_y


def gaussian_pool(features: Tensor, coords: Tensor, sigma: Tensor, align_corners: bool) -> Tensor:
    """Pooled features ``(N, K, S)``, in float32 at least; ``sigma`` is ``(N, K)``."""
    height, width = features.shape[2:]
    dtype = arithmetic_dtype(features, coords, sigma)
    _, weight_x, _, weight_y = _axis_weights(coords.to(dtype), sigma.to(dtype), height, width, align_corners)
    weights = (weight_y.unsqueeze(3) * weight_x.unsqueeze(2)).flatten(2)
    return torch.bmm(weights, features.to(dtype).flatten(2).transpose(1, 2))


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
    height, width = features.shape[2:]
    dtype = arithmetic_dtype(features, coords, sigma)
    grad, points, spread = grad.to(dtype), coords.to(dtype), sigma.to(dtype)
    offset_x, weight_x, offset_y, weight_y = _axis_weights(points, spread, height, width, align_corners)
    grad_features, grad_coords, grad_sigma = _absent(features), _absent(coords), _absent(sigma)
    if need_features:
        weights = (weight_y.unsqueeze(3) * weight_x.unsqueeze(2)).flatten(2)
        by_feature = torch.unflatten(torch.bmm(grad.transpose(1, 2), weights), 2, features.shape[2:])
        grad_features = in_layout_of(by_feature.to(features.dtype), features)
    if need_landmarks:
        by_weight = torch.unflatten(torch.bmm(grad, features.to(dtype).flatten(2)), 2, features.shape[2:])
        by_x = (by_weight * weight_y.unsqueeze(3)).sum(2)
        by_y = (by_weight * weight_x.unsqueeze(2)).sum(3)
        score_x = weight_x * (by_x - (weight_x * by_x).sum(-1, keepdim=True))
        score_y = weight_y * (by_y - (weight_y * by_y).sum(-1, keepdim=True))
        scale_x, scale_y = width_scales(height, width, align_corners)
        moved = torch.stack(
            (scale_x * (score_x * offset_x).sum(-1), scale_y * (score_y * offset_y).sum(-1)), -1
        )
        grad_coords = (moved / spread.square().unsqueeze(-1)).to(coords.dtype)
        widened = (score_x * offset_x.square()).sum(-1) + (score_y * offset_y.square()).sum(-1)
        grad_sigma = (widened / spread**3).to(sigma.dtype)
    return grad_features, grad_coords, grad_sigma
