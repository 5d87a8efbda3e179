"""Batch norm and leaky ReLU after a convolution: one operator in training, where it is compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from .. import backends
from ..ops import batch_norm_leaky_relu

NORM_EPS = 1e-3


def _tangent(x: Tensor) -> Tensor | None:
    """Of a forward-mode derivative, or None outside one."""
    unpack: Callable[[Tensor], forward_ad.UnpackedDualTensor] = (
        forward_ad.unpack_dual
    )  # torch has not typed it
    return unpack(x).tangent


def is_served(op: str, *tensors: Tensor) -> bool:
    """Whether a network should call ``op`` rather than torch's own layers, which compilers and other devices know.

    It is, where the compiled kernel takes these tensors and neither a compiler nor an exporter looks on; forward-mode
    derivatives have the layers alone.
    """
    return (
        not torch.compiler.is_compiling()
        and backends.takes("cpu", op, tensors)
        and all(_tangent(tensor) is None for tensor in tensors)
    )


def normalise_activate(norm: nn.BatchNorm2d, x: Tensor, slope: float) -> Tensor:
    """``leaky_relu(norm(x), slope)``, running statistics included; a slope of 1 is the norm alone.

    (N, C, H, W) in and out. Torch's two layers run where the operator would not serve: outside training, while
    compiling or exporting, without a compiled kernel, for forward-mode derivatives, for a norm with hooks or options of
    its own, and for inputs that torch refuses.
    """
    weight, bias, mean, var = norm.weight, norm.bias, norm.running_mean, norm.running_var
    if (
        not norm.training
        or not is_served("batch_norm_leaky_relu", x)
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
        return normal if slope == 1 else F.leaky_relu_(normal, slope)
    out, batch_mean, batch_var = batch_norm_leaky_relu(x, weight, bias, eps=norm.eps, slope=slope)
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        assert mean is not None and var is not None
        mean.lerp_(batch_mean.to(mean), share)
        var.lerp_(batch_var.to(var), share)
    return out


class ConvBlock(nn.Sequential):
    """Convolution, then batch norm and leaky ReLU, either of which may be missing."""

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        x = layers[0](x)
        if len(layers) > 1 and isinstance(layers[1], nn.BatchNorm2d):
            return self.normalise(x)
        for layer in layers[1:]:
            x = layer(x)
        return x

    def normalise(self, x: Tensor) -> Tensor:
        """What comes after the convolution."""
        norm, *activation = list(self)[1:]
        assert isinstance(norm, nn.BatchNorm2d)
        slope = activation[0].negative_slope if activation else 1.0
        assert isinstance(slope, float)
        return normalise_activate(norm, x, slope)
