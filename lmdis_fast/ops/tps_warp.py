"""Warping images by thin-plate splines, ``tps_warp(image, g)(p) = image(g(p))``.

The formulas are in :mod:`lmdis_fast.reference.tps_warp`, the splines in :mod:`lmdis_fast.ops.thin_plate_spline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..reference import tps_warp as reference
from .checks import check_choice, check_maps, check_same_device, checked_size, described
from .registration import folded, register_operator, unfolded, unfolded_all
from .thin_plate_spline import ThinPlateSpline


def tps_warp(
    image: Tensor,
    spline: ThinPlateSpline,
    size: Sequence[int] | None = None,
    *,
    padding_mode: Literal["border", "zeros"] = "border",
    align_corners: bool = False,
) -> Tensor:
    """Warp images: ``out(p) = image(g(p))`` at the pixel centres p of the output, bilinear.

    Args:
        image: (N, C, H, W) floating, any strides.
        spline: of the same N, or of 1 for all.
        size: (H', W') of the output, or None for the image's.
        padding_mode: outside the image the nearest edge pixel (``"border"``) or zero (``"zeros"``).
        align_corners: the frame of lattice and sampler alike, as in ``grid_sample``.

    Returns:
        (N, C, H', W') in the image's dtype, channels_last if the image is. Positions are computed in the spline's
        dtypes (float32 or float64) whatever the image's; the identity returns the image bit for bit. Gradients flow to
        the spline, and to the image where it requires one; in ``"border"`` none along an axis that was clamped.

    Raises:
        TypeError: an image that is no floating tensor, a spline that is none.
        ValueError: wrong rank, different N or devices, a bad size, an unknown ``padding_mode``. Contents are not
            looked at; a NaN position gives NaN.
    """
    op = "tps_warp"
    check_maps(op, "image", image, "(N, C, H, W)")
    if not isinstance(spline, ThinPlateSpline):
        raise TypeError(f"{op}: spline must be a ThinPlateSpline, got {described(spline)}")
    check_same_device(op, image=image, spline=spline.weights)
    batch, _, height, width = image.shape
    splines = spline.batch_size
    if splines not in (1, batch):
        raise ValueError(f"{op}: spline must have batch size 1 or {batch}, got {splines}")
    pixels = (height, width) if size is None else checked_size(op, size)
    check_choice(op, "padding_mode", padding_mode, ("border", "zeros"))
    centers, weights, affine, before = spline.centers, spline.scaled_weights(), spline.affine, spline.before
    if splines != batch:
        centers = centers.expand(batch, -1, -1) if centers.dim() == 3 else centers
        weights, affine = weights.expand(batch, -1, -1), affine.expand(batch, -1, -1)
        before = None if before is None else before.expand(batch, -1, -1)
    out: Tensor = _forward(image, centers, weights, affine, before, pixels, padding_mode, bool(align_corners))
    return out


def _fake(
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    size: Sequence[int],
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    shape = (image.shape[0], image.shape[1], size[0], size[1])
    return torch.empty(
        shape, dtype=image.dtype, device=image.device, memory_format=reference.memory_format_of(image)
    )


def _fake_backward(
    grad: Tensor,
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    padding_mode: str,
    align_corners: bool,
    need_image: bool,
    need_spline: bool,
    need_centers: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    absent = (0,)
    return (
        torch.empty_like(image) if need_image else image.new_empty(absent),
        centers.new_empty(centers.shape if need_centers else absent),
        weights.new_empty(weights.shape if need_spline else absent),
        affine.new_empty(affine.shape if need_spline else absent),
        affine.new_empty(absent) if before is None or not need_spline else before.new_empty(before.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _size, ctx.padding_mode, ctx.align_corners = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad[:5]
    asked = (need[0], any(need[2:]), need[1])
    found = _backward(grad, *ctx.saved_tensors, ctx.padding_mode, ctx.align_corners, *asked)
    return (
        *(gradient if wanted else None for gradient, wanted in zip(found, need, strict=True)),
        None,
        None,
        None,
    )


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Fold into N, except that centres shared by everything stay shared."""
    dims, arguments, shared = list(in_dims), list(args), args[1].dim() == 2 and in_dims[1] is None
    if args[1].dim() - (in_dims[1] is not None) == 2 and not shared:
        batch = args[2].shape[0 if in_dims[2] != 0 else 1]
        arguments[1] = args[1].movedim(in_dims[1], 0).unsqueeze(1).expand(-1, batch, -1, -1)
        dims[1] = 0
    flat = [
        value if shared and i == 1 else folded(value, dim, info.batch_size)
        for i, (value, dim) in enumerate(zip(arguments, dims, strict=True))
    ]
    return unfolded_all(_forward(*flat), info.batch_size)


def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Fold into N; the gradient of centres that one sample's batch shares is summed within the sample."""
    dims, arguments = list(in_dims), list(args)
    centers = args[2] if in_dims[2] is None else args[2].movedim(in_dims[2], 0)
    dims[2] = None if in_dims[2] is None else 0
    within = centers.dim() - (in_dims[2] is not None) == 2
    if within:
        batch = args[0].shape[0 if in_dims[0] != 0 else 1]
        centers = centers.unsqueeze(-3).expand(*centers.shape[:-2], batch, *centers.shape[-2:])
    arguments[2] = centers
    flat = [folded(value, dim, info.batch_size) for value, dim in zip(arguments, dims, strict=True)]
    pairs = [unfolded(result, info.batch_size) for result in _backward(*flat)]
    if within and pairs[1][1] is not None:
        pairs[1] = pairs[1][0].sum(1), 0
    return tuple(result for result, _ in pairs), tuple(dim for _, dim in pairs)


_backward = register_operator(
    "tps_warp_backward",
    "(Tensor grad, Tensor image, Tensor centers, Tensor weights, Tensor affine, Tensor? before, str padding_mode, "
    "bool align_corners, bool need_image, bool need_spline, bool need_centers)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.tps_warp_backward,
    fake=_fake_backward,
    vmap=_vmap_backward,
)
_forward = register_operator(
    "tps_warp",
    "(Tensor image, Tensor centers, Tensor weights, Tensor affine, Tensor? before, SymInt[] size, str padding_mode, "
    "bool align_corners) -> Tensor",
    reference=reference.tps_warp,
    fake=_fake,
    setup_context=_setup_context,
    backward=_autograd,
    vmap=_vmap,
)
