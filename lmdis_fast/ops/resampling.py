"""Between the resolutions of an hourglass: the maximum of 2 x 2 pixels, and nearest doubling with a skip added.

Down, the gradient's place is found again from the maps, so that no tensor of indices is kept; up, the doubled maps are
never in memory. The formulas are in :mod:`lmdis_fast.reference.resampling`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..reference import resampling as reference
from ..reference.resampling import result_like
from .checks import check_maps, check_same_device, described
from .registration import register_operator


def max_pool_2x2(x: Tensor) -> Tensor:
    """Maximum over windows of 2 x 2 pixels (the hourglass of Newell et al. 2016), differentiable in x.

    The values of ``torch.nn.functional.max_pool2d(x, 2)``: an odd last row or column is left out, NaN stays. The
    gradient of a window goes to the first of its largest pixels, row by row, or to its last NaN, as torch's does.

    Args:
        x: (N, C, H, W) floating, H and W at least 2. Contiguous and channels_last are read as they are, other strides
            are copied. In channels_last, whole vectors of channels are fast: multiples of 8 or 16.

    Returns:
        (N, C, H // 2, W // 2) in x's dtype, channels_last where x is. Autocast changes nothing.

    Raises:
        TypeError: x is no floating tensor.
        ValueError: it has no four dimensions, or fewer than two rows or columns.
    """
    op = "max_pool_2x2"
    check_maps(op, "x", x, "(N, C, H, W)")
    if x.shape[2] < 2 or x.shape[3] < 2:
        raise ValueError(
            f"{op}: x must be (N, C, H, W) with at least 2 rows and 2 columns, got {described(x)}"
        )
    result: Tensor = _max_pool(x)
    return result


def upsample_add(x: Tensor, skip: Tensor) -> Tensor:
    """``skip`` plus the maps x with each pixel doubled along both axes (the hourglass of Newell et al. 2016).

    ``torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest") + skip``, rounded once, differentiable in both.
    The gradient of skip is that of the result, the very tensor.

    Args:
        x: (N, C, H, W) floating.
        skip: (N, C, 2H, 2W), in x's dtype. Contiguous and channels_last are read as they are, other strides are copied,
            and so is x where it is laid out otherwise than skip.

    Returns:
        (N, C, 2H, 2W) in that dtype, channels_last where skip is. Gradients of x are sums in float32, or float64 for
        that. Autocast changes nothing.

    Raises:
        TypeError: an input that is no floating tensor, or a skip of another dtype than x.
        ValueError: an x that has no four dimensions, a skip of another shape than twice x, tensors on two devices.
    """
    op = "upsample_add"
    check_maps(op, "x", x, "(N, C, H, W)")
    check_maps(op, "skip", skip, "(N, C, 2H, 2W)")
    batch, channels, height, width = x.shape
    if skip.shape != (batch, channels, 2 * height, 2 * width):
        raise ValueError(f"{op}: skip must be (N, C, 2H, 2W) for x {described(x)}, got {described(skip)}")
    if skip.dtype != x.dtype:
        raise TypeError(f"{op}: skip must be {x.dtype} as x is, got {described(skip)}")
    check_same_device(op, x=x, skip=skip)
    result: Tensor = _upsample_add(x, skip)
    return result


def _fake_max_pool(x: Tensor) -> Tensor:
    return reference.halved_like(x)


def _fake_max_pool_backward(grad: Tensor, x: Tensor) -> Tensor:
    return result_like(x)


def _setup_max_pool(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _max_pool_autograd(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None]:
    return (None if grad is None else _max_pool_backward(grad, *ctx.saved_tensors),)


def _fake_upsample_add(x: Tensor, skip: Tensor) -> Tensor:
    return result_like(skip)


def _fake_upsample_add_backward(grad: Tensor) -> Tensor:
    return reference.halved_like(grad)


def _setup_upsample_add(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.set_materialize_grads(False)


def _upsample_add_autograd(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if grad is None:
        return None, None
    need = ctx.needs_input_grad
    return _upsample_add_backward(grad) if need[0] else None, grad if need[1] else None


_max_pool_backward = register_operator(
    "max_pool_2x2_backward",
    "(Tensor grad, Tensor x) -> Tensor",
    reference=reference.max_pool_2x2_backward,
    fake=_fake_max_pool_backward,
    autocast=False,
)
_max_pool = register_operator(
    "max_pool_2x2",
    "(Tensor x) -> Tensor",
    reference=reference.max_pool_2x2,
    fake=_fake_max_pool,
    setup_context=_setup_max_pool,
    backward=_max_pool_autograd,
    autocast=False,
)
_upsample_add_backward = register_operator(
    "upsample_add_backward",
    "(Tensor grad) -> Tensor",
    reference=reference.upsample_add_backward,
    fake=_fake_upsample_add_backward,
    autocast=False,
)
_upsample_add = register_operator(
    "upsample_add",
    "(Tensor x, Tensor skip) -> Tensor",
    reference=reference.upsample_add,
    fake=_fake_upsample_add,
    setup_context=_setup_upsample_add,
    backward=_upsample_add_autograd,
    autocast=False,
)
