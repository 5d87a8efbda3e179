"""Every error of batch_norm_leaky_relu."""

import math
import re
from typing import Any

import pytest
import torch

from lmdis_fast.ops import batch_norm_leaky_relu

X, W = torch.zeros(2, 3, 5, 6), torch.ones(3)

CALLS: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((X[0], W, W), {}, ValueError, "x must be (N, C, H, W) floating, got (3, 5, 6) torch.float32"),
    ((X.int(), W, W), {}, TypeError, "x must be (N, C, H, W) floating, got (2, 3, 5, 6) torch.int32"),
    ((None, W, W), {}, TypeError, "x must be a (N, C, H, W) floating tensor, got NoneType"),
    ((X[..., :0], W, W), {}, ValueError, "x must be (N, C, H, W) with at least one channel and one pixel"),
    ((X, W[:2], W), {}, ValueError, "weight must be (C,) for x (2, 3, 5, 6) torch.float32, got (2,)"),
    ((X, W, W[:2]), {}, ValueError, "bias must be (C,) for x (2, 3, 5, 6) torch.float32, got (2,)"),
    ((X, W[None], W), {}, ValueError, "weight must be (C,) floating, got (1, 3) torch.float32"),
    ((X, W, W.int()), {}, TypeError, "bias must be (C,) floating, got (3,) torch.int32"),
    ((X, None, W), {}, TypeError, "weight must be a (C,) floating tensor, got NoneType"),
    (
        (X, W.to("meta"), W),
        {},
        ValueError,
        "tensors must be on one device, got x on cpu, weight on meta, bias on cpu",
    ),
    ((X, W, W), {"eps": -1e-3}, ValueError, "eps must be at least 0, got -0.001"),
    ((X, W, W), {"eps": math.inf}, ValueError, "eps must be finite, got inf"),
    ((X, W, W), {"slope": 1.5}, ValueError, "slope must be from 0 to 1, got 1.5"),
    ((X, W, W), {"slope": -0.1}, ValueError, "slope must be at least 0, got -0.1"),
    (
        (X, W, W),
        {"pool": True},
        ValueError,
        "x must have an even height and width with low or pool, got (2, 3, 5, 6)",
    ),
    (
        (X, W, W),
        {"low": X},
        ValueError,
        "x must have an even height and width with low or pool, got (2, 3, 5, 6)",
    ),
    (
        (X[..., 1:, :], W, W),
        {"low": X},
        ValueError,
        "low must be (N, C, H / 2, W / 2) for x (2, 3, 4, 6) torch.float32",
    ),
    (
        (X[..., 1:, :], W, W),
        {"low": 3},
        TypeError,
        "low must be a (N, C, H / 2, W / 2) floating tensor, got int",
    ),
    (
        (X[..., 1:, :], W, W),
        {"low": X[..., :2, :3].double()},
        TypeError,
        "low must be torch.float32 as x is, got (2, 3, 2, 3) torch.float64",
    ),
    ((X, W, W), {"slope": "steep"}, TypeError, "slope must be a number, got str"),
    (
        (X[..., 1:, :], W, W),
        {"pool": True, "upsample": True},
        ValueError,
        "upsample goes with neither low nor pool, got pool too",
    ),
    (
        (X[..., 1:, :], W, W),
        {"low": X[..., :2, :3], "upsample": True},
        ValueError,
        "upsample goes with neither low nor pool, got low too",
    ),
]


@pytest.mark.parametrize(("args", "options", "error", "text"), CALLS)
def test_batch_norm_leaky_relu(args: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^batch_norm_leaky_relu: .*" + re.escape(text)):
        batch_norm_leaky_relu(*args, **options)


def test_empty_batch_is_no_error() -> None:
    x = X[:0].clone().requires_grad_()
    found = batch_norm_leaky_relu(x, W, W)
    assert found.out.shape == (0, 3, 5, 6) and found.mean.isnan().all()
    found.out.sum().backward()


@pytest.mark.usefixtures("compiled")
def test_compiled_operator_checks_what_it_is_given() -> None:
    """It is callable through torch.ops, and touches no memory that is not there."""
    forward, backward = (
        torch.ops.lmdis_fast.batch_norm_leaky_relu,
        torch.ops.lmdis_fast.batch_norm_leaky_relu_backward,
    )
    x, low = X[..., 1:, :], X[..., :2, :3]
    for args in (
        (X, W, W, None, 1e-5, 0.1, True, False),
        (x, W, W, X, 1e-5, 0.1, False, False),
        (x, W, W, low.double(), 1e-5, 0.1, False, False),
    ):
        with pytest.raises(RuntimeError, match=r"batch_norm_leaky_relu: (x|low) must "):
            forward(*args)
    with pytest.raises(RuntimeError, match="upsample goes with neither low nor pool"):
        forward(x, W, W, low, 1e-5, 0.1, False, True)
    options = 1e-5, 0.1, False, True  # eps, slope, upsample, need_x
    for args, text in (
        ((None, None, x, W, W, W, W, None, *options, False), "grad or grad_pooled must be a tensor"),
        ((x, low, x, W, W, W, W, None, *options, False), "out must be a tensor with grad_pooled"),
        ((x, x, x, W, W, W, W, x, *options, False), "grad_pooled must be"),
        ((x, low, x, W, W, W, W, X, *options, False), "out must be"),
        ((X, None, X, W, W, W, W, None, *options, True), "x must have an even height"),
        ((x, None, x, W, W, W, W, None, 1e-5, 0.1, True, True, False), "grad must be (2, 3, 8, 12)"),
        ((x, None, x, W, W, W, W, None, 1e-5, 0.1, True, True, True), "upsample goes with neither low nor"),
    ):
        with pytest.raises(RuntimeError, match=re.escape(text)):
            backward(*args)
