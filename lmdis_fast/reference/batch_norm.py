"""Batch norm by the batch's own statistics and leaky ReLU, forward and backward.

With M = N H W values in a channel:

    mean = sum x / M,   variance = sum (x - mean)^2 / M,   rstd = 1 / sqrt(variance + eps)
    z = weight (x - mean) rstd + bias,   out = z where z > 0, slope z elsewhere

and backward, with g the gradient by z and h = (x - mean) rstd:

    grad_bias = sum g,   grad_weight = sum g h,   grad_x = weight rstd (g - sum g / M - h sum (g h) / M)

Both are torch's own batch norm, which is exact in float64 and fast on every device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .lattice import arithmetic_dtype


def result_like(x: Tensor) -> Tensor:
    """An uninitialised result in the layout of x where that is dense, channels_last included; else contiguous."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_like(x)
    return x.new_empty(x.shape)


def _in_layout(result: Tensor, x: Tensor) -> Tensor:
    like = result_like(x)
    return result if result.stride() == like.stride() else like.copy_(result)


def _prepared(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Dense, parameters in the arithmetic dtype, x too where that is float64."""
    dtype = arithmetic_dtype(x, weight, bias)
    x = x.to(dtype) if dtype == torch.float64 else x
    if not x.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous()
    # contiguous: some of torch's kernels do not look at the strides of parameters
    return x, weight.to(dtype).contiguous(), bias.to(dtype).contiguous()


def batch_norm_leaky_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out (like x), mean, rstd and unbiased variance (C,)."""
    maps, scale, shift = _prepared(x, weight, bias)
    if not len(x):
        nothing = torch.full_like(scale, torch.nan)
        return result_like(x), nothing, nothing.clone(), nothing.clone()
    # with momentum 1 the running variance becomes the batch's
    mean, variance = torch.zeros_like(scale), torch.zeros_like(scale)
    normal, mean, rstd = torch.native_batch_norm(
        maps, scale, shift, mean, variance, training=True, momentum=1.0, eps=eps
    )
    return _in_layout(F.leaky_relu(normal, slope).to(x.dtype), x), mean, rstd, variance


def batch_norm_leaky_relu_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    slope: float,
    need_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x (shape (0,) where not needed), weight and bias. mean and rstd are functions of x here."""
    if not len(x):
        of_x = result_like(x) if need_x else x.new_empty((0,))
        return of_x, weight.new_zeros(weight.shape), bias.new_zeros(bias.shape)
    maps, scale, shift = _prepared(x, weight, bias)
    with torch.no_grad():
        row = (1, -1, 1, 1)
        normal = (maps - mean.view(row)) * (scale * rstd).view(row) + shift.view(row)
    below = torch.where(normal > 0, grad.to(maps.dtype), slope * grad.to(maps.dtype))
    of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        below.contiguous(memory_format=torch.channels_last) if not maps.is_contiguous() else below.contiguous(),
        maps, scale, None, None, mean.detach(), rstd.detach(), True, eps, [need_x, True, True],
    )  # fmt: skip
    of_x = _in_layout(of_x.to(x.dtype), x) if need_x else x.new_empty((0,))
    return of_x, of_weight.to(weight.dtype), of_bias.to(bias.dtype)
