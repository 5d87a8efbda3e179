"""Heatmaps to landmarks: softmax, then mass, mean and variance of each channel.

``mean_k = sum_p q_kp (x, y)_p / (mass_k + eps)`` with ``mass_k = sum_p q_kp`` and ``q`` the softmax of the logits.
The formulas, and the closed form of the gradient, are in :mod:`lmdis_fast.reference.heatmap_moments`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..reference import heatmap_moments as reference
from ..reference.lattice import arithmetic_dtype
from .checks import check_choice, check_maps, checked_number, described
from .registration import register_operator


class HeatmapMoments(NamedTuple):
    """What :func:`heatmap_moments` returns; all in float32 at least.

    Attributes:
        coords: (N, K, 2) means, (x, y) in [-1, 1].
        variance: (N, K, 2) variances (xx, yy) in width units squared; with ``covariance=True`` (N, K, 3) (xx, yy, xy).
        mass: (N, K) sum of the weights, in pixels (1 for ``over="pixels"`` and ``"marginals"``).
    """

    coords: Tensor
    variance: Tensor
    mass: Tensor


def heatmap_moments(
    logits: Tensor,
    *,
    over: Literal["channels", "pixels", "marginals"] = "channels",
    background: bool = True,
    temperature: float = 1.0,
    align_corners: bool = False,
    eps: float = 1e-6,
    covariance: bool = False,
) -> HeatmapMoments:
    """Landmarks of heatmap logits: softmax, then each channel's mass, mean and variance.

    * ``over="channels"``: softmax across the channels at each pixel, the background last (Zhang et al. 2018, eqs. 2
      and 3); ``mean = sum_p q (x, y) / (mass + eps)``, ``variance = sum_p q ((x, y) - mean)^2 / (mass + eps)``.
    * ``over="pixels"``: softmax across the pixels of each channel (soft-argmax); mass is 1, ``eps`` is unused.
    * ``over="marginals"``: for each axis the logits' mean over the other axis, then a softmax along the axis (Jakab
      et al. 2018); mass is 1, covariance xy is 0, ``eps`` is unused.

    Args:
        logits: (N, C, H, W) float32, bfloat16, float16 or float64, any strides. ``-inf`` masks: a pixel masked in all
            channels (for ``"pixels"``: a channel masked everywhere) contributes nothing; for ``"marginals"`` one
            masked pixel masks its row and its column. A landmark without any mass has coordinates and variance 0.
        over: what the softmax runs over.
        background: the last channel is background and is no landmark, so K = C - 1; otherwise K = C.
        temperature: divides the logits.
        align_corners: the frame, as in ``grid_sample``: the centre of pixel i of W is ``(2 i + 1) / W - 1``, or with
            True ``2 i / (W - 1) - 1`` (0 for a single pixel).
        eps: added to the mass that is divided by (channels only). The published value is 1e-6.
        covariance: return the covariance xy as well.

    Returns:
        :class:`HeatmapMoments`. Coordinates are (x, y) in [-1, 1]. Variances are in width units squared, where half
        of ``sqrt(H W)`` pixels is 1 under either ``align_corners``: the square root is a width in the unit of every
        ``sigma`` of this package. Everything is computed and returned in float32, or float64 for float64 logits.

    Raises:
        TypeError: logits that are no floating tensor; a temperature or eps that is no number.
        ValueError: wrong rank, no landmark channel, no pixel, an unknown ``over``, a temperature that is not
            positive and finite, a negative or non-finite eps. NaN or +inf among the logits is not looked for and
            gives NaN.
    """
    op = "heatmap_moments"
    form = "(N, K+1, H, W)" if background else "(N, K, H, W)"
    check_maps(op, "logits", logits, form)
    if background and logits.shape[1] < 2:
        raise ValueError(f"{op}: logits must be {form} with K at least 1, got {described(logits)}")
    check_choice(op, "over", over, ("channels", "pixels", "marginals"))
    temperature = checked_number(op, "temperature", temperature)
    eps = checked_number(op, "eps", eps, zero=True)
    return HeatmapMoments(
        *_forward(logits, over, bool(background), temperature, bool(align_corners), eps, bool(covariance))
    )


def _fake(
    logits: Tensor,
    over: str,
    background: bool,
    temperature: float,
    align_corners: bool,
    eps: float,
    covariance: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, count = logits.shape[0], logits.shape[1] - int(background)
    dtype = arithmetic_dtype(logits)
    return (
        logits.new_empty((batch, count, 2), dtype=dtype),
        logits.new_empty((batch, count, 3 if covariance else 2), dtype=dtype),
        logits.new_empty((batch, count), dtype=dtype),
    )


def _fake_backward(
    grad_coords: Tensor | None,
    grad_variance: Tensor | None,
    grad_mass: Tensor | None,
    logits: Tensor,
    *_: Any,
) -> Tensor:
    return torch.empty_like(logits)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    logits, *options, _covariance = inputs
    ctx.save_for_backward(logits, *output)
    ctx.options = options


def _autograd(
    ctx: Any, grad_coords: Tensor | None, grad_variance: Tensor | None, grad_mass: Tensor | None
) -> tuple[Tensor | None, ...]:
    grad = _backward(grad_coords, grad_variance, grad_mass, *ctx.saved_tensors, *ctx.options)
    return grad, None, None, None, None, None, None


_backward = register_operator(
    "heatmap_moments_backward",
    "(Tensor? grad_coords, Tensor? grad_variance, Tensor? grad_mass, Tensor logits, Tensor coords, Tensor variance, "
    "Tensor mass, str over, bool background, float temperature, bool align_corners, float eps) -> Tensor",
    reference=reference.heatmap_moments_backward,
    fake=_fake_backward,
)
_forward = register_operator(
    "heatmap_moments",
    "(Tensor logits, str over, bool background, float temperature, bool align_corners, float eps, bool covariance)"
    " -> (Tensor coords, Tensor variance, Tensor mass)",
    reference=reference.heatmap_moments,
    fake=_fake,
    setup_context=_setup_context,
    backward=_autograd,
)
