"""Every error of heatmap_moments, word for word where a user reads it."""

import re
from typing import Any

import pytest
import torch

from lmdis_fast.ops import heatmap_moments

GOOD = torch.zeros(2, 4, 5, 6)

CASES: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (
        torch.zeros(2, 11, 96),
        {},
        ValueError,
        "logits must be (N, K+1, H, W) floating, got (2, 11, 96) torch.float32",
    ),
    (
        torch.zeros(2, 11, 9, 6, 1),
        {},
        ValueError,
        "logits must be (N, K+1, H, W) floating, got (2, 11, 9, 6, 1)",
    ),
    (GOOD.long(), {}, TypeError, "logits must be (N, K+1, H, W) floating, got (2, 4, 5, 6) torch.int64"),
    (GOOD.to(torch.complex64), {}, TypeError, "logits must be (N, K+1, H, W) floating, got"),
    ([[0.0]], {}, TypeError, "logits must be a (N, K+1, H, W) floating tensor, got list"),
    (GOOD[:, :1], {}, ValueError, "logits must be (N, K+1, H, W) with K at least 1, got (2, 1, 5, 6)"),
    (GOOD[:, :0], {"background": False}, ValueError, "logits must be (N, K, H, W) with at least one channel"),
    (GOOD[:, :, :0], {}, ValueError, "with at least one channel and one pixel, got (2, 4, 0, 6)"),
    (GOOD, {"over": "rows"}, ValueError, "over must be one of 'channels', 'pixels', 'marginals', got 'rows'"),
    (GOOD, {"temperature": 0.0}, ValueError, "temperature must be positive, got 0.0"),
    (GOOD, {"temperature": -1}, ValueError, "temperature must be positive, got -1"),
    (GOOD, {"temperature": float("nan")}, ValueError, "temperature must be finite, got nan"),
    (GOOD, {"temperature": "1"}, TypeError, "temperature must be a number, got str"),
    (GOOD, {"eps": -1e-6}, ValueError, "eps must be at least 0, got -1e-06"),
    (GOOD, {"eps": float("inf")}, ValueError, "eps must be finite, got inf"),
]


@pytest.mark.parametrize(("logits", "options", "error", "text"), CASES)
def test_error(logits: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^heatmap_moments: .*" + re.escape(text)):
        heatmap_moments(logits, **options)


@pytest.mark.parametrize("over", ["channels", "pixels", "marginals"])
def test_empty_batch_is_no_error(over: str) -> None:
    z = torch.zeros(0, 4, 5, 6, requires_grad=True)
    out = heatmap_moments(z, over=over, covariance=True)
    assert [tuple(t.shape) for t in out] == [(0, 3, 2), (0, 3, 3), (0, 3)]
    sum(t.sum() for t in out).backward()
    assert z.grad is not None and z.grad.shape == z.shape
