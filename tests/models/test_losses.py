"""Known answers of the losses, with the published weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmdis_fast.config import preset_config
from lmdis_fast.losses import (
    concentration_loss,
    equivariance_loss,
    pair_losses,
    reconstruction_loss,
    separation_loss,
)
from lmdis_fast.models.detector import Detector, isotropic_sigma
from lmdis_fast.ops import ThinPlateSpline
from tests import strategies as draw
from tests.models.micro import MICRO

PAPER = preset_config("paper-80").losses
POINTS, SPLINE = torch.zeros(4, 3, 2), ThinPlateSpline.identity(3)
LEARNED = ThinPlateSpline.from_displacements(torch.zeros(3, 49, 2, requires_grad=True))


@pytest.mark.parametrize("landmarks", [1, 10])
def test_concentration_of_the_uniform_map(landmarks: int) -> None:
    found = Detector(MICRO.detector, landmarks).locate(torch.zeros(2, landmarks + 1, 96, 96), 96 / 80)
    loss = concentration_loss(isotropic_sigma(found.variance, "mean_of_stds"))
    assert loss.item() == pytest.approx(2.049 * landmarks, abs=1e-3 * landmarks)


def test_concentration_of_one_pixel_of_80() -> None:
    sigma = torch.full((3, 1), 2 / 80)  # in half sides
    assert PAPER.concentration * concentration_loss(sigma).item() == pytest.approx(0.267, abs=1e-3)


def test_concentration_as_printed() -> None:
    sigma = torch.tensor([[0.5, 0.2]])
    expected = 2 * math.pi * math.e * ((2 * 0.25**2) ** 2 + (2 * 0.1**2) ** 2)
    assert concentration_loss(sigma, "paper").item() == pytest.approx(expected, rel=1e-6)


def test_separation_of_coincident_landmarks() -> None:
    coords = torch.tensor([[[0.3, -0.2], [0.3, -0.2]]]).repeat(3, 1, 1)
    assert separation_loss(coords, 0.08).item() == pytest.approx(2.0)
    assert separation_loss(coords[:, :1], 0.08).item() == pytest.approx(0.0)


def test_separation_at_a_distance() -> None:
    coords = torch.tensor([[[0.0, 0.0], [0.2, 0.0], [0.0, -0.2]]])  # 0.1, 0.1 and 0.1 sqrt 2 of the side
    expected = 2 * (2 * math.exp(-0.01 / (2 * 0.08**2)) + math.exp(-0.02 / (2 * 0.08**2)))
    assert separation_loss(coords, 0.08).item() == pytest.approx(expected, rel=1e-5)


def test_separation_pushes_apart() -> None:
    coords = torch.tensor([[[-0.05, 0.0], [0.05, 0.0]]], requires_grad=True)
    separation_loss(coords, 0.08).backward()
    assert coords.grad is not None
    assert coords.grad[0, 0, 0] > 0 > coords.grad[0, 1, 0] and coords.grad[..., 1].abs().max() == 0


def test_reconstruction_is_half_the_squared_sum() -> None:
    image = torch.zeros(2, 3, 4, 5)
    rebuilt = image.clone()
    rebuilt[0] = 0.5
    rebuilt[1, 0, 0, 0] = 1.0
    assert reconstruction_loss(rebuilt, image).item() == pytest.approx(0.5 * (60 * 0.25 + 1.0) / 2)


def test_equivariance_of_an_exact_map(generator: torch.Generator) -> None:
    spline = ThinPlateSpline.random(2, generator=generator)
    twins = torch.rand(2, 5, 2, generator=generator) - 0.5
    originals = spline.transform(twins)
    assert equivariance_loss(originals, spline.transform(twins)).item() == 0
    assert equivariance_loss(originals, twins).item() > 0


@pytest.mark.parametrize("in_frame", [True, False])
@pytest.mark.parametrize("affine", ["before", "after"])
@given(st.integers(1, 3), st.integers(1, 12), st.sampled_from([0.5, 1.0]), draw.seeds)
def test_a_pair_s_losses_are_those_of_each_with_their_gradients(
    in_frame: bool, affine: str, batch: int, landmarks: int, gain: float, seed: int
) -> None:
    """In closed form as by autograd, where landmarks coincide and where they leave the frame too."""
    generator = torch.Generator().manual_seed(seed)
    coords = 2.4 * torch.rand(2 * batch, landmarks, 2, generator=generator, dtype=torch.float64) - 1.2
    coords[0, -1] = coords[0, 0]
    coords.requires_grad_()
    spline = ThinPlateSpline.random(batch, kernel_gain=gain, generator=generator, dtype=torch.float64)
    bend = 0.1 * torch.randn(batch, 2, 3, generator=generator, dtype=torch.float64)
    spline = spline.compose_affine(**{affine: torch.eye(2, 3, dtype=torch.float64) + bend})
    ratio, bandwidth = 1.25, 0.3

    originals, twins = coords.chunk(2)
    mapped = spline.transform(twins / ratio) * ratio
    inside = (mapped.abs() <= 1).all(-1) if in_frame else None
    expected = separation_loss(coords, bandwidth), equivariance_loss(originals, mapped, inside)
    found = pair_losses(coords, spline, ratio=ratio, bandwidth=bandwidth, in_frame=in_frame)
    torch.testing.assert_close(found[:2], expected)
    torch.testing.assert_close(found.mapped, mapped)
    assert not found.mapped.requires_grad
    for ours, theirs in zip(found[:2], expected, strict=True):
        (one,) = torch.autograd.grad(3 * ours, coords, retain_graph=True)
        (other,) = torch.autograd.grad(3 * theirs, coords, retain_graph=True)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_loss_that_is_not_used_leaves_no_gradient() -> None:
    """Nor its NaN."""
    coords = torch.rand(4, 3, 2, dtype=torch.bfloat16).requires_grad_()
    spline = ThinPlateSpline.random(2, generator=torch.Generator().manual_seed(1))
    found = pair_losses(coords, spline, ratio=1.0, bandwidth=1e-30, in_frame=False)
    assert found.separation.isnan() and found.separation.dtype == found.equivariance.dtype == torch.float32
    (gradient,) = torch.autograd.grad(found.equivariance, coords)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_equivariance_of_one_pixel_of_80() -> None:
    coords = torch.zeros(4, 1, 2)
    mapped = coords + torch.tensor([2 / 80, 0.0])
    assert PAPER.equivariance * equivariance_loss(coords, mapped).item() == pytest.approx(5.2, abs=0.01)


def test_equivariance_leaves_out_what_is_not_inside() -> None:
    coords, mapped = torch.zeros(2, 2, 2), torch.ones(2, 2, 2)
    inside = torch.tensor([[True, False], [False, False]])
    assert equivariance_loss(coords, mapped, inside).item() == pytest.approx(1.0)
    assert equivariance_loss(coords, mapped).item() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: concentration_loss([1.0]), "concentration_loss: sigma must be a torch.Tensor, got list"),
        (lambda: separation_loss(torch.zeros(1, 3, 2), "a"), "bandwidth must be a number, got str"),
        (
            lambda: pair_losses(POINTS, None, ratio=1.0, bandwidth=0.1, in_frame=True),
            "pair_losses: spline must be a ThinPlateSpline, got NoneType",
        ),
        (
            lambda: equivariance_loss(torch.zeros(1, 3, 2), None),
            "mapped must be a torch.Tensor, got NoneType",
        ),
    ],
)
def test_types(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_empty_batches_and_masks_are_errors() -> None:
    with pytest.raises(ValueError, match="N at least 1"):
        concentration_loss(torch.zeros(0, 3))
    points = torch.zeros(2, 3, 2)
    with pytest.raises(ValueError, match=r"inside must be \(2, 3\) bool, got \(3,\)"):
        equivariance_loss(points, points, torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: reconstruction_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)),
            r"reconstruction_loss: reconstruction must be \(N, C, H, W\) floating .*got \(1, 3, 4\) torch.float32",
        ),
        (
            lambda: reconstruction_loss(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4)),
            r"reconstruction_loss: image must be like reconstruction, \(1, 3, 4, 4\) .*got \(2, 3, 4, 4\)",
        ),
        (
            lambda: pair_losses(POINTS, SPLINE, ratio=1.0, bandwidth=0.1, in_frame=True),
            r"pair_losses: coords must be \(2N, K, 2\) with N = 3 as the spline has, got \(4, 3, 2\)",
        ),
        (
            lambda: pair_losses(POINTS[0], SPLINE, ratio=1.0, bandwidth=0.1, in_frame=True),
            r"pair_losses: coords must be \(2N, K, 2\) floating",
        ),
        (
            lambda: pair_losses(torch.zeros(6, 3, 2), LEARNED, ratio=1.0, bandwidth=0.1, in_frame=True),
            "pair_losses: spline must not require a gradient",
        ),
        (
            lambda: pair_losses(torch.zeros(6, 3, 2), SPLINE, ratio=0.0, bandwidth=0.1, in_frame=True),
            "pair_losses: ratio must be positive and finite, got 0.0",
        ),
        (
            lambda: pair_losses(torch.zeros(6, 3, 2), SPLINE, ratio=1.0, bandwidth=math.inf, in_frame=True),
            "pair_losses: bandwidth must be positive and finite, got inf",
        ),
        (
            lambda: concentration_loss(torch.zeros(3)),
            r"concentration_loss: sigma must be \(N, K\) floating .*got \(3,\)",
        ),
        (
            lambda: concentration_loss(torch.zeros(1, 3), "x"),
            "concentration_loss: form must be 'code' or 'paper', got 'x'",
        ),
        (
            lambda: separation_loss(torch.zeros(1, 3, 3), 0.1),
            r"separation_loss: coords must be \(N, K, 2\) floating",
        ),
        (
            lambda: separation_loss(torch.zeros(1, 3, 2, dtype=torch.int64), 0.1),
            r"separation_loss: coords must be \(N, K, 2\) floating .*got \(1, 3, 2\) torch.int64",
        ),
        (
            lambda: separation_loss(torch.zeros(1, 3, 2), 0.0),
            "separation_loss: bandwidth must be positive and finite, got 0.0",
        ),
        (
            lambda: equivariance_loss(torch.zeros(3, 2), torch.zeros(3, 2)),
            r"equivariance_loss: coords must be \(N, K, 2\)",
        ),
        (
            lambda: equivariance_loss(torch.zeros(1, 3, 2), torch.zeros(1, 2, 2)),
            r"equivariance_loss: mapped must be like coords, \(1, 3, 2\) .*got \(1, 2, 2\)",
        ),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
