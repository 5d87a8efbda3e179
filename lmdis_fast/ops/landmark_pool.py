"""Features to landmarks: the softmax-weighted, or Gaussian-weighted, mean of a feature map for each channel.

``landmark_pool``: ``f_k = sum_p q_kp F_p / (sum_p q_kp + eps)``; ``gaussian_pool``: ``f_k = sum_p w_kp F_p`` with
``w`` a Gaussian that sums to one. The formulas are in :mod:`lmdis_fast.reference.landmark_pool`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..reference import landmark_pool as reference
from ..reference.lattice import arithmetic_dtype
from .checks import (
    check_choice,
    check_maps,
    check_points,
    check_same_batch,
    check_same_device,
    check_tensor,
    checked_number,
    described,
)
from .registration import register_operator


def landmark_pool(
    features: Tensor,
    logits: Tensor,
    *,
    over: Literal["channels", "pixels"] = "channels",
    temperature: float = 1.0,
    eps: float = 1e-6,
) -> Tensor:
    """Softmax-weighted mean of the features for each channel, the background's included.

    ``f_ks = sum_p q_kp F_sp / (sum_p q_kp + eps)`` with ``q`` the softmax of the logits, as in
    :func:`~lmdis_fast.ops.heatmap_moments` (Zhang et al. 2018, eq. 6, with the heatmap itself as the soft mask).

    Args:
        features: (N, S, H, W) floating, any strides.
        logits: (N, C, H, W) floating, any strides, of the same N, H and W. ``-inf`` masks.
        over: the softmax runs over the ``"channels"`` of each pixel or the ``"pixels"`` of each channel.
        temperature: divides the logits.
        eps: added to the mass that is divided by (channels only). The published system adds none; the default keeps
            a channel without any mass at 0.

    Returns:
        (N, C, S) in the features' dtype; arithmetic in float32, or float64 if either input is.

    Raises:
        TypeError: an input that is no floating tensor, a temperature or eps that is no number.
        ValueError: wrong ranks, different N, H, W or devices, an unknown ``over``, a temperature that is not positive
            and finite, a negative or non-finite eps. NaN in the contents is not looked for.
    """
    op = "landmark_pool"
    check_maps(op, "features", features, "(N, S, H, W)")
    check_maps(op, "logits", logits, "(N, C, H, W)")
    check_same_device(op, features=features, logits=logits)
    if features.shape[0] != logits.shape[0] or features.shape[2:] != logits.shape[2:]:
        raise ValueError(
            f"{op}: features and logits must have the same N, H and W, "
            f"got {tuple(features.shape)} and {tuple(logits.shape)}"
        )
    check_choice(op, "over", over, ("channels", "pixels"))
    temperature = checked_number(op, "temperature", temperature)
    eps = checked_number(op, "eps", eps, zero=True)
    pooled: Tensor = _landmark_forward(features, logits, over, temperature, eps)[0]
    return _in_dtype_of(features, pooled)


def gaussian_pool(
    features: Tensor, coords: Tensor, sigma: float | Tensor, *, align_corners: bool = False
) -> Tensor:
    """Mean of the features under a Gaussian at each landmark.

    ``f_ks = sum_p w_kp F_sp``, ``w_kp`` proportional to ``exp(-d^2 / (2 sigma^2))`` and of sum 1, ``d`` the distance
    of pixel p from landmark k in width units (Zhang et al. 2018, eqs. 6 and 10).

    Args:
        features: (N, S, H, W) floating, any strides.
        coords: (N, K, 2) floating, (x, y) in [-1, 1] (or outside), in the frame that ``align_corners`` says.
        sigma: width in units where half of ``sqrt(H W)`` pixels is 1: a number, or a (K,) or (N, K) floating tensor,
            which may require a gradient. The contents of a tensor are not checked to be positive.
        align_corners: as in ``grid_sample``.

    Returns:
        (N, K, S) in the features' dtype; arithmetic in float32, or float64 if any input is.

    Raises:
        TypeError: an input that is no floating tensor, a sigma that is neither number nor tensor.
        ValueError: wrong ranks, different N or devices, no landmark, a sigma that is not positive and finite or whose
            shape does not fit.
    """
    op = "gaussian_pool"
    check_maps(op, "features", features, "(N, S, H, W)")
    check_points(op, "coords", coords, "(N, K, 2)")
    check_same_batch(op, features=features, coords=coords)
    if isinstance(sigma, Tensor):
        check_tensor(op, "sigma", sigma, "(K,) or (N, K)", (1, 2))
        if sigma.shape[-1] != coords.shape[1] or (sigma.dim() == 2 and sigma.shape[0] != coords.shape[0]):
            raise ValueError(
                f"{op}: sigma must be (K,) or (N, K) for coords {tuple(coords.shape)}, got {described(sigma)}"
            )
        widths = sigma.expand(coords.shape[:2])
    else:
        widths = torch.full(
            (coords.shape[0], coords.shape[1]),
            checked_number(op, "sigma", sigma),
            dtype=arithmetic_dtype(coords),
            device=coords.device,
        )
    check_same_device(op, features=features, coords=coords, sigma=widths)
    pooled: Tensor = _gaussian_forward(features, coords, widths, bool(align_corners))
    return _in_dtype_of(features, pooled)


def _in_dtype_of(features: Tensor, pooled: Tensor) -> Tensor:
    # torch knows no autocast for tensors without storage.
    if pooled.dtype == features.dtype or (
        not features.is_meta and torch.is_autocast_enabled(features.device.type)
    ):
        return pooled
    return pooled.to(features.dtype)


def _landmark_fake(
    features: Tensor, logits: Tensor, over: str, temperature: float, eps: float
) -> tuple[Tensor, Tensor]:
    batch, channels = logits.shape[:2]
    dtype = arithmetic_dtype(features, logits)
    return (
        features.new_empty((batch, channels, features.shape[1]), dtype=dtype),
        features.new_empty((batch, channels), dtype=dtype),
    )


def _landmark_fake_backward(
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
    return (
        torch.empty_like(features) if need_features else features.new_empty((0,)),
        torch.empty_like(logits) if need_logits else logits.new_empty((0,)),
    )


def _landmark_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    features, logits, *ctx.options = inputs
    ctx.save_for_backward(features, logits, *output)


def _landmark_autograd(ctx: Any, grad_pooled: Tensor | None, grad_mass: Tensor | None) -> tuple[Any, ...]:
    need = ctx.needs_input_grad
    of_features, of_logits = _landmark_backward(
        grad_pooled, grad_mass, *ctx.saved_tensors, *ctx.options, need[0], need[1]
    )
    return of_features if need[0] else None, of_logits if need[1] else None, None, None, None


_landmark_backward = register_operator(
    "landmark_pool_backward",
    "(Tensor? grad_pooled, Tensor? grad_mass, Tensor features, Tensor logits, Tensor pooled, Tensor mass, str over, "
    "float temperature, float eps, bool need_features, bool need_logits) -> (Tensor, Tensor)",
    reference=reference.landmark_pool_backward,
    fake=_landmark_fake_backward,
)
_landmark_forward = register_operator(
    "landmark_pool",
    "(Tensor features, Tensor logits, str over, float temperature, float eps) -> (Tensor pooled, Tensor mass)",
    reference=reference.landmark_pool,
    fake=_landmark_fake,
    setup_context=_landmark_setup,
    backward=_landmark_autograd,
)


def _gaussian_fake(features: Tensor, coords: Tensor, sigma: Tensor, align_corners: bool) -> Tensor:
    shape = (coords.shape[0], coords.shape[1], features.shape[1])
    return features.new_empty(shape, dtype=arithmetic_dtype(features, coords, sigma))


def _gaussian_fake_backward(
    grad: Tensor,
    features: Tensor,
    coords: Tensor,
    sigma: Tensor,
    align_corners: bool,
    need_features: bool,
    need_landmarks: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(features) if need_features else features.new_empty((0,)),
        coords.new_empty(coords.shape if need_landmarks else (0,)),
        sigma.new_empty(sigma.shape if need_landmarks else (0,)),
    )


def _gaussian_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.align_corners = inputs
    ctx.save_for_backward(*tensors)


def _gaussian_autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    need = ctx.needs_input_grad
    of_features, of_coords, of_sigma = _gaussian_backward(
        grad, *ctx.saved_tensors, ctx.align_corners, need[0], need[1] or need[2]
    )
    return (
        of_features if need[0] else None,
        of_coords if need[1] else None,
        of_sigma if need[2] else None,
        None,
    )


_gaussian_backward = register_operator(
    "gaussian_pool_backward",
    "(Tensor grad, Tensor features, Tensor coords, Tensor sigma, bool align_corners, bool need_features, "
    "bool need_landmarks) -> (Tensor, Tensor, Tensor)",
    reference=reference.gaussian_pool_backward,
    fake=_gaussian_fake_backward,
)
_gaussian_forward = register_operator(
    "gaussian_pool",
    "(Tensor features, Tensor coords, Tensor sigma, bool align_corners) -> Tensor",
    reference=reference.gaussian_pool,
    fake=_gaussian_fake,
    setup_context=_gaussian_setup,
    backward=_gaussian_autograd,
)
