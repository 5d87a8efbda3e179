"""Batch norm and leaky ReLU after a convolution, with what an hourglass does next: one operator in training, where it is
compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import batch_norm_leaky_relu
from .resampling import max_pool, upsampled_plus
from .served import is_served

NORM_EPS = 1e-3


class Joined(NamedTuple):
    """What leaves a layer of an hourglass: out (N, C, H, W), doubled where that was asked for, and its maxima over 2 x 2
    pixels where they were."""

    out: Tensor
    pooled: Tensor | None


def joined(x: Tensor, low: Tensor | None, pool: bool, upsample: bool) -> Joined:
    """``x`` plus ``low`` with each pixel doubled, where there is one, and the maxima of that; doubled itself at last."""
    out = x if low is None else upsampled_plus(low, x)
    pooled = max_pool(out) if pool else None
    return Joined(F.interpolate(out, scale_factor=2.0, mode="nearest") if upsample else out, pooled)


def normalise_activate(
    norm: nn.BatchNorm2d,
    x: Tensor,
    slope: float,
    low: Tensor | None = None,
    pool: bool = False,
    upsample: bool = False,
) -> Joined:
    """:func:`joined` of ``leaky_relu(norm(x), slope)``, running statistics included; a slope of 1 is the norm alone.

    (N, C, H, W) in and out. Torch's layers run where the operator would not serve: outside training, while
    compiling or exporting, without a compiled kernel, for forward-mode derivatives, for a norm with hooks or options of
    its own, and for inputs that torch refuses.
    """
    weight, bias, mean, var = norm.weight, norm.bias, norm.running_mean, norm.running_var
    if (
        not norm.training
        or not is_served("batch_norm_leaky_relu", x, *(() if low is None else (low,)))
        or type(norm) is not nn.BatchNorm2d
        or norm._forward_hooks
        or norm._forward_pre_hooks
        or norm._backward_hooks
        or norm._backward_pre_hooks
        or norm.num_batches_tracked is None
        or any(tensor is None for tensor in (weight, bias, mean, var))
        or x.dim() != 4
        or x.numel() <= x.shape[1]
    ):
        normal: Tensor = norm(x)
        return joined(normal if slope == 1 else F.leaky_relu_(normal, slope), low, pool, upsample)
    in_windows = low is not None or pool
    unfit = x.shape[2] % 2 or x.shape[3] % 2 or (low is not None and low.dtype != x.dtype)
    alone = in_windows and (unfit or upsample)  # what the operator does not do with the rest
    out, batch_mean, batch_var, pooled = batch_norm_leaky_relu(
        x,
        weight,
        bias,
        eps=norm.eps,
        slope=slope,
        low=None if alone else low,
        pool=pool and not alone,
        upsample=upsample and not alone,
    )
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        assert mean is not None and var is not None
        mean.lerp_(batch_mean.to(mean), share)
        var.lerp_(batch_var.to(var), share)
    return joined(out, low, pool, upsample) if alone else Joined(out, pooled)


class ConvBlock(nn.Sequential):
    """Convolution, then batch norm and leaky ReLU, either of which may be missing.

    Called with ``low`` it adds those maps, doubled; with ``upsample=True`` its result is doubled; with ``pool=True`` it
    returns a `Joined`.
    """

    def forward(
        self, x: Tensor, low: Tensor | None = None, pool: bool = False, upsample: bool = False
    ) -> Any:
        layers = list(self)
        x = layers[0](x)
        if len(layers) > 1 and isinstance(layers[1], nn.BatchNorm2d):
            result = self.normalise(x, low, pool, upsample)
        else:
            for layer in layers[1:]:
                x = layer(x)
            result = joined(x, low, pool, upsample)
        return result if pool else result.out

    def normalise(
        self, x: Tensor, low: Tensor | None = None, pool: bool = False, upsample: bool = False
    ) -> Joined:
        """What comes after the convolution."""
        norm, *activation = list(self)[1:]
        assert isinstance(norm, nn.BatchNorm2d)
        slope = activation[0].negative_slope if activation else 1.0
        assert isinstance(slope, float)
        return normalise_activate(norm, x, slope, low, pool, upsample)


class ConvChain(nn.Sequential):
    """`ConvBlock`s one after the other; the last one is given ``low``, ``pool`` and ``upsample``."""

    def forward(
        self, x: Tensor, low: Tensor | None = None, pool: bool = False, upsample: bool = False
    ) -> Any:
        blocks = list(self)
        for block in blocks[:-1]:
            x = block(x)
        if blocks:
            return blocks[-1](x, low, pool, upsample)
        result = joined(x, low, pool, upsample)
        return result if pool else result.out
