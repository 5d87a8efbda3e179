"""landmark_pool and gaussian_pool against NumPy loops and known answers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmdis_fast.ops import gaussian_pool, landmark_pool

from .. import strategies as draw
from ..finite_differences import assert_directional_derivative, weighted, weights_like
from ..tolerances import assert_near
from . import formula

pytestmark = pytest.mark.usefixtures("backend")

OVER = st.sampled_from(["channels", "pixels"])


def features_for(z: Tensor, layout: str, seed: int) -> Tensor:
    return draw.in_layout(draw.uniform((len(z), 2, *z.shape[2:]), seed), layout)


@given(
    draw.logits(), draw.layouts, OVER, st.sampled_from([0.3, 1.0]), st.sampled_from([1e-6, 0.5]), draw.seeds
)
def test_values(z: Tensor, layout: str, over: str, temperature: float, eps: float, seed: int) -> None:
    features = features_for(z, layout, seed)
    expected = formula.landmark_pool(features.numpy(), z.numpy(), over, temperature, eps)
    found = landmark_pool(features, z, over=over, temperature=temperature, eps=eps)
    assert_near(found, torch.from_numpy(expected))


@given(draw.logits(kinds=["normal", "ties", "masked"]), OVER, draw.seeds)
def test_gradient(z: Tensor, over: str, seed: int) -> None:
    z = z.contiguous()
    leaves = [features_for(z, "channels_last", seed).requires_grad_(), z.detach().requires_grad_()]
    gradients = torch.autograd.grad(
        weighted((landmark_pool(*leaves, over=over, temperature=0.8, eps=0.1),)), leaves
    )

    def scalar(features: np.ndarray, logits: np.ndarray) -> float:
        result = formula.landmark_pool(features, logits, over, 0.8, 0.1)
        return float((result * weights_like(result)).sum())

    assert gradients[0].stride() == leaves[0].stride()
    assert_directional_derivative(scalar, leaves, list(gradients), seed)


@given(draw.batches, draw.sizes, draw.layouts, st.booleans(), st.sampled_from([1.0, 3.0, 40.0]), draw.seeds)
def test_gaussian(
    batch: int, size: tuple[int, int], layout: str, align: bool, reach: float, seed: int
) -> None:
    features = draw.in_layout(draw.uniform((batch, 2, *size), seed), layout)
    coords = draw.uniform((batch, 3, 2), seed + 1, reach)
    sigma = draw.uniform((batch, 3), seed + 2, 0.2) + 0.4
    leaves = [
        features.detach().contiguous().requires_grad_(),
        coords.requires_grad_(),
        sigma.requires_grad_(),
    ]
    expected = formula.gaussian_pool(*(t.detach().numpy() for t in leaves), align)
    assert_near(gaussian_pool(features, coords, sigma, align_corners=align), torch.from_numpy(expected))
    gradients = torch.autograd.grad(weighted((gaussian_pool(*leaves, align_corners=align),)), leaves)

    def scalar(*arrays: np.ndarray) -> float:
        result = formula.gaussian_pool(*arrays, align)
        return float((result * weights_like(result)).sum())

    assert_directional_derivative(scalar, leaves, list(gradients), seed)


def test_constant_features_pool_to_the_constant() -> None:
    z, constant = (
        draw.logits_of("normal", (2, 4, 6, 7), 1),
        torch.full((2, 3, 6, 7), 2.5, dtype=torch.float64),
    )
    assert_near(landmark_pool(constant, z, eps=0.0), torch.full((2, 4, 3), 2.5))
    assert_near(landmark_pool(constant, z, over="pixels"), torch.full((2, 4, 3), 2.5))
    points = draw.uniform((2, 5, 2), 3, 9.0)  # far outside the image too
    assert_near(gaussian_pool(constant.float(), points.float(), 0.1), torch.full((2, 5, 3), 2.5))


def test_widths_as_number_row_and_table_agree() -> None:
    features, points = draw.uniform((2, 3, 6, 7), 1), draw.uniform((2, 4, 2), 2)
    number = gaussian_pool(features, points, 0.3)
    assert torch.equal(number, gaussian_pool(features, points, torch.full((4,), 0.3, dtype=torch.float64)))
    assert torch.equal(number, gaussian_pool(features, points, torch.full((2, 4), 0.3, dtype=torch.float64)))


def test_row_of_widths_receives_the_batch_s_gradient() -> None:
    features, points = draw.uniform((2, 3, 6, 7), 1), draw.uniform((2, 4, 2), 2)
    row = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: gaussian_pool(features, points, s), (row,))


def test_narrow_gaussian_reads_one_pixel() -> None:
    features = draw.uniform((1, 3, 6, 6), 1)
    point = torch.tensor([[[2 * 4.5 / 6 - 1, 2 * 1.5 / 6 - 1]]], dtype=torch.float64)
    assert_near(gaussian_pool(features, point, 0.02)[0, 0], features[0, :, 1, 4])


def test_channel_without_mass_pools_to_nothing() -> None:
    z = torch.zeros(1, 3, 4, 4)
    z[:, 1] = -math.inf
    pooled = landmark_pool(torch.ones(1, 2, 4, 4), z)
    assert torch.equal(pooled[0, 1], torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_result_has_the_features_dtype(dtype: torch.dtype) -> None:
    features = torch.ones(1, 2, 4, 4, dtype=dtype)
    assert landmark_pool(features, torch.zeros(1, 3, 4, 4)).dtype == dtype
    assert gaussian_pool(features, torch.zeros(1, 3, 2), 0.5).dtype == dtype
