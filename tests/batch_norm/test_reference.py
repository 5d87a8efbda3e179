"""batch_norm_leaky_relu against NumPy loops, torch's own layers and known answers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmdis_fast.ops import batch_norm_leaky_relu

from .. import strategies as draw
from ..finite_differences import assert_directional_derivative, weighted, weights_like
from ..tolerances import assert_near
from . import formula

pytestmark = pytest.mark.usefixtures("backend")

SLOPES = st.sampled_from([0.0, 0.2, 1.0])
CHANNELS = st.sampled_from([1, 3, 8, 16, 24, 96])


@given(CHANNELS, draw.sizes, draw.layouts, SLOPES, st.sampled_from([1e-5, 0.5]), draw.seeds)
def test_values(
    channels: int, size: tuple[int, int], layout: str, slope: float, eps: float, seed: int
) -> None:
    x = draw.in_layout(draw.uniform((2, channels, *size), seed) + 0.3, layout)
    weight, bias = draw.uniform((channels,), seed + 1), draw.uniform((channels,), seed + 2)
    expected = formula.batch_norm_leaky_relu(x.numpy(), weight.numpy(), bias.numpy(), eps, slope)
    found = batch_norm_leaky_relu(x, weight, bias, eps=eps, slope=slope)
    assert found.pooled is None
    for out, want in zip(found[:3], expected, strict=True):
        assert_near(out, torch.from_numpy(want))


@given(CHANNELS, draw.sizes, draw.layouts, st.sampled_from([0.2, 1.0]), draw.seeds)
def test_gradient(channels: int, size: tuple[int, int], layout: str, slope: float, seed: int) -> None:
    x = draw.in_layout(draw.uniform((2, channels, *size), seed), layout).contiguous()
    leaves = [x, draw.uniform((channels,), seed + 1), draw.uniform((channels,), seed + 2)]
    leaves = [t.detach().requires_grad_() for t in leaves]
    out = batch_norm_leaky_relu(*leaves, eps=0.1, slope=slope).out
    gradients = torch.autograd.grad(weighted((out,)), leaves)
    near_kink = bool((out.detach().abs() < 1e-3).any()) and slope != 1

    def scalar(*arrays: np.ndarray) -> float:
        result = formula.batch_norm_leaky_relu(*arrays, 0.1, slope)[0]
        return float((result * weights_like(result)).sum())

    if not near_kink:
        assert_directional_derivative(scalar, leaves, list(gradients), seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_is_torch_s_two_layers(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = (draw.uniform((3, 12, 9, 11), 1) * 2 + 1).to(dtype).contiguous(memory_format=layout)
    width = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = draw.uniform((12,), 2).to(width), draw.uniform((12,), 3).to(width)
    upstream = draw.uniform(tuple(x.shape), 4).bfloat16()

    def computed(call: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        out = call(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out.dtype))]

    def layers(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.leaky_relu(F.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-3), 0.2)

    exact = computed(layers, x.double(), weight.double(), bias.double())
    eager = computed(layers, x, weight, bias)
    found = computed(lambda *t: batch_norm_leaky_relu(*t, eps=1e-3, slope=0.2).out, x, weight, bias)
    assert found[0].stride() == x.stride()
    for ours, theirs, want in zip(found, eager, exact, strict=True):
        assert ours.dtype == theirs.dtype
        assert_near(ours, want, theirs)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x = (draw.uniform((4, 5, 33, 40), 1) + 3000).float()
    found = batch_norm_leaky_relu(x, torch.ones(5), torch.zeros(5))
    exact = x.double()
    assert_near(found.variance, exact.var((0, 2, 3)))
    assert_near(found.mean / 3000, exact.mean((0, 2, 3)) / 3000)


def test_an_outlier_at_the_start_costs_no_digits() -> None:
    x = draw.uniform((2, 3, 65, 70), 1).float()
    x[0, :, 0, 0] = 50.0
    found = batch_norm_leaky_relu(x, torch.ones(3), torch.zeros(3))
    assert_near(found.variance, x.double().var((0, 2, 3)))


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_equal_values_become_the_bias(eps: float) -> None:
    bias, ones = torch.tensor([0.5, -0.5], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    out = batch_norm_leaky_relu(torch.full((2, 2, 4, 4), 7.0).double(), ones, bias, eps=eps, slope=0.2).out
    assert_near(out, torch.tensor([0.5, -0.1], dtype=torch.float64).view(1, 2, 1, 1).expand(2, 2, 4, 4))


def test_no_gradient_through_statistics() -> None:
    x = draw.uniform((2, 3, 4, 5), 1).requires_grad_()
    found = batch_norm_leaky_relu(x, torch.ones(3).double(), torch.zeros(3).double())
    assert not found.mean.requires_grad and not found.variance.requires_grad
