"""Landmarks to maps: Gaussians of one or several widths, and features spread over them.

``g_k(p) = gain exp(-d_kp^2 / (2 sigma^2))``, as it is, divided by its sum over the pixels, or divided at each pixel
by the sum over the landmarks and a constant background. The formulas are in
:mod:`lmdis_fast.reference.gaussian_splat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from ..reference import gaussian_splat as reference
from .checks import (
    check_choice,
    check_points,
    check_same_batch,
    check_same_device,
    check_tensor,
    checked_numbers,
    checked_size,
)
from .registration import register_operator


def render_gaussians(
    coords: Tensor,
    size: Sequence[int],
    *,
    sigma: float | Sequence[float],
    background: float | Sequence[float] | None = None,
    normalize: Literal["peak", "sum", "channels"] = "peak",
    gain: float | Sequence[float] = 1.0,
    align_corners: bool = False,
) -> Tensor:
    """A Gaussian map for each landmark at each of L widths.

    With ``g = exp(-d^2 / (2 sigma^2))``, ``d`` the distance from the landmark in width units:

    * ``normalize="peak"``: ``gain g``, whose peak is ``gain``
    * ``"sum"``: ``gain g / sum_p g``, whose sum over the pixels is ``gain`` wherever the landmark lies
    * ``"channels"``: ``gain g_k / Z`` and, after the landmarks, ``background / Z`` with
      ``Z = sum_k gain g_k + background`` at each pixel, so that the channels sum to one (Zhang et al. 2018, eqs. 11
      and 12). There ``background=1`` and ``gain = 1 / (2 pi s^2)``, with ``s = sigma / 2`` the width as a fraction of
      the image's side; the published program has ``gain = 1 / (2 pi s^4 H W)``.

    Args:
        coords: (N, K, 2) floating, (x, y) in [-1, 1] (or outside).
        size: (H, W) of the maps.
        sigma: one width or one for each level, in units where half of ``sqrt(H W)`` pixels is 1.
        background: weight of the background, one or one for each level; given with ``"channels"`` and only there.
        normalize: see above.
        gain: amplitude, one or one for each level.
        align_corners: as in ``grid_sample``.

    Returns:
        (N, L, K, H, W), with ``"channels"`` (N, L, K+1, H, W), in the coordinates' dtype; arithmetic in float32 at
        least. Contiguous. Gradients flow to the coordinates.

    Raises:
        TypeError: coordinates that are no floating tensor; a sigma, gain or background that is no number.
        ValueError: wrong rank, no landmark, a bad size, a sigma, gain or background that is not positive and finite
            or not one for each level, an unknown ``normalize``, a background where none belongs or none where one
            does. NaN in the contents is not looked for.
    """
    op = "render_gaussians"
    check_points(op, "coords", coords, "(N, K, 2)")
    pixels = checked_size(op, size)
    widths = checked_numbers(op, "sigma", sigma)
    gains = checked_numbers(op, "gain", gain, len(widths))
    check_choice(op, "normalize", normalize, ("peak", "sum", "channels"))
    if (background is not None) != (normalize == "channels"):
        raise ValueError(
            f"{op}: background must be given with normalize='channels' and only there, got {background}"
        )
    floor = None if background is None else checked_numbers(op, "background", background, len(widths))
    maps: Tensor = _render_forward(coords, pixels, widths, gains, floor, normalize, bool(align_corners))
    return maps


def splat_landmarks(
    coords: Tensor,
    features: Tensor,
    size: Sequence[int],
    *,
    sigma: float | Sequence[float],
    background: float | Sequence[float] = 1.0,
    gain: float | Sequence[float] = 1.0,
    align_corners: bool = False,
) -> Tensor:
    """Gaussian maps of all landmarks and their features spread over them, at each of L widths.

    The maps ``D_l`` are those of :func:`render_gaussians` with ``normalize="channels"``, and
    ``F_l(p) = sum_k D_lk(p) f_k`` over the landmarks and the background (Zhang et al. 2018, eq. 13 without its
    activation).

    Args:
        coords: (N, K, 2) floating, (x, y) in [-1, 1] (or outside).
        features: (N, K+1, S) floating, the background's last.
        size: (H, W) of the maps.
        sigma, background, gain, align_corners: as for :func:`render_gaussians`.

    Returns:
        (N, L (K+1+S), H, W) in the features' dtype, contiguous, ordered ``[D_0 ... D_{L-1}, F_0 ... F_{L-1}]``;
        arithmetic in float32, or float64 if either input is. Gradients flow to coordinates and features.

    Raises:
        TypeError: an input that is no floating tensor; a sigma, gain or background that is no number.
        ValueError: wrong ranks, features that are not K + 1, different N or devices, a bad size, a sigma, gain or
            background that is not positive and finite or not one for each level.
    """
    op = "splat_landmarks"
    check_points(op, "coords", coords, "(N, K, 2)")
    check_tensor(op, "features", features, "(N, K+1, S)", 3)
    check_same_batch(op, coords=coords, features=features)
    if features.shape[1] != coords.shape[1] + 1 or features.shape[2] < 1:
        raise ValueError(
            f"{op}: features must be (N, K+1, S) for coords {tuple(coords.shape)}, got {tuple(features.shape)}"
        )
    check_same_device(op, coords=coords, features=features)
    pixels = checked_size(op, size)
    widths = checked_numbers(op, "sigma", sigma)
    gains = checked_numbers(op, "gain", gain, len(widths))
    floor = checked_numbers(op, "background", background, len(widths))
    maps: Tensor = _splat_forward(coords, features, pixels, widths, gains, floor, bool(align_corners))
    return maps


def _render_fake(
    coords: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float] | None,
    normalize: str,
    align_corners: bool,
) -> Tensor:
    channels = coords.shape[1] + (0 if background is None else 1)
    return coords.new_empty((coords.shape[0], len(sigma), channels, size[0], size[1]))


def _render_fake_backward(grad: Tensor, coords: Tensor, *_: Any) -> Tensor:
    return coords.new_empty(coords.shape)


def _render_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    coords, _size, *ctx.options = inputs
    ctx.save_for_backward(coords)


def _render_autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (coords,) = ctx.saved_tensors
    return _render_backward(grad, coords, *ctx.options), None, None, None, None, None, None


_render_backward = register_operator(
    "render_gaussians_backward",
    "(Tensor grad, Tensor coords, float[] sigma, float[] gain, float[]? background, str normalize, bool align_corners)"
    " -> Tensor",
    reference=reference.render_gaussians_backward,
    fake=_render_fake_backward,
    visible=False,  # its widths are a tuple, which Inductor does not take
)
_render_forward = register_operator(
    "render_gaussians",
    "(Tensor coords, SymInt[] size, float[] sigma, float[] gain, float[]? background, str normalize, "
    "bool align_corners) -> Tensor",
    reference=reference.render_gaussians,
    fake=_render_fake,
    setup_context=_render_setup,
    backward=_render_autograd,
    visible=False,  # its widths are a tuple, which Inductor does not take
)


def _splat_fake(
    coords: Tensor,
    features: Tensor,
    size: Sequence[int],
    sigma: Sequence[float],
    gain: Sequence[float],
    background: Sequence[float],
    align_corners: bool,
) -> Tensor:
    channels = len(sigma) * (features.shape[1] + features.shape[2])
    return features.new_empty((features.shape[0], channels, size[0], size[1]))


def _splat_fake_backward(
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
    return (
        coords.new_empty(coords.shape if need_coords else (0,)),
        features.new_empty(features.shape if need_features else (0,)),
    )


def _splat_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    coords, features, _size, *ctx.options = inputs
    ctx.save_for_backward(coords, features)


def _splat_autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    need = ctx.needs_input_grad
    of_coords, of_features = _splat_backward(grad, *ctx.saved_tensors, *ctx.options, need[0], need[1])
    return of_coords if need[0] else None, of_features if need[1] else None, None, None, None, None, None


_splat_backward = register_operator(
    "splat_landmarks_backward",
    "(Tensor grad, Tensor coords, Tensor features, float[] sigma, float[] gain, float[] background, "
    "bool align_corners, bool need_coords, bool need_features) -> (Tensor, Tensor)",
    reference=reference.splat_landmarks_backward,
    fake=_splat_fake_backward,
    visible=False,  # its widths are a tuple, which Inductor does not take
)
_splat_forward = register_operator(
    "splat_landmarks",
    "(Tensor coords, Tensor features, SymInt[] size, float[] sigma, float[] gain, float[] background, "
    "bool align_corners) -> Tensor",
    reference=reference.splat_landmarks,
    fake=_splat_fake,
    setup_context=_splat_setup,
    backward=_splat_autograd,
    visible=False,  # its widths are a tuple, which Inductor does not take
)
