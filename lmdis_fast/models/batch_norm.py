"""Batch norm and leaky ReLU after a convolution, as one layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import backends
from ..ops import batch_norm_leaky_relu

NORM_EPS = 1e-3
OPERATOR = "batch_norm_leaky_relu"


class BatchNormLeakyReLU(nn.BatchNorm2d):
    """Batch norm (eps 1e-3) and leaky ReLU; a slope of 1 is batch norm alone. Parameters and buffers are BatchNorm2d's.

    In training both are one operator where it is compiled, otherwise torch's two.
    """

    def __init__(self, channels: int, *, slope: float) -> None:
        super().__init__(channels, eps=NORM_EPS)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or torch.compiler.is_compiling() or not backends.takes("cpu", OPERATOR, (x,)):
            normal = super().forward(x)
            return normal if self.slope == 1 else F.leaky_relu_(normal, self.slope)
        if x.numel() <= x.shape[1]:
            raise ValueError(
                f"batch norm must have more than one value per channel to train, got {tuple(x.shape)}"
            )
        out, mean, variance = batch_norm_leaky_relu(x, self.weight, self.bias, eps=self.eps, slope=self.slope)
        self._update_running(mean, variance)
        return out

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, slope={self.slope}"
