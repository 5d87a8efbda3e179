"""Every error of render_gaussians and splat_landmarks."""

import re
from typing import Any

import pytest
import torch

from lmdis_fast.ops import render_gaussians, splat_landmarks

C, F = torch.zeros(2, 3, 2), torch.zeros(2, 4, 5)
Options = dict[str, Any]

COMMON: list[tuple[Any, Options, type[Exception], str]] = [
    (0, {}, ValueError, "size must be (H, W), got 0"),
    ((4,), {}, ValueError, "size must be (H, W), got (4,)"),
    ((0, 4), {}, ValueError, "size must be (H, W) in whole pixels, at least 1 each, got (0, 4)"),
    ((4.0, 4), {}, ValueError, "size must be (H, W) in whole pixels, at least 1 each, got (4.0, 4)"),
    ((4, 4), {"sigma": 0.0}, ValueError, "sigma must be positive, got 0.0"),
    ((4, 4), {"sigma": (0.1, -1)}, ValueError, "sigma must be positive, got -1"),
    ((4, 4), {"sigma": float("inf")}, ValueError, "sigma must be finite, got inf"),
    ((4, 4), {"sigma": ()}, ValueError, "sigma must be at least one number, got 0"),
    ((4, 4), {"sigma": "wide"}, TypeError, "sigma must be a number, got str"),
    ((4, 4), {"sigma": torch.ones(())}, TypeError, "sigma must be a number, got () torch.float32"),
    ((4, 4), {"gain": 0.0}, ValueError, "gain must be positive, got 0.0"),
    ((4, 4), {"gain": (1.0, 1.0)}, ValueError, "gain must be one number or one for each of 1 levels, got 2"),
    ((4, 4), {"background": 0.0}, ValueError, "background must be positive, got 0.0"),
    ((4, 4), {"background": float("nan")}, ValueError, "background must be finite, got nan"),
    (
        (4, 4),
        {"background": (1.0, 2.0)},
        ValueError,
        "background must be one number or one for each of 1 levels",
    ),
]

POINTS: list[tuple[Any, type[Exception], str]] = [
    (C[0], ValueError, "coords must be (N, K, 2) floating, got (3, 2) torch.float32"),
    (C[..., :1], ValueError, "coords must be (N, K, 2) floating with at least one point, got (2, 3, 1)"),
    (C[:, :0], ValueError, "coords must be (N, K, 2) floating with at least one point, got (2, 0, 2)"),
    (C.long(), TypeError, "coords must be (N, K, 2) floating, got (2, 3, 2) torch.int64"),
    ("here", TypeError, "coords must be a (N, K, 2) floating tensor, got str"),
]

FEATURES: list[tuple[Any, type[Exception], str]] = [
    (F[0], ValueError, "features must be (N, K+1, S) floating, got (4, 5) torch.float32"),
    (F[:, :3], ValueError, "features must be (N, K+1, S) for coords (2, 3, 2), got (2, 3, 5)"),
    (F[..., :0], ValueError, "features must be (N, K+1, S) for coords (2, 3, 2), got (2, 4, 0)"),
    (F[:1], ValueError, "tensors must have the same batch size N, got coords (2, 3, 2), features (1, 4, 5)"),
    (F.int(), TypeError, "features must be (N, K+1, S) floating, got (2, 4, 5) torch.int32"),
    (F.to("meta"), ValueError, "tensors must be on one device, got coords on cpu, features on meta"),
]


@pytest.mark.parametrize(("size", "options", "error", "text"), COMMON)
def test_sizes_and_numbers(size: Any, options: Options, error: type[Exception], text: str) -> None:
    options = {"sigma": 0.3, "background": 1.0, **options}
    with pytest.raises(error, match="^render_gaussians: .*" + re.escape(text)):
        render_gaussians(C, size, normalize="channels", **options)
    with pytest.raises(error, match="^splat_landmarks: .*" + re.escape(text)):
        splat_landmarks(C, F, size, **options)


@pytest.mark.parametrize(("coords", "error", "text"), POINTS)
def test_coords(coords: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^render_gaussians: .*" + re.escape(text)):
        render_gaussians(coords, (4, 4), sigma=0.3)
    with pytest.raises(error, match="^splat_landmarks: .*" + re.escape(text)):
        splat_landmarks(coords, F, (4, 4), sigma=0.3)


@pytest.mark.parametrize(("features", "error", "text"), FEATURES)
def test_features(features: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="^splat_landmarks: .*" + re.escape(text)):
        splat_landmarks(C, features, (4, 4), sigma=0.3)


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "peak", "background": 1.0},
        {"normalize": "sum", "background": 1.0},
        {"normalize": "channels"},
    ],
)
def test_background_only_where_it_belongs(options: Options) -> None:
    with pytest.raises(ValueError, match="background must be given with normalize='channels' and only there"):
        render_gaussians(C, (4, 4), sigma=0.3, **options)


def test_unknown_normalization() -> None:
    with pytest.raises(ValueError, match="normalize must be one of 'peak', 'sum', 'channels', got 'density'"):
        render_gaussians(C, (4, 4), sigma=0.3, normalize="density")  # type: ignore[arg-type]


def test_empty_batch_is_no_error() -> None:
    coords = C[:0].clone().requires_grad_()
    assert render_gaussians(coords, (4, 5), sigma=(0.3, 0.5)).shape == (0, 2, 3, 4, 5)
    maps = splat_landmarks(coords, F[:0], (4, 5), sigma=0.3)
    assert maps.shape == (0, 9, 4, 5)
    maps.sum().backward()
