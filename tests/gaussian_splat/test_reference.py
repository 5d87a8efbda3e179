"""render_gaussians and splat_landmarks against NumPy loops and known answers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmdis_fast.ops import gaussian_pool, render_gaussians, splat_landmarks

from .. import strategies as draw
from ..finite_differences import assert_directional_derivative, weighted, weights_like
from ..tolerances import assert_near
from . import formula

pytestmark = pytest.mark.usefixtures("backend")

NORMALIZE = st.sampled_from(["peak", "sum", "channels"])
LEVELS = st.sampled_from([((0.3,), (1.0,), (1.0,)), ((0.25, 0.6, 1.1), (2.0, 1.0, 0.3), (1.0, 0.2, 0.7))])
SMALL = st.sampled_from([(1, 1), (1, 7), (5, 4), (9, 6)])


@given(draw.batches, SMALL, LEVELS, NORMALIZE, st.booleans(), draw.seeds)
def test_render(
    batch: int, size: tuple[int, int], levels: tuple, normalize: str, align: bool, seed: int
) -> None:
    sigma, gain, floor = levels
    background = floor if normalize == "channels" else None
    coords = draw.uniform((batch, 3, 2), seed, 1.3).requires_grad_()
    found = render_gaussians(
        coords, size, sigma=sigma, gain=gain, background=background, normalize=normalize, align_corners=align
    )

    def results(points: np.ndarray) -> np.ndarray:
        return formula.render_gaussians(points, size, sigma, gain, background, normalize, align)

    def scalar(points: np.ndarray) -> float:
        return float((results(points) * weights_like(results(points))).sum())

    assert_near(found, torch.from_numpy(results(coords.detach().numpy())))
    (gradient,) = torch.autograd.grad(weighted((found,)), coords)
    assert_directional_derivative(scalar, [coords], [gradient], seed)


@given(draw.batches, SMALL, LEVELS, st.booleans(), draw.seeds)
def test_splat(batch: int, size: tuple[int, int], levels: tuple, align: bool, seed: int) -> None:
    sigma, gain, floor = levels
    leaves = [draw.uniform((batch, 3, 2), seed, 1.3), draw.uniform((batch, 4, 2), seed + 1)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    found = splat_landmarks(*leaves, size, sigma=sigma, gain=gain, background=floor, align_corners=align)

    def results(*arrays: np.ndarray) -> np.ndarray:
        return formula.splat_landmarks(*arrays, size, sigma, gain, floor, align)

    def scalar(*arrays: np.ndarray) -> float:
        return float((results(*arrays) * weights_like(results(*arrays))).sum())

    assert_near(found, torch.from_numpy(results(*(leaf.detach().numpy() for leaf in leaves))))
    assert_directional_derivative(scalar, leaves, list(torch.autograd.grad(weighted((found,)), leaves)), seed)


@pytest.mark.parametrize(("side", "ratio"), [(80, 0.1018), (64, 0.1591)])
def test_published_amplitude(side: int, ratio: float) -> None:
    """Peak over background at the published first level, sigma 1/8 of the side: 0.1018 at 80, 0.1591 at 64."""
    sigma = 1 / 8
    gain = 1 / (2 * math.pi * sigma**4 * side * side)
    centre = torch.full((1, 1, 2), 1 / side, dtype=torch.float64)  # on a pixel
    maps = render_gaussians(
        centre, (side, side), sigma=2 * sigma, gain=gain, background=1.0, normalize="channels"
    )
    assert abs((maps[0, 0, 0] / maps[0, 0, 1]).max().item() - ratio) < 1e-4
    assert_near(maps.sum(2), torch.ones(1, 1, side, side))


def test_paper_amplitude_is_the_normal_density() -> None:
    """gain = 1 / (2 pi s^2), s in fractions of the side, over a background of 1: it integrates to 1 over the image."""
    s, side = 1 / 32, 96
    maps = render_gaussians(
        torch.zeros(1, 1, 2, dtype=torch.float64),
        (side, side),
        sigma=2 * s,
        gain=1 / (2 * math.pi * s**2),
        background=1.0,
        normalize="channels",
    )
    density = maps[0, 0, 0] / maps[0, 0, 1]
    assert abs(density.mean().item() - 1) < 1e-9


def test_sum_is_the_gain_wherever_the_landmark_lies() -> None:
    coords = draw.uniform((2, 5, 2), 3, 6.0).float()
    maps = render_gaussians(coords, (9, 12), sigma=(0.05, 0.4), gain=(1.0, 3.0), normalize="sum")
    assert_near(maps.sum((3, 4)), torch.tensor([1.0, 3.0])[None, :, None].expand(2, 2, 5))


def test_gaussian_is_round_in_pixels() -> None:
    maps = render_gaussians(torch.zeros(1, 1, 2, dtype=torch.float64), (21, 63), sigma=0.4)[0, 0, 0]
    assert_near(maps[10, 31 - 10 : 31 + 11], maps[:, 31])


def test_splat_is_adjoint_to_pooling() -> None:
    coords, image = draw.uniform((2, 3, 2), 1), draw.uniform((2, 4, 6, 7), 2)
    vectors = draw.uniform((2, 3, 4), 3)
    maps = render_gaussians(coords, (6, 7), sigma=0.5, normalize="sum")[:, 0]
    spread = torch.einsum("nkhw,nks->nshw", maps, vectors)
    assert_near((spread * image).sum(), (gaussian_pool(image, coords, 0.5) * vectors).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtype_follows(dtype: torch.dtype) -> None:
    coords, features = torch.zeros(1, 3, 2), torch.zeros(1, 4, 5, dtype=dtype)
    assert splat_landmarks(coords, features, (4, 4), sigma=0.3).dtype == dtype
    assert render_gaussians(coords.to(dtype), (4, 4), sigma=0.3).dtype == dtype
