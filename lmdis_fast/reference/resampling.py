"""Maximum over windows of 2 x 2 pixels, and nearest doubling with a skip connection added, forward and backward.

With (y, x) a pixel of the smaller maps, and i, j each 0 or 1:

    max_pool_2x2:   out[y, x] = max over i, j of x[2 y + i, 2 x + j];  NaN where one is NaN
    upsample_add:   out[2 y + i, 2 x + j] = x[y, x] + skip[2 y + i, 2 x + j]

and backward, with g the gradient by out:

    max_pool_2x2:   grad_x is g[y, x] at one pixel of the window, 0 at the others: at the first that is the largest, or at
                    the last NaN, which is torch's choice
    upsample_add:   grad_skip = g,  grad_x[y, x] = sum over i, j of g[2 y + i, 2 x + j]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def result_like(x: Tensor) -> Tensor:
    """An uninitialised result in the layout of x where that is dense, channels_last included; else contiguous."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_like(x)
    return x.new_empty(x.shape)


def halved_like(x: Tensor) -> Tensor:
    """An uninitialised result of half the height and width, channels_last where x is, else contiguous."""
    return _resized_like(x, x.shape[2] // 2, x.shape[3] // 2)


def doubled_like(x: Tensor) -> Tensor:
    """An uninitialised result of twice the height and width, channels_last where x is, else contiguous."""
    return _resized_like(x, 2 * x.shape[2], 2 * x.shape[3])


def _resized_like(x: Tensor, height: int, width: int) -> Tensor:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.empty(
        (*x.shape[:2], height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def in_layout(result: Tensor, like: Tensor) -> Tensor:
    """The result with the strides of ``like``, which is uninitialised."""
    return result if result.stride() == like.stride() else like.copy_(result)


def max_pool_2x2(x: Tensor) -> Tensor:
    """(N, C, H // 2, W // 2)."""
    return in_layout(F.max_pool2d(x, 2), halved_like(x))


def max_pool_2x2_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient by x, like x: that of each window at the pixel that torch's indices name."""
    _, index = F.max_pool2d(x.detach().contiguous(), 2, return_indices=True)
    planes = grad.new_zeros((*x.shape[:2], x.shape[2] * x.shape[3]))
    planes = planes.scatter(2, index.flatten(2), grad.flatten(2))
    return in_layout(planes.view(x.shape), result_like(x))


def doubled(x: Tensor) -> Tensor:
    """(N, C, 2H, 2W): each pixel along both axes."""
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def upsample_add(x: Tensor, skip: Tensor) -> Tensor:
    """(N, C, 2H, 2W), like skip."""
    return in_layout(doubled(x) + skip, result_like(skip))


def upsample_add_backward(grad: Tensor) -> Tensor:
    """Gradient by x, (N, C, H, W), in the layout of grad; that by skip is grad itself."""
    wide = grad.float() if grad.dtype.itemsize == 2 else grad
    rows = wide[:, :, 0::2] + wide[:, :, 1::2]
    sums = rows[..., 0::2] + rows[..., 1::2]
    return in_layout(sums.to(grad.dtype), halved_like(grad))
