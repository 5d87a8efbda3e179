"""Calls that are too large for the compiled CUDA kernels are known before one runs, from every operator's arguments."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmdis_fast import cuda_limits
from lmdis_fast.backends import not_for_cuda
from lmdis_fast.ops import gaussian_pool, heatmap_moments, landmark_pool, render_gaussians, splat_landmarks

from .cases import RecordedCalls

MAPS = cuda_limits.MAPS


def _maps(channels: int) -> Tensor:
    return torch.zeros(1, channels, 1, 1, requires_grad=True)


def _points(landmarks: int) -> Tensor:
    return torch.zeros(1, landmarks, 2, requires_grad=True)


def _render(landmarks: int, levels: int) -> Tensor:
    return render_gaussians(_points(landmarks), (1, 1), sigma=[0.5] * levels, normalize="peak")


def _splat(landmarks: int, features: int, levels: int) -> Tensor:
    codes = torch.zeros(1, landmarks + 1, features, requires_grad=True)
    return splat_landmarks(_points(landmarks), codes, (1, 1), sigma=[0.5] * levels, background=0.1)


def _pool(features: int, channels: int) -> Tensor:
    return landmark_pool(_maps(features), _maps(channels))


def _windows(features: int, landmarks: int) -> Tensor:
    return gaussian_pool(_maps(features), _points(landmarks), 0.5)


def _moments(channels: int, over: str) -> Tensor:
    options: dict[str, str] = {"over": over}
    return heatmap_moments(_maps(channels), background=False, **options).coords


@pytest.mark.parametrize(
    ("call", "sizes", "reason"),
    [
        (_moments, (512, "channels"), None),
        (_moments, (513, "channels"), "at most 512 channels, got 513"),
        (_moments, (513, "pixels"), None),
        (_moments, (MAPS + 1, "marginals"), "at most 65535 channels, got 65536"),
        (_pool, (MAPS, 256), None),
        (_pool, (2, 257), "at most 256 channels, got 257"),
        (_pool, (MAPS + 1, 2), "at most 65535 features, got 65536"),
        (_windows, (2, 128), None),
        (_windows, (2, 129), "at most 128 landmarks, got 129"),
        (_windows, (MAPS + 1, 2), "at most 65535 features, got 65536"),
        (_render, (128, 16), None),
        (_render, (129, 1), "at most 128 landmarks, got 129"),
        (_render, (2, 17), "at most 16 widths, got 17"),
        (_splat, (128, 3, 16), None),
        (_splat, (129, 3, 1), "at most 128 landmarks, got 129"),
        (_splat, (2, 3, 17), "at most 16 widths, got 17"),
        (_splat, (2, MAPS + 1, 1), "at most 65535 features, got 65536"),
    ],
)
def test_too_large_calls_are_named_both_ways(
    call: Callable[..., Tensor], sizes: tuple[object, ...], reason: str | None
) -> None:
    with RecordedCalls() as recorded:
        call(*sizes).sum().backward()
    assert len(recorded.calls) == 2
    for operator, args in recorded.calls:
        op = operator._schema.name.partition("::")[2]
        found = not_for_cuda(op, args, "cpu")
        assert found is None if reason is None else reason in str(found), (op, found)
