"""Steps of an hourglass between its resolutions: one operator each, where it is compiled."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..ops import max_pool_2x2, upsample_add
from .served import is_served


def max_pool(x: Tensor) -> Tensor:
    """Maximum over windows of 2 x 2 pixels."""
    if x.dim() == 4 and is_served("max_pool_2x2", x):
        return max_pool_2x2(x)
    return F.max_pool2d(x, 2)


def upsampled_plus(x: Tensor, skip: Tensor) -> Tensor:
    """x with each pixel doubled along both axes, plus a skip tensor of that size."""
    if x.dim() == 4 and x.dtype == skip.dtype and is_served("upsample_add", x, skip):
        return upsample_add(x, skip)
    # in place: the interpolated tensor is no one else's
    return F.interpolate(x, scale_factor=2.0, mode="nearest").add_(skip)
