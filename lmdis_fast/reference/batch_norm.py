"""Batch norm by the batch's own statistics and leaky ReLU, forward and backward.

With M = N H W values in a channel:

    mean = sum x / M,   variance = sum (x - mean)^2 / M,   rstd = 1 / sqrt(variance + eps)
    z = weight (x - mean) rstd + bias,   a = z where z > 0, slope z elsewhere
    out = a, or upsample_add(low, a) where there is a low,   pooled = max_pool_2x2(out)
    out[2 y + i, 2 x + j] = a[y, x] for i, j = 0, 1 with upsample

and backward, with g the gradient by z, that is of what reaches a by out and by pooled, and h = (x - mean) rstd:

    grad_bias = sum g,   grad_weight = sum g h,   grad_x = weight rstd (g - sum g / M - h sum (g h) / M)

Both are torch's own batch norm, which is exact in float64 and fast on every device, and .resampling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import resampling
from .lattice import arithmetic_dtype
from .resampling import result_like


def pooled_like(out: Tensor, wanted: bool) -> Tensor:
    """An uninitialised result of half the height and width, or of shape (0,)."""
    return resampling.halved_like(out) if wanted else out.new_empty((0,))


def _in_layout(result: Tensor, x: Tensor) -> Tensor:
    return resampling.in_layout(result, result_like(x))


def _prepared(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Dense, parameters in the arithmetic dtype, x too where that is float64."""
    dtype = arithmetic_dtype(x, weight, bias)
    x = x.to(dtype) if dtype == torch.float64 else x
    if not x.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous()
    # contiguous: some of torch's kernels do not look at the strides of parameters
    return x, weight.to(dtype).contiguous(), bias.to(dtype).contiguous()


def batch_norm_leaky_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    low: Tensor | None,
    eps: float,
    slope: float,
    pool: bool,
    upsample: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out (like x, or twice that), pooled (half of that, or of shape (0,)), mean, rstd and unbiased variance (C,)."""
    maps, scale, shift = _prepared(x, weight, bias)
    if not len(x):
        nothing = torch.full_like(scale, torch.nan)
        out = resampling.doubled_like(x) if upsample else result_like(x)
        return out, pooled_like(out, pool), nothing, nothing.clone(), nothing.clone()
    # with momentum 1 the running variance becomes the batch's
    mean, variance = torch.zeros_like(scale), torch.zeros_like(scale)
    normal, mean, rstd = torch.native_batch_norm(
        maps, scale, shift, mean, variance, training=True, momentum=1.0, eps=eps
    )
    activated = F.leaky_relu(normal, slope).to(x.dtype)
    if upsample:
        out = resampling.in_layout(resampling.doubled(activated), resampling.doubled_like(x))
    else:
        out = _in_layout(activated, x)
    if low is not None:
        out = resampling.upsample_add(low, out)
    pooled = resampling.max_pool_2x2(out) if pool else pooled_like(out, pool)
    return out, pooled, mean, rstd, variance


def batch_norm_leaky_relu_backward(
    grad: Tensor | None,
    grad_pooled: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    out: Tensor | None,
    eps: float,
    slope: float,
    upsample: bool,
    need_x: bool,
    need_low: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x (shape (0,) where not needed), weight, bias and low (the same). mean and rstd are functions of x here.

    One of the two gradients may be missing. out, of which the maxima were taken, is needed for that of pooled.
    """
    like = result_like(x)
    if not len(x):
        of_x = like if need_x else x.new_empty((0,))
        return of_x, weight.new_zeros(weight.shape), bias.new_zeros(bias.shape), pooled_like(like, need_low)
    if grad_pooled is not None:
        assert out is not None
        of_out = resampling.max_pool_2x2_backward(grad_pooled, out)
        grad = of_out if grad is None else grad + of_out
    assert grad is not None
    if upsample:
        grad = resampling.upsample_add_backward(grad)
    of_low = resampling.upsample_add_backward(_in_layout(grad, x)) if need_low else x.new_empty((0,))
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
    return of_x, of_weight.to(weight.dtype), of_bias.to(bias.dtype), of_low
