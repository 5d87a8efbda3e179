r"""Heatmaps to landmarks: softmax, then mass, mean and variance of each channel.

With ``z`` the logits, ``T`` the temperature, ``(x, y)_p`` the centre of pixel ``p`` and ``s = (s_x, s_y)`` the width
scales of :mod:`~lmdis_fast.reference.lattice`:

* ``over="channels"``: ``q_kp = softmax_k(z_kp / T)`` at each pixel (Zhang et al. 2018, eq. 2);
  ``M_k = sum_p q_kp``, ``D_k = M_k + eps`` (eq. 3)
* ``over="pixels"``: ``q_kp = softmax_p(z_kp / T)`` in each channel, ``D_k = 1``
* ``over="marginals"``: ``q_k(x, y) = softmax_x(mean_y z / T) softmax_y(mean_x z / T)``, ``D_k = 1`` (Jakab et al. 2018)

and in each of them ``mu_k = sum_p q_kp (x, y)_p / D_k`` and
``V_k = s^2 sum_p q_kp ((x, y)_p - mu_k)^2 / D_k``, from central differences: raw second moments lose digits.

A softmax whose inputs are all ``-inf`` has no distribution; here it is zero everywhere, so a pixel masked in every
channel (or, for ``pixels`` and ``marginals``, a channel masked everywhere) contributes nothing.

Backward. With ``r = eps mu / D`` (because ``sum_p q (x - mu) = eps mu``), offsets ``d = (x, y)_p - mu`` and upstream
gradients ``g_mu``, ``g_V``, ``g_C`` (of the covariance xy) and ``g_M``, the derivative by ``q_kp`` is

``h_kp = (a . d + g_Vx (s_x^2 d_x^2 - V_x) + g_Vy (s_y^2 d_y^2 - V_y) + g_C (s_x s_y d_x d_y - C)) / D + g_M`` with
``a_x = g_mu_x - 2 r_x s_x^2 g_Vx - r_y s_x s_y g_C`` (and symmetrically), ``h = 0`` for the background, and
``dz = q (h - sum q h) / T``, the sum running over whatever the softmax ran over: one read, one write, no reduction
over the image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .lattice import arithmetic_dtype, in_layout_of, pixel_centres, width_scales


def masked_softmax(logits: Tensor, dim: int) -> Tensor:
    """Softmax along ``dim`` that is zero, with zero gradient, where all inputs are ``-inf``. NaN stays NaN."""
    peak = logits.detach().amax(dim, keepdim=True)
    empty = peak == -math.inf
    weights = (logits - peak.masked_fill(empty, 0.0)).exp_()
    return weights / weights.sum(dim, keepdim=True).masked_fill(empty, 1.0)


def probabilities(logits: Tensor, over: str, temperature: float) -> Tensor:
    """``(N, C, H, W)`` softmax of the logits over ``"channels"`` or ``"pixels"``, in float32 at least."""
    z = logits.to(arithmetic_dtype(logits))
    if temperature != 1.0:
        z = z / temperature
    if over == "channels":
        return masked_softmax(z, 1)
    return torch.unflatten(masked_softmax(z.flatten(2), 2), 2, z.shape[2:])


def _axis_marginals(logits: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Softmax of each axis' mean logits: ``(N, K, W)`` and ``(N, K, H)``."""
    z = logits[:, :count].to(arithmetic_dtype(logits))
    return masked_softmax(z.mean(2) / temperature, 2), masked_softmax(z.mean(3) / temperature, 2)


def heatmap_moments(
    logits: Tensor,
    over: str,
    background: bool,
    temperature: float,
    align_corners: bool,
    eps: float,
    covariance: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates ``(N, K, 2)``, variance ``(N, K, 2)`` or covariance ``(N, K, 3)``, and mass ``(N, K)``."""
    height, width = logits.shape[2:]
    count = logits.shape[1] - int(background)
    dtype = arithmetic_dtype(logits)
    x = pixel_centres(width, align_corners, dtype, logits.device)
    y = pixel_centres(height, align_corners, dtype, logits.device)
    scale_x, scale_y = width_scales(height, width, align_corners)

    q = None
    if over == "marginals":
        along_x, along_y = _axis_marginals(logits, count, temperature)
        mass = along_x.sum(-1) * along_y.sum(-1)
    else:
        q = probabilities(logits, over, temperature)[:, :count]
        along_x, along_y = q.sum(2), q.sum(3)
        mass = along_x.sum(-1)
    divisor = mass + eps if over == "channels" else torch.ones_like(mass)

    mean_x = (along_x * x).sum(-1) / divisor
    mean_y = (along_y * y).sum(-1) / divisor
    offset_x = x - mean_x.unsqueeze(-1)
    offset_y = y - mean_y.unsqueeze(-1)
    moments = [
        (along_x * (scale_x * offset_x).square()).sum(-1) / divisor,
        (along_y * (scale_y * offset_y).square()).sum(-1) / divisor,
    ]
    if covariance and q is None:
        moments.append(torch.zeros_like(mass))  # the product of two marginals has no correlation
    elif covariance and q is not None:
        row_sums = (q * offset_x.unsqueeze(2)).sum(3)
        moments.append((row_sums * offset_y).sum(-1) * (scale_x * scale_y) / divisor)
    return torch.stack((mean_x, mean_y), -1), torch.stack(moments, -1), mass


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
    """Gradient ``(N, C, H, W)`` of the logits, in their dtype and layout. Absent gradients count as zero."""
    height, width = logits.shape[2:]
    count = logits.shape[1] - int(background)
    dtype = arithmetic_dtype(logits)
    x = pixel_centres(width, align_corners, dtype, logits.device)
    y = pixel_centres(height, align_corners, dtype, logits.device)
    scale_x, scale_y = width_scales(height, width, align_corners)

    divisor = mass + eps if over == "channels" else torch.ones_like(mass)
    drift = coords * (eps / divisor if over == "channels" else torch.zeros_like(mass)).unsqueeze(-1)
    slope = torch.zeros_like(coords) if grad_coords is None else grad_coords
    slope_x, slope_y = slope.unbind(-1)
    offset_x = x - coords[..., :1]
    offset_y = y - coords[..., 1:]
    along_x = torch.zeros_like(offset_x)
    along_y = torch.zeros_like(offset_y)
    cross = None
    if grad_variance is not None:
        grad_x, grad_y = grad_variance[..., 0], grad_variance[..., 1]
        slope_x = slope_x - 2 * scale_x**2 * drift[..., 0] * grad_x
        slope_y = slope_y - 2 * scale_y**2 * drift[..., 1] * grad_y
        along_x = grad_x.unsqueeze(-1) * ((scale_x * offset_x).square() - variance[..., :1])
        along_y = grad_y.unsqueeze(-1) * ((scale_y * offset_y).square() - variance[..., 1:2])
        if variance.shape[-1] == 3 and over != "marginals":
            cross = scale_x * scale_y * grad_variance[..., 2]
            slope_x = slope_x - drift[..., 1] * cross
            slope_y = slope_y - drift[..., 0] * cross
            along_y = along_y - (grad_variance[..., 2] * variance[..., 2]).unsqueeze(-1)
    along_x = (along_x + slope_x.unsqueeze(-1) * offset_x) / divisor.unsqueeze(-1)
    along_y = (along_y + slope_y.unsqueeze(-1) * offset_y) / divisor.unsqueeze(-1)

    if over == "marginals":
        p_x, p_y = _axis_marginals(logits, count, temperature)
        of_x = p_x * (along_x - (p_x * along_x).sum(-1, keepdim=True)) / (temperature * height)
        of_y = p_y * (along_y - (p_y * along_y).sum(-1, keepdim=True)) / (temperature * width)
        grad = of_x.unsqueeze(2) + of_y.unsqueeze(3)
    else:
        if grad_mass is not None and over == "channels":
            along_y = along_y + grad_mass.unsqueeze(-1)
        by_weight = along_x.unsqueeze(2) + along_y.unsqueeze(3)
        if cross is not None:
            by_weight = by_weight + (cross / divisor)[..., None, None] * (
                offset_x.unsqueeze(2) * offset_y.unsqueeze(3)
            )
        q = probabilities(logits, over, temperature)
        reduced = 1 if over == "channels" else (2, 3)
        expected = (q[:, :count] * by_weight).sum(reduced, keepdim=True)
        grad = q[:, :count] * (by_weight - expected) / temperature
        if background and over == "channels":
            grad = torch.cat((grad, q[:, count:] * expected / -temperature), 1)
    if grad.shape[1] < logits.shape[1]:
        grad = torch.cat((grad, torch.zeros_like(grad[:, :1])), 1)
    return in_layout_of(grad.to(logits.dtype), logits)
