"""Every error of max_pool_2x2 and upsample_add, and sizes that are none."""

import re
from typing import Any

import pytest
import torch

from lmdis_fast.ops import max_pool_2x2, upsample_add

X, SKIP = torch.zeros(2, 3, 5, 6), torch.zeros(2, 3, 10, 12)

POOL: list[tuple[Any, type[Exception], str]] = [
    (X[0], ValueError, "x must be (N, C, H, W) floating, got (3, 5, 6) torch.float32"),
    (X.int(), TypeError, "x must be (N, C, H, W) floating, got (2, 3, 5, 6) torch.int32"),
    (None, TypeError, "x must be a (N, C, H, W) floating tensor, got NoneType"),
    (X[:, :0], ValueError, "x must be (N, C, H, W) with at least one channel and one pixel"),
    (X[..., :1], ValueError, "at least 2 rows and 2 columns, got (2, 3, 5, 1) torch.float32"),
    (X[:, :, :1], ValueError, "at least 2 rows and 2 columns, got (2, 3, 1, 6) torch.float32"),
]
UPSAMPLE: list[tuple[Any, Any, type[Exception], str]] = [
    (X[0], SKIP, ValueError, "x must be (N, C, H, W) floating, got (3, 5, 6) torch.float32"),
    (X, None, TypeError, "skip must be a (N, C, 2H, 2W) floating tensor, got NoneType"),
    (X, SKIP.int(), TypeError, "skip must be (N, C, 2H, 2W) floating, got (2, 3, 10, 12) torch.int32"),
    (X, SKIP.double(), TypeError, "skip must be torch.float32 as x is, got (2, 3, 10, 12) torch.float64"),
    (X, SKIP[:1], ValueError, "skip must be (N, C, 2H, 2W) for x (2, 3, 5, 6) torch.float32, got (1, 3, 10"),
    (X, SKIP[:, :2], ValueError, "skip must be (N, C, 2H, 2W) for x (2, 3, 5, 6) torch.float32, got (2, 2"),
    (X, SKIP[..., :-1], ValueError, "skip must be (N, C, 2H, 2W) for x (2, 3, 5, 6) torch.float32, got (2"),
    (X, SKIP.to("meta"), ValueError, "tensors must be on one device, got x on cpu, skip on meta"),
]


@pytest.mark.parametrize(("x", "error", "text"), POOL)
def test_max_pool_2x2(x: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^max_pool_2x2: .*" + re.escape(text)):
        max_pool_2x2(x)


@pytest.mark.parametrize(("x", "skip", "error", "text"), UPSAMPLE)
def test_upsample_add(x: Any, skip: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^upsample_add: .*" + re.escape(text)):
        upsample_add(x, skip)


@pytest.mark.usefixtures("compiled")
def test_entries_check_again() -> None:
    ops = torch.ops.lmdis_fast
    with pytest.raises(RuntimeError, match=r"x must be .* at least 2 rows"):
        ops.max_pool_2x2(X[..., :1])
    with pytest.raises(RuntimeError, match=r"grad must be .2, 3, 2, 3. torch.float32"):
        ops.max_pool_2x2_backward(X, X)
    with pytest.raises(RuntimeError, match=r"skip must be .2, 3, 10, 12. torch.float32"):
        ops.upsample_add(X, SKIP.double())
    with pytest.raises(RuntimeError, match=r"grad must be .N, C, 2H, 2W."):
        ops.upsample_add_backward(X)


@pytest.mark.usefixtures("backend")
def test_empty_batch_is_no_error() -> None:
    x, skip = X[:0].clone().requires_grad_(), SKIP[:0].clone().requires_grad_()
    found = max_pool_2x2(x), upsample_add(x, skip)
    assert [tuple(t.shape) for t in found] == [(0, 3, 2, 3), (0, 3, 10, 12)]
    (found[0].sum() + found[1].sum()).backward()
    assert x.grad is not None and x.grad.shape == x.shape
