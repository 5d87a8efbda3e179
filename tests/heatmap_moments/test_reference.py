"""heatmap_moments against NumPy loops and known answers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmdis_fast.ops import heatmap_moments

from .. import strategies as draw
from ..finite_differences import assert_directional_derivative, weighted, weights_like
from ..tolerances import assert_near
from . import formula

pytestmark = pytest.mark.usefixtures("backend")

OVER = st.sampled_from(["channels", "pixels", "marginals"])


@given(
    draw.logits(),
    OVER,
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.3, 1.0, 2.5]),
    st.sampled_from([1e-6, 0.5]),
)
def test_values(z: Tensor, over: str, background: bool, align: bool, temperature: float, eps: float) -> None:
    expected = formula.heatmap_moments(z.numpy(), over, background, temperature, align, eps)
    options = {
        "over": over,
        "background": background,
        "temperature": temperature,
        "align_corners": align,
        "eps": eps,
    }
    found = heatmap_moments(z, covariance=True, **options)
    for out, want in zip(found, expected, strict=True):
        assert_near(out, torch.from_numpy(want))
    plain = heatmap_moments(z, **options)
    assert torch.equal(plain.variance, found.variance[..., :2])
    assert torch.equal(plain.coords, found.coords)


@given(draw.logits(kinds=["normal", "ties", "masked"]), OVER, st.booleans(), st.booleans(), draw.seeds)
def test_gradient(z: Tensor, over: str, background: bool, align: bool, seed: int) -> None:
    leaf = z.detach().requires_grad_()
    found = heatmap_moments(
        leaf, over=over, background=background, align_corners=align, temperature=0.8, eps=0.1, covariance=True
    )
    (gradient,) = torch.autograd.grad(weighted(tuple(found)), leaf)

    def scalar(values: np.ndarray) -> float:
        results = formula.heatmap_moments(values, over, background, 0.8, align, 0.1)
        return float(sum((r * weights_like(r)).sum() for r in results))

    assert gradient.stride() == torch.empty_like(z).stride()
    if (
        z.stride(0) or len(z) < 2
    ):  # an expanded batch is one sample many times, which differences cannot move apart
        assert_directional_derivative(scalar, [z], [gradient], seed)


@given(draw.logits(), draw.dtypes, OVER)
def test_lower_precision(z: Tensor, dtype: torch.dtype, over: str) -> None:
    low = z.to(dtype)
    out = heatmap_moments(low, over=over)
    exact = heatmap_moments(low.double(), over=over)
    for a, b in zip(out, exact, strict=True):
        assert a.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        if a.numel():  # a logit of 1e4 carries a rounding error of 6e-8 of itself into the exponent
            assert (a.double() - b).abs().max().item() <= 5e-3 * max(1.0, b.abs().max().item())


@pytest.mark.parametrize("align", [False, True])
def test_one_hot_map_is_the_pixel(align: bool) -> None:
    z = torch.full((1, 2, 5, 8), -math.inf)
    z[:, 1] = 0.0
    z[0, 0, 3, 6], z[0, 1, 3, 6] = 0.0, -math.inf
    out = heatmap_moments(z, align_corners=align, eps=0.0)
    want = (2 * 6 / 7 - 1, 2 * 3 / 4 - 1) if align else (13 / 8 - 1, 7 / 5 - 1)
    assert_near(out.coords[0, 0], torch.tensor(want, dtype=torch.float64))
    assert torch.equal(out.variance, torch.zeros(1, 1, 2))
    assert torch.equal(out.mass, torch.ones(1, 1))


def test_uniform_map_is_the_centre_with_the_deviation_of_a_uniform_distribution() -> None:
    out = heatmap_moments(torch.zeros(2, 11, 96, 96, dtype=torch.float64), eps=0.0)
    assert_near(out.coords, torch.zeros(2, 10, 2))
    side = 2 * math.sqrt((1 - 96**-2) / 12)  # 2 x 0.2887: the side is 2 in the frame
    assert out.variance.sqrt().sub(side).abs().max() < 1e-12
    assert abs(side - 2 * 0.2887) < 1e-4
    assert_near(out.mass, torch.full((2, 10), 96 * 96 / 11, dtype=torch.float64))


def test_concentration_of_the_uniform_map() -> None:
    """2 pi e sigma^2 / s^2 with the published padding, sigma as a fraction of the image's side: 2.049."""
    variance = heatmap_moments(torch.zeros(1, 11, 96, 96, dtype=torch.float64)).variance.mean() / 4
    assert abs(2 * math.pi * math.e * variance.item() / (80 / 96) ** 2 - 2.049) < 1e-3


def test_round_in_pixels_means_equal_variances() -> None:
    j, i = torch.meshgrid(torch.arange(96.0), torch.arange(48.0), indexing="xy")
    bump = -((j - 40.2) ** 2 + (i - 22.7) ** 2).double() / (2 * 3.0**2)
    out = heatmap_moments(bump[None, None], over="pixels", background=False)
    width = out.variance.sqrt()[0, 0] * math.sqrt(96 * 48) / 2
    assert (width - 3.0).abs().max() < 1e-6


def test_pixel_masked_in_every_channel_contributes_nothing() -> None:
    z = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    z[:, :, :, 3:] = -math.inf
    leaf = z.clone().requires_grad_()
    out = heatmap_moments(leaf, eps=0.0)
    assert_near(out.mass.sum() + torch.softmax(z[..., :3], 1)[:, -1].sum(), torch.tensor(2 * 15.0).double())
    (gradient,) = torch.autograd.grad(weighted(tuple(out)), leaf)
    assert torch.equal(gradient[..., 3:], torch.zeros(2, 4, 5, 3))
    nothing = heatmap_moments(torch.full((1, 3, 4, 4), -math.inf))
    assert all(torch.equal(t, torch.zeros_like(t)) for t in nothing)


def test_nan_is_not_hidden() -> None:
    z = torch.zeros(1, 3, 4, 4)
    z[0, 0, 1, 1] = math.nan
    assert heatmap_moments(z).coords.isnan().all()


def test_far_small_variance_keeps_its_digits() -> None:
    """Raw second moments would lose three digits here."""
    x = (2 * torch.arange(128, dtype=torch.float64) + 1) / 128 - 1
    z = -((x[None, :] - 0.9) ** 2 + (x[:, None] + 0.9) ** 2) / (2 * 0.02**2)
    low = heatmap_moments(z.float()[None, None], over="pixels", background=False).variance
    exact = heatmap_moments(z.float().double()[None, None], over="pixels", background=False).variance
    assert ((low - exact).abs() / exact).max() < 2e-5


@pytest.mark.parametrize("reach", [39.0, 41.4, 41.8, 90.0, 1e4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 30.0])
def test_logits_of_every_size_are_exact(reach: float, temperature: float) -> None:
    """Whether or not exponentials are within float32's range without a maximum taken away first."""
    z = draw.logits_of("normal", (2, 5, 9, 21), 4)
    z = z / z.abs().max() * reach * temperature
    z[1, :, 4] = -reach * temperature  # all alike, and far down
    exact = heatmap_moments(z.float().double(), temperature=temperature)
    for out, want in zip(heatmap_moments(z.float(), temperature=temperature), exact, strict=True):
        assert_near(out, want, scale=4)
