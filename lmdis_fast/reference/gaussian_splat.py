r"""Landmarks to maps: Gaussians of one or several widths, and features spread over them.

At level ``l`` of width ``sigma_l`` and gain ``a_l``, with ``d`` the offset from the landmark in width units,

``g_k(p) = a_l exp(-|d_kp|^2 / (2 sigma_l^2))``

which is a product of two exponentials along the axes, so that K (H + W) of them are evaluated and not K H W.

* ``peak``: ``m_k = g_k``; ``sum``: ``m_k = a_l g_k / sum_p g_k`` (a softmax along each axis)
* ``channels``: ``m_k = g_k / Z`` and a background map ``b_l / Z`` after them, ``Z(p) = sum_k g_k(p) + b_l``
  (Zhang et al. 2018, eqs. 11 and 12)

``splat_landmarks`` puts the levels' ``channels`` maps one after the other, and behind them
``F_l(p) = sum_k m_lk(p) f_k``, the background's feature included (eq. 13 without its activation).

Backward, with ``G_k`` the gradient of ``g_k``: ``G = g`` for ``peak`` and ``G_k = (g_k - sum_j m_j g_j) / Z`` for
``channels``; then ``dc_k = s / sigma_l^2 sum_p G_k g_k d_kp``, in which each axis is summed before the other is
weighted. Of the features it is the pooling: ``df_k = sum_l sum_p m_lk dF_l``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .lattice import arithmetic_dtype, pixel_centres, width_scales


def scaled_offsets(coords: Tensor, height: int, width: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Offsets of the pixels from the points, in width units: ``(..., W)`` and ``(..., H)`` for ``(..., 2)``."""
    scale_x, scale_y = width_scales(height, width, align_corners)
    x = pixel_centres(width, align_corners, coords.dtype, coords.device)
    y = pixel_centres(height, align_corners, coords.dtype, coords.device)
    return scale_x * (x - coords[..., :1]), scale_y * (y - coords[..., 1:])


class _Levels:
    """Offsets ``(N, 1, K, W|H)`` and exponentials or axis softmaxes ``(N, L, K, W|H)`` of all levels."""

    def __init__(
        self,
        coords: Tensor,
        size: Sequence[int],
        sigma: Sequence[float],
        gain: Sequence[float],
        normalize: str,
        align_corners: bool,
    ) -> None:
        height, width = size
        self.scales = width_scales(height, width, align_corners)
        self.offset_x, self.offset_y = scaled_offsets(coords.unsqueeze(1), height, width, align_corners)
        self.precision = self.of_levels([1.0 / s**2 for s in sigma], coords)
        self.gain = self.of_levels(gain, coords)
        exponent_x = -0.5 * self.precision * self.offset_x.square()
        exponent_y = -0.5 * self.precision * self.offset_y.square()
        if normalize == "sum":
            self.along_x, self.along_y = exponent_x.softmax(-1), exponent_y.softmax(-1)
        else:
            self.along_x, self.along_y = exponent_x.exp(), exponent_y.exp()

    @staticmethod
    def of_levels(values: Sequence[float], like: Tensor) -> Tensor:
        """One number per level as ``(L, 1, 1)``."""
        return torch.tensor(list(values), dtype=like.dtype, device=like.device)[:, None, None]

    def maps(self) -> Tensor:
        """``gain * exp(...)``, ``(N, L, K, H, W)``."""
        return (self.gain * self.along_y).unsqueeze(4) * self.along_x.unsqueeze(3)

    def normalized(self, background: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Maps that sum to one at each pixel, background last ``(N, L, K+1, H, W)``, and ``Z (N, L, 1, H, W)``."""
        maps = self.maps()
        floor = self.of_levels(background, maps).unsqueeze(-1)
        total = maps.sum(2, keepdim=True) + floor
        return torch.cat((maps / total, floor / total), 2), total

    def moved(self, grad: Tensor, normalize: str) -> Tensor:
        """Gradient ``(N, K, 2)`` of the coordinates from that of :meth:`maps`."""
        by_x = (grad * self.along_y.unsqueeze(4)).sum(3)
        by_y = (grad * self.along_x.unsqueeze(3)).sum(4)
        if normalize == "sum":
            by_x = by_x - (by_x * self.along_x).sum(-1, keepdim=True)
            by_y = by_y - (by_y * self.along_y).sum(-1, keepdim=True)
        along = torch.stack(
            (
                self.scales[0] * (by_x * self.along_x * self.offset_x).sum(-1),
                self.scales[1] * (by_y * self.along_y * self.offset_y).sum(-1),
            ),
            -1,
        )
        return (along * self.precision * self.gain).sum(1)


def _through_normalization(grad: Tensor, shares: Tensor, total: Tensor) -> Tensor:
    """Gradient of the Gaussians ``(N, L, K, H, W)`` from that of their ``channels`` maps."""
    return (grad[:, :, :-1] - (grad * shares).sum(2, keepdim=True)) / total


def render_gaussians(
    coords: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Tensor:
    """Maps ``(N, L, K, H, W)``, or ``(N, L, K+1, H, W)`` for ``channels``, in the coordinates' dtype."""
    levels = _Levels(coords.to(arithmetic_dtype(coords)), size, sigma, gain, normalize, align_corners)
    maps = levels.maps() if background is None else levels.normalized(background)[0]
    return maps.to(coords.dtype).contiguous()  # also for coordinates that are not


def render_gaussians_backward(
    grad: Tensor,
    coords: Tensor,
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Tensor:
    """Gradient ``(N, K, 2)`` of the coordinates, in their dtype."""
    dtype = arithmetic_dtype(coords)
    grad = grad.to(dtype)
    levels = _Levels(coords.to(dtype), grad.shape[3:], sigma, gain, normalize, align_corners)
    if background is not None:
        grad = _through_normalization(grad, *levels.normalized(background))
    return levels.moved(grad, normalize).to(coords.dtype)


def splat_landmarks(
    coords: Tensor,
    features: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float],
    align_corners: bool,
) -> Tensor:
    """Maps of all levels, then features of all levels: ``(N, L (K+1) + L S, H, W)``, in the features' dtype."""
    dtype = arithmetic_dtype(coords, features)
    levels = _Levels(coords.to(dtype), size, sigma, gain, "channels", align_corners)
    shares, _ = levels.normalized(background)
    spread = torch.matmul(features.to(dtype).transpose(1, 2).unsqueeze(1), shares.flatten(3))
    return torch.cat((shares.flatten(1, 2), torch.unflatten(spread, 3, tuple(size)).flatten(1, 2)), 1).to(
        features.dtype
    )


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
    """Gradients of the coordinates ``(N, K, 2)`` and of the features ``(N, K+1, S)``, each in its dtype."""
    dtype = arithmetic_dtype(coords, features)
    grad, size = grad.to(dtype), grad.shape[2:]
    channels, width = features.shape[1:]
    levels = _Levels(coords.to(dtype), size, sigma, gain, "channels", align_corners)
    shares, total = levels.normalized(background)
    of_shares = torch.unflatten(grad[:, : len(sigma) * channels], 1, (len(sigma), channels))
    of_spread = torch.unflatten(grad[:, len(sigma) * channels :], 1, (len(sigma), width)).flatten(3)
    grad_coords, grad_features = coords.new_empty((0,)), features.new_empty((0,))
    if need_features:
        pooled = torch.matmul(shares.flatten(3), of_spread.transpose(2, 3)).sum(1)
        grad_features = pooled.to(features.dtype)
    if need_coords:
        through = torch.unflatten(torch.matmul(features.to(dtype).unsqueeze(1), of_spread), 3, size)
        by_map = _through_normalization(of_shares + through, shares, total)
        grad_coords = levels.moved(by_map, "channels").to(coords.dtype)
    return grad_coords, grad_features
