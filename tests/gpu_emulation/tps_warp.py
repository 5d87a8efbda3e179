"""tps_warp as the operators of csrc/cuda/tps_warp.cu, on emulated kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lmdis_fast.reference.lattice import arithmetic_dtype
from lmdis_fast.reference.tps_warp import memory_format_of

from .emulated import arrays, dtype_name, kernels

#: Beyond so many pixels along a side positions are in float64.
LONG_SIDE = 2**20


def _spline(image: Tensor, out: Tensor, *tensors: Tensor | None) -> tuple[list[Tensor | None], str]:
    """The spline's tensors contiguous and in one dtype, as the entry makes them, and its name."""
    longest = max(*image.shape[2:], *out.shape[2:])
    dtype = arithmetic_dtype(*(t for t in tensors if t is not None))
    dtype = torch.float64 if longest > LONG_SIDE else dtype
    return [None if t is None else t.to(dtype).contiguous() for t in tensors], str(dtype).removeprefix(
        "torch."
    )


def tps_warp(
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    size: Sequence[int],
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """The warped image."""
    shape = (*image.shape[:2], *size)
    out = torch.empty(shape, dtype=image.dtype, memory_format=memory_format_of(image))
    spline, spline_dtype = _spline(image, out, centers, weights, affine, before)
    kernels("tps_warp").tps_warp(
        *arrays(image),
        dtype_name(image),
        *arrays(*spline),
        spline_dtype,
        padding_mode == "zeros",
        align_corners,
        *arrays(out),
    )
    return out


def tps_warp_backward(
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
    """Gradients of image, centres, weights, affine and before; of the image without atomics of floats where
    deterministic algorithms are asked for."""
    tensors = centers, weights, affine, before
    spline, spline_dtype = _spline(image, grad, *tensors)
    asked = need_centers, need_spline, need_spline, need_spline
    of_image = torch.empty_like(image) if need_image else None
    if of_image is not None and image.dtype == torch.float32:
        of_image.zero_()
    of_spline = [
        torch.empty_like(t) if t is not None and needed else None
        for t, needed in zip(spline, asked, strict=True)
    ]
    if len(image):
        kernels("tps_warp").tps_warp_backward(
            *arrays(grad, image),
            dtype_name(image),
            *arrays(*spline),
            spline_dtype,
            padding_mode == "zeros",
            align_corners,
            torch.are_deterministic_algorithms_enabled(),
            *arrays(of_image, *of_spline),
        )
    elif need_centers:
        of_spline[0] = torch.zeros(centers.shape, dtype=centers.dtype)
    found = [
        (affine if like is None else like).new_empty(0) if t is None else t.to(like)
        for t, like in zip((of_image, *of_spline), (image, *tensors), strict=True)
    ]
    return found[0], found[1], found[2], found[3], found[4]
