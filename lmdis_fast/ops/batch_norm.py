"""Batch norm in training, and the leaky ReLU after it, in two walks over the maps instead of five.

``out = leaky_relu(weight (x - mean) / sqrt(variance + eps) + bias)`` with the batch's own mean and variance. Where an
hourglass joins its resolutions, the same walks add the lower one and take the maxima for the next, and where maps are
doubled for a convolution they are written doubled. The formulas are in :mod:`lmdis_fast.reference.batch_norm`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..reference import batch_norm as reference
from ..reference.lattice import arithmetic_dtype
from ..reference.resampling import doubled_like, result_like
from .checks import check_maps, check_same_device, check_tensor, checked_number, described
from .registration import register_operator


class BatchNorm(NamedTuple):
    """What :func:`batch_norm_leaky_relu` returns.

    Attributes:
        out: (N, C, H, W), in x's dtype; (N, C, 2H, 2W) with ``upsample``.
        mean: (C,) of the batch, in float32 at least; no gradient.
        variance: (C,) unbiased, the one that running statistics are made of; no gradient. NaN for a single value.
        pooled: (N, C, H / 2, W / 2), in x's dtype, or None where it was not asked for.
    """

    out: Tensor
    mean: Tensor
    variance: Tensor
    pooled: Tensor | None = None


def batch_norm_leaky_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    slope: float = 0.01,
    low: Tensor | None = None,
    pool: bool = False,
    upsample: bool = False,
) -> BatchNorm:
    """Batch norm by the statistics of the batch (Ioffe and Szegedy 2015), then leaky ReLU, differentiable in all tensors.

    Running statistics are the caller's: ``running_var.lerp_(result.variance, momentum)``; outside training
    ``torch.nn.functional.batch_norm`` is one multiplication and is not made faster here.

    Args:
        x: (N, C, H, W) floating. Contiguous and channels_last are read as they are, other strides are copied. In
            channels_last, numbers of channels that share no factor with 64 are fast up to about 60.
        weight, bias: (C,) floating.
        eps: added to the variance.
        slope: of the leaky ReLU below zero, from 0 (ReLU) to 1 (batch norm alone).
        low: (N, C, H / 2, W / 2) in x's dtype, added to the result as :func:`upsample_add` adds it; H and W are even.
        pool: return :func:`max_pool_2x2` of the result too; H and W are even.
        upsample: return the result with each pixel doubled along both axes, as
            ``torch.nn.functional.interpolate(..., scale_factor=2)`` does; with neither ``low`` nor ``pool``.

    Returns:
        :class:`BatchNorm`; ``out`` is channels_last where x is. Statistics and arithmetic are in float32, or float64
        if any input is. Autocast changes nothing: bfloat16 maps with float32 parameters stay what they are.

    Raises:
        TypeError: an input that is no floating tensor, an eps or slope that is no number.
        ValueError: wrong ranks or numbers of channels, tensors on several devices, a negative or non-finite eps, a
            slope outside [0, 1], low or pool with an odd height or width or with upsample, a low of another shape.
    """
    op = "batch_norm_leaky_relu"
    check_maps(op, "x", x, "(N, C, H, W)")
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_tensor(op, name, tensor, "(C,)", 1)
        if tensor.shape[0] != x.shape[1]:
            raise ValueError(f"{op}: {name} must be (C,) for x {described(x)}, got {described(tensor)}")
    pool, upsample = bool(pool), bool(upsample)
    if upsample and (pool or low is not None):
        raise ValueError(
            f"{op}: upsample goes with neither low nor pool, got {'pool' if pool else 'low'} too"
        )
    if (pool or low is not None) and (x.shape[2] % 2 or x.shape[3] % 2):
        raise ValueError(f"{op}: x must have an even height and width with low or pool, got {described(x)}")
    if low is not None:
        check_maps(op, "low", low, "(N, C, H / 2, W / 2)")
        if low.shape != (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2):
            raise ValueError(
                f"{op}: low must be (N, C, H / 2, W / 2) for x {described(x)}, got {described(low)}"
            )
        if low.dtype != x.dtype:
            raise TypeError(f"{op}: low must be {x.dtype} as x is, got {described(low)}")
    check_same_device(op, x=x, weight=weight, bias=bias, low=low)
    eps = checked_number(op, "eps", eps, zero=True)
    slope = checked_number(op, "slope", slope, zero=True)
    if slope > 1:
        raise ValueError(f"{op}: slope must be from 0 to 1, got {slope}")
    out, pooled, mean, _, variance = _forward(x, weight, bias, low, eps, slope, pool, upsample)
    return BatchNorm(out, mean, variance, pooled if pool else None)


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    low: Tensor | None,
    eps: float,
    slope: float,
    pool: bool,
    upsample: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = arithmetic_dtype(x, weight, bias)
    mean, rstd, variance = (x.new_empty((x.shape[1],), dtype=dtype) for _ in range(3))
    out = doubled_like(x) if upsample else result_like(x)
    return out, reference.pooled_like(out, pool), mean, rstd, variance


def _fake_backward(
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
    like = result_like(x)
    of_x = like if need_x else x.new_empty((0,))
    of_low = reference.pooled_like(like, need_low)
    return of_x, weight.new_empty(weight.shape), bias.new_empty(bias.shape), of_low


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    x, weight, bias, _, eps, slope, pool, upsample = inputs
    out, pooled, mean, rstd, variance = output
    ctx.options = eps, slope, upsample
    unused = () if pool else (pooled,)
    ctx.mark_non_differentiable(mean, rstd, variance, *unused)
    # where maxima were taken is found again
    ctx.save_for_backward(x, weight, bias, mean, rstd, *((out,) if pool else ()))


def _autograd(
    ctx: Any, grad: Tensor | None, grad_pooled: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, rstd, *pooled_from = ctx.saved_tensors
    if not pooled_from:
        grad_pooled = None
    if grad is None and grad_pooled is None:
        return (None,) * 8
    out = None if grad_pooled is None else pooled_from[0]
    need_x, _, _, need_low, *_ = ctx.needs_input_grad
    given = grad, grad_pooled, x, weight, bias, mean, rstd, out
    of_x, of_weight, of_bias, of_low = _backward(*given, *ctx.options, need_x, need_low)
    of_maps = of_x if need_x else None, of_weight, of_bias, of_low if need_low else None
    return *of_maps, None, None, None, None


def _in_channels(
    overload: Any, count: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Any, Any]:
    """vmap: statistics are each mapped batch's own, so the mapped dimension becomes more channels."""
    arguments = []
    for value, dim in zip(args, in_dims, strict=True):
        if isinstance(value, Tensor):
            value = value.unsqueeze(0).expand(count, *value.shape) if dim is None else value.movedim(dim, 0)
            value = value.flatten(0, 1) if value.dim() == 2 else value.movedim(0, 1).flatten(1, 2)
        arguments.append(value)
    return _unfolded(overload(*arguments), count)


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    return _in_channels(_forward, info.batch_size, in_dims, args)


def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    return _in_channels(_backward, info.batch_size, in_dims, args)


def _unfolded(results: tuple[Tensor, ...], count: int) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Results of ``count`` times as many channels, with the mapped dimension; absent gradients (shape (0,)) stay."""
    values, dims = [], []
    for result in results:
        absent = result.dim() == 1 and not result.shape[0]
        dim = None if absent else 0 if result.dim() == 1 else 1
        values.append(result if dim is None else torch.unflatten(result, dim, (count, -1)))
        dims.append(dim)
    return tuple(values), tuple(dims)


_backward = register_operator(
    "batch_norm_leaky_relu_backward",
    "(Tensor? grad, Tensor? grad_pooled, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, Tensor? out, "
    "float eps, float slope, bool upsample, bool need_x, bool need_low) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.batch_norm_leaky_relu_backward,
    fake=_fake_backward,
    vmap=_vmap_backward,
    autocast=False,
)
_forward = register_operator(
    "batch_norm_leaky_relu",
    "(Tensor x, Tensor weight, Tensor bias, Tensor? low, float eps, float slope, bool pool, bool upsample)"
    " -> (Tensor out, Tensor pooled, Tensor mean, Tensor rstd, Tensor variance)",
    reference=reference.batch_norm_leaky_relu,
    fake=_fake,
    setup_context=_setup_context,
    backward=_autograd,
    vmap=_vmap,
    autocast=False,
)
