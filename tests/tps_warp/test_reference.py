"""Splines and warps against NumPy loops, scipy, grid_sample and known answers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from lmdis_fast.ops import ThinPlateSpline, similarity, tps_warp
from lmdis_fast.reference import tps_warp as reference

from .. import strategies as draw
from ..cases import UNIT
from ..finite_differences import assert_directional_derivative, weighted, weights_like
from ..tolerances import assert_near
from . import formula

pytestmark = pytest.mark.usefixtures("backend")

PADDING = st.sampled_from(["border", "zeros"])
SMALL = st.sampled_from([(1, 1), (1, 7), (5, 4), (9, 6)])


def spline_of(batch: int, shared: bool, before: bool, seed: int, reach: float = 0.1) -> list[Tensor]:
    maps = UNIT + draw.uniform((batch, 2, 3), seed, reach)
    points = draw.uniform((4, 2) if shared else (batch, 4, 2), seed + 1)
    tensors = [points, draw.uniform((batch, 4, 2), seed + 2, reach), maps]
    return [*tensors, UNIT + draw.uniform((batch, 2, 3), seed + 3, reach)] if before else tensors


@given(
    draw.batches, SMALL, SMALL, draw.layouts, PADDING, st.booleans(), st.booleans(), st.booleans(), draw.seeds
)
def test_warp(
    batch: int,
    source: tuple[int, int],
    size: tuple[int, int],
    layout: str,
    padding: str,
    align: bool,
    shared: bool,
    before: bool,
    seed: int,
) -> None:
    image = draw.in_layout(draw.uniform((batch, 2, *source), seed), layout)
    tensors = spline_of(batch, shared, before, seed, 0.4)
    found = tps_warp(image, ThinPlateSpline(*tensors), size, padding_mode=padding, align_corners=align)
    arrays = [t.numpy() for t in tensors] + ([] if before else [None])
    expected = formula.tps_warp(image.numpy(), *arrays, size, padding, align)
    if padding == "border":
        assert_near(found, torch.from_numpy(expected))
    elif found.numel():  # a position within rounding of the image's edge may fall on either side of it
        assert ((found - torch.from_numpy(expected)).abs() > 1e-9).double().mean() < 0.05


@given(PADDING, st.booleans(), st.booleans(), st.booleans(), draw.seeds)
def test_gradient(padding: str, align: bool, shared: bool, before: bool, seed: int) -> None:
    leaves = [draw.uniform((2, 2, 4, 5), seed), *spline_of(2, shared, before, seed)]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def call(*tensors: Tensor) -> Tensor:
        return tps_warp(
            tensors[0], ThinPlateSpline(*tensors[1:]), (3, 4), padding_mode=padding, align_corners=align
        )

    def scalar(*arrays: np.ndarray) -> float:
        given_before = list(arrays) + ([] if before else [None])
        result = formula.tps_warp(*given_before, (3, 4), padding, align)
        return float((result * weights_like(result)).sum())

    gradients = torch.autograd.grad(weighted((call(*leaves),)), leaves)
    assert_directional_derivative(scalar, leaves, list(gradients), seed)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 17), (96, 80), (61, 128)])
@pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)
def test_identity_returns_the_image_bit_for_bit(
    size: tuple[int, int], padding: str, align: bool, dtype: torch.dtype
) -> None:
    image = draw.uniform((2, 3, *size), 1).to(dtype)
    unit = torch.eye(2, 3).repeat(2, 1, 1)
    grid = ThinPlateSpline.from_displacements(torch.zeros(2, 49, 2))
    own = ThinPlateSpline(draw.uniform((2, 5, 2), 2).float(), torch.zeros(2, 5, 2), unit, unit)
    for spline in (ThinPlateSpline.identity(2), ThinPlateSpline.identity(1), grid, own):
        assert torch.equal(tps_warp(image, spline, padding_mode=padding, align_corners=align), image)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(("mode"), ["border", "zeros"])
def test_grid_is_what_grid_sample_takes(align: bool, mode: str) -> None:
    image = draw.uniform((3, 2, 9, 12), 1)
    spline = ThinPlateSpline.random(
        3, std=0.15, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    grid = spline.grid((7, 11), align)
    expected = torch.nn.functional.grid_sample(image, grid, padding_mode=mode, align_corners=align)
    assert_near(tps_warp(image, spline, (7, 11), padding_mode=mode, align_corners=align), expected)


def test_landmarks_move_as_the_image_does() -> None:
    """g evaluated on points is the g that the sampler uses."""
    spline = ThinPlateSpline.random(2, generator=torch.Generator().manual_seed(1))
    spline = spline.compose_affine(before=similarity(0.3, 1.2, torch.tensor([[0.1, 0.2], [-0.3, 0.0]])))
    points = reference.lattice((24, 40), False, torch.float32, torch.device("cpu")).t()
    assert (spline.transform(points) - spline.grid((24, 40)).flatten(1, 2)).abs().max() < 1e-5


def test_channels_last_stays() -> None:
    image = draw.uniform((2, 3, 8, 9), 1).float().contiguous(memory_format=torch.channels_last)
    out = tps_warp(image, ThinPlateSpline.random(2), (5, 6))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_lost_positions_stay_in_bounds() -> None:
    unit = torch.eye(2, 3).repeat(4, 1, 1)
    unit[:, 0, 2] = torch.tensor([math.nan, math.inf, -math.inf, 1e30])
    spline = ThinPlateSpline(torch.zeros(1, 2), torch.zeros(4, 1, 2), unit)
    image = torch.ones(4, 1, 5, 5, requires_grad=True)
    out = tps_warp(image, spline)
    assert out[0].isnan().all()
    assert torch.equal(out[3], torch.ones(1, 5, 5))
    out.sum().backward()


# Splines


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [False, True])
def test_passes_through_its_control_points(dtype: torch.dtype, shared: bool) -> None:
    grid = reference.lattice((5, 6), False, dtype, torch.device("cpu")).t()
    source = grid if shared else grid + draw.uniform((4, 30, 2), 1, 0.08).to(dtype)
    target = source + draw.uniform((4, 30, 2), 2, 0.2).to(dtype)
    spline = ThinPlateSpline.fit(source, target)
    assert spline.transform(source).dtype == spline.grid((3, 3)).dtype == dtype
    assert tps_warp(torch.zeros(4, 1, 3, 3, dtype=dtype), spline).dtype == dtype
    assert (spline.transform(source) - target).abs().max() < (1e-6 if dtype == torch.float32 else 1e-12)


def test_near_control_points_are_met_as_well() -> None:
    source = draw.uniform((4, 49, 2), 5).float()
    target = source + draw.uniform((4, 49, 2), 6, 0.2).float()
    spline = ThinPlateSpline.fit(source, target)
    assert spline.weights.abs().max() > 50
    assert (spline.transform(source) - target).abs().max() < 1e-6


def test_random_spline_passes_through_its_displaced_cell_centres() -> None:
    moves = torch.randn(8, 49, 2, generator=torch.Generator().manual_seed(3)) * 0.1
    spline = ThinPlateSpline.from_displacements(moves)
    assert (spline.transform(spline.centers) - spline.centers - moves).abs().max() < 3e-6
    fitted = ThinPlateSpline.fit(spline.centers, spline.centers + moves)
    assert_near(spline.grid((9, 9)), fitted.grid((9, 9)).double(), scale=5)


@pytest.mark.parametrize("alpha", [0.0, 1e-3, 0.1, 2.0])
def test_agrees_with_scipy(alpha: float) -> None:
    source, target = draw.uniform((12, 2), 1), draw.uniform((2, 12, 2), 2)
    points = draw.uniform((50, 2), 3, 1.2)
    found = ThinPlateSpline.fit(source, target, alpha).transform(points)
    for n in range(2):
        peer = RBFInterpolator(source.numpy(), target[n].numpy(), kernel="thin_plate_spline", smoothing=alpha)
        assert_near(found[n], torch.from_numpy(peer(points.numpy())), scale=100)


def test_fit_is_differentiable_in_source_and_target() -> None:
    source, target = draw.uniform((2, 6, 2), 5), draw.uniform((2, 6, 2), 6)
    points = draw.uniform((3, 2), 7)
    assert torch.autograd.gradcheck(
        lambda s, t: ThinPlateSpline.fit(s, t, 0.05).transform(points),
        (source.requires_grad_(), target.requires_grad_()),
    )


@pytest.mark.parametrize("affine", ["before", "after"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_by_points_in_closed_form(affine: str, dtype: torch.dtype) -> None:
    """Shared points, points on a control point, and points of each image's own."""
    spline = ThinPlateSpline.random(3, kernel_gain=0.5, dtype=dtype)
    spline = spline.compose_affine(**{affine: torch.eye(2, 3).repeat(3, 1, 1) + 0.1 * torch.randn(3, 2, 3)})
    points = torch.cat([2 * torch.rand(3, 5, 2) - 1, spline.centers[:2].float().expand(3, -1, -1)], 1)
    for given_ in (points, points[0]):
        leaf = given_.to(dtype).expand(3, -1, -1).clone().requires_grad_()
        upstream = torch.randn(3, 7, 2, dtype=dtype)
        expected = spline.transform(leaf)
        found, pull_back = spline.transform_vjp(given_.to(dtype))
        (gradient,) = torch.autograd.grad(expected, leaf, upstream)
        assert torch.equal(found, expected) and found.dtype == pull_back(upstream).dtype == dtype
        assert_near(pull_back(upstream), gradient.double())


def test_transform_is_differentiable_at_a_control_point() -> None:
    spline = ThinPlateSpline(*spline_of(1, True, False, 1))
    points = spline.centers.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(spline.transform(points).sum(), points)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("again", [False, True])
def test_composition_with_affine_maps(again: bool) -> None:
    spline = ThinPlateSpline.random(
        3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, kernel_gain=0.5
    )
    first = similarity(draw.uniform((3,), 1), 1.2, draw.uniform((3, 2), 2))
    last = similarity(0.4, draw.uniform((3,), 3) + 1.5, draw.uniform((3, 2), 4))
    points = draw.uniform((3, 5, 2), 5)

    def apply(maps: Tensor, p: Tensor) -> Tensor:
        return torch.einsum("nij,nmj->nmi", maps[..., :2], p) + maps[:, None, :, 2]

    expected = apply(last, spline.transform(apply(first, points)))
    composed = spline.compose_affine(before=first, after=last)
    if again:
        composed = composed.compose_affine(before=last, after=first)
        expected = apply(first, apply(last, spline.transform(apply(first, apply(last, points)))))
    assert_near(composed.transform(points), expected)
    shared = spline.compose_affine(before=first[0], after=last[0])
    assert_near(
        shared.transform(points)[0],
        apply(last[:1], spline.transform(apply(first[:1].expand(3, -1, -1), points))[:1])[0],
    )
    rows = points.transpose(1, 2)
    moved = [
        formula.spline_at(
            float(x),
            float(y),
            composed.centers.numpy(),
            0.5 * composed.weights[0].numpy(),
            composed.affine[0].numpy(),
            composed.before[0].numpy(),
        )
        for x, y in rows[0].T
    ]  # type: ignore[index]
    assert_near(composed.transform(points)[0], torch.tensor(moved, dtype=torch.float64))


def test_similarity_is_rigid_in_pixels_of_its_aspect() -> None:
    maps = similarity(0.5, 2.0, torch.zeros(1, 2, dtype=torch.float64), aspect=2.0)[0, :, :2]
    to_pixels = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    turned = to_pixels @ maps @ torch.linalg.inv(to_pixels)
    expected = torch.tensor(
        [[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]], dtype=torch.float64
    )
    assert_near(turned, 2 * expected)


def test_random_is_a_pure_function_of_its_generator() -> None:
    def make() -> ThinPlateSpline:
        return ThinPlateSpline.random(4, generator=torch.Generator().manual_seed(7))

    first = make()
    torch.manual_seed(1)
    assert torch.equal(first.weights, make().weights)
    before = torch.get_rng_state()
    make()
    assert torch.equal(before, torch.get_rng_state())
    rms = (
        (ThinPlateSpline.random(200, std=0.1).transform(first.centers) - first.centers).square().mean().sqrt()
    )
    assert abs(rms.item() - 0.1) < 0.005


def test_half_gain_misses_its_control_points_as_published() -> None:
    moves = torch.randn(200, 49, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 0.1
    spline = ThinPlateSpline.from_displacements(moves, kernel_gain=0.5)
    points = spline.centers
    miss = (spline.transform(points) - points - moves).square().mean().sqrt().item()
    move = (
        (spline.grid((96, 96)) - ThinPlateSpline.identity(1, dtype=torch.float64).grid((96, 96)))
        .square()
        .mean()
        .sqrt()
    )
    assert 0.08 < miss < 0.16
    assert abs(move.item() - 0.117) < 0.01


def test_cached_basis_notices_points_changed_in_place() -> None:
    centers, weights, affine = (t.float() for t in spline_of(2, True, False, 1))
    image = torch.rand(2, 1, 6, 6)
    tps_warp(image, ThinPlateSpline(centers, weights, affine))
    centers.add_(0.25)
    found = tps_warp(image, ThinPlateSpline(centers, weights, affine))
    assert torch.equal(found, tps_warp(image, ThinPlateSpline(centers.clone(), weights, affine)))


def test_inference_mode_leaves_nothing_behind() -> None:
    with torch.inference_mode():
        ThinPlateSpline.random(2, grid=3).grid((4, 4))
        tps_warp(torch.rand(2, 1, 4, 4), ThinPlateSpline.random(2, grid=3))
    moves = torch.zeros(2, 9, 2, requires_grad=True)
    tps_warp(torch.rand(2, 1, 4, 4), ThinPlateSpline.from_displacements(moves, 3)).sum().backward()
    assert moves.grad is not None
