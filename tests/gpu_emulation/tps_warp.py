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
    return [None if t is None else t.to(dtype).contiguous() for t in tensors], str(dtype).removeprefix("torch.")


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
