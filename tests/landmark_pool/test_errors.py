"""Every error of landmark_pool and gaussian_pool."""

import re
from typing import Any

import pytest
import torch

from lmdis_fast.ops import gaussian_pool, landmark_pool

F, Z, C = torch.zeros(2, 3, 5, 6), torch.zeros(2, 4, 5, 6), torch.zeros(2, 4, 2)
NAN = float("nan")

POOL: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((F[0], Z), {}, ValueError, "features must be (N, S, H, W) floating, got (3, 5, 6) torch.float32"),
    ((F, Z[0]), {}, ValueError, "logits must be (N, C, H, W) floating, got (4, 5, 6) torch.float32"),
    ((F.int(), Z), {}, TypeError, "features must be (N, S, H, W) floating, got (2, 3, 5, 6) torch.int32"),
    ((F, Z.bool()), {}, TypeError, "logits must be (N, C, H, W) floating, got (2, 4, 5, 6) torch.bool"),
    ((None, Z), {}, TypeError, "features must be a (N, S, H, W) floating tensor, got NoneType"),
    ((F[:, :0], Z), {}, ValueError, "features must be (N, S, H, W) with at least one channel and one pixel"),
    ((F, Z[:, :0]), {}, ValueError, "logits must be (N, C, H, W) with at least one channel and one pixel"),
    ((F, Z[:1]), {}, ValueError, "must have the same N, H and W, got (2, 3, 5, 6) and (1, 4, 5, 6)"),
    ((F, Z[..., :5]), {}, ValueError, "must have the same N, H and W, got (2, 3, 5, 6) and (2, 4, 5, 5)"),
    ((F, Z.to("meta")), {}, ValueError, "tensors must be on one device, got features on cpu, logits on meta"),
    ((F, Z), {"over": "marginals"}, ValueError, "over must be one of 'channels', 'pixels', got 'marginals'"),
    ((F, Z), {"temperature": 0}, ValueError, "temperature must be positive, got 0"),
    ((F, Z), {"temperature": NAN}, ValueError, "temperature must be finite, got nan"),
    ((F, Z), {"eps": -1.0}, ValueError, "eps must be at least 0, got -1.0"),
    ((F, Z), {"eps": None}, TypeError, "eps must be a number, got NoneType"),
]

GAUSSIAN: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((F[0], C, 0.1), ValueError, "features must be (N, S, H, W) floating, got (3, 5, 6)"),
    ((F, C[0], 0.1), ValueError, "coords must be (N, K, 2) floating, got (4, 2) torch.float32"),
    ((F, C.int(), 0.1), TypeError, "coords must be (N, K, 2) floating, got (2, 4, 2) torch.int32"),
    (
        (F, C[..., :1], 0.1),
        ValueError,
        "coords must be (N, K, 2) floating with at least one point, got (2, 4, 1)",
    ),
    (
        (F, C[:, :0], 0.1),
        ValueError,
        "coords must be (N, K, 2) floating with at least one point, got (2, 0, 2)",
    ),
    ((F, C[:1], 0.1), ValueError, "the same batch size N, got features (2, 3, 5, 6), coords (1, 4, 2)"),
    ((F, C, 0.0), ValueError, "sigma must be positive, got 0.0"),
    ((F, C, -0.1), ValueError, "sigma must be positive, got -0.1"),
    ((F, C, NAN), ValueError, "sigma must be finite, got nan"),
    ((F, C, "wide"), TypeError, "sigma must be a number, got str"),
    ((F, C, torch.ones(3)), ValueError, "sigma must be (K,) or (N, K) for coords (2, 4, 2), got (3,)"),
    ((F, C, torch.ones(1, 4)), ValueError, "sigma must be (K,) or (N, K) for coords (2, 4, 2), got (1, 4)"),
    ((F, C, torch.ones(2, 4, 1)), ValueError, "sigma must be (K,) or (N, K) floating, got (2, 4, 1)"),
    ((F, C, torch.ones(4).int()), TypeError, "sigma must be (K,) or (N, K) floating, got (4,) torch.int32"),
    (
        (F, C.to("meta"), 0.1),
        ValueError,
        "tensors must be on one device, got features on cpu, coords on meta",
    ),
]


@pytest.mark.parametrize(("args", "options", "error", "text"), POOL)
def test_landmark_pool(args: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^landmark_pool: .*" + re.escape(text)):
        landmark_pool(*args, **options)


@pytest.mark.parametrize(("args", "error", "text"), GAUSSIAN)
def test_gaussian_pool(args: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^gaussian_pool: .*" + re.escape(text)):
        gaussian_pool(*args)


def test_empty_batch_is_no_error() -> None:
    features = F[:0].clone().requires_grad_()
    assert landmark_pool(features, Z[:0]).shape == (0, 4, 3)
    pooled = gaussian_pool(features, C[:0], 0.1)
    assert pooled.shape == (0, 4, 3)
    pooled.sum().backward()
