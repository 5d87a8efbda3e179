"""The model of the roofline table cuts maps as the CUDA kernels do, by the grids that they are launched with."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.cuda_launches import launch_of
from bench.kernel_model import Size
from lmdis_fast import backends
from lmdis_fast.ops import gaussian_pool, heatmap_moments, landmark_pool, render_gaussians, splat_landmarks

from . import emulated
from .backend import emulated_cuda

BATCH, SIDE = 1, 40


def _maps(channels: int) -> Tensor:
    return torch.randn(BATCH, channels, SIDE, SIDE).requires_grad_()


def _points(landmarks: int) -> Tensor:
    return torch.rand(BATCH, landmarks, 2).requires_grad_()


CALLS: dict[str, tuple[str, Callable[[int, int], object]]] = {
    "heatmap_moments": ("heatmap_moments", lambda k, s: heatmap_moments(_maps(k + 1)).coords),
    "landmark_pool": ("landmark_pool", lambda k, s: landmark_pool(_maps(s), _maps(k + 1))),
    "gaussian_pool": ("landmark_pool", lambda k, s: gaussian_pool(_maps(s), _points(k), 0.3)),
    "render_gaussians": (
        "gaussian_splat",
        lambda k, s: render_gaussians(
            _points(k), (SIDE, SIDE), sigma=0.3, background=0.1, normalize="channels"
        ),
    ),
    "splat_landmarks": (
        "gaussian_splat",
        lambda k, s: splat_landmarks(
            _points(k), torch.randn(BATCH, k + 1, s), (SIDE, SIDE), sigma=0.3, background=0.1
        ),
    ),
}
#: Kernels whose grid is tiles and blocks of features, by their names in the model.
CUT = {
    "heatmap_moments_channels": "heatmap_moments_channels",
    "heatmap_moments_backward_channels": "heatmap_moments_backward_channels",
    "landmark_pool_partials": "landmark_pool_partials",
    "landmark_pool_backward_map": "landmark_pool_backward_map",
    "gaussian_pool_partials": "gaussian_pool_partials",
    "gaussian_pool_backward_map": "gaussian_pool_backward_map",
}
OF_SPLAT = {
    "gaussian_splat_maps": "{}_maps",
    "gaussian_splat_backward_partials": "{}_backward_partials",
}


@pytest.mark.parametrize(("landmarks", "features"), [(4, 3), (30, 20)])
@pytest.mark.parametrize("operator", CALLS)
def test_grids_are_those_of_the_model(operator: str, landmarks: int, features: int) -> None:
    room, call = CALLS[operator]
    size = Size(landmarks, SIDE, features, 4, batch=BATCH)
    with emulated_cuda(room), emulated.launches(room) as launched, backends.use_backend("cuda"):
        result = call(landmarks, features)
        assert isinstance(result, Tensor)
        result.sum().backward()
    names = CUT | {kernel: name.format(operator) for kernel, name in OF_SPLAT.items()}
    checked = 0
    for kernel, grid in launched:
        name = names.get(kernel.partition("<")[0])
        if name is not None:
            entry = launch_of(name, size)
            high = entry["TILE"] // entry["columns"] * entry["STEPS"]
            tiles = math.ceil(SIDE / entry["columns"]) * math.ceil(SIDE / high)
            assert grid[0] == BATCH * tiles, (kernel, grid, entry)
            checked += 1
    assert checked == 2, launched
