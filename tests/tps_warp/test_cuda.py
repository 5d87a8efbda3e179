"""The CUDA kernels of tps_warp in the emulator, against the definition."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from lmdis_fast.reference import tps_warp as reference

from .. import strategies as draw
from ..agreement import Arrangement, arranged
from ..cases import UNIT, Case, Shape, cases_of
from ..gpu_emulation import emulated
from ..gpu_emulation import tps_warp as cuda
from ..gpu_emulation.backend import check_emulated, check_orders
from ..interpreted import arrangements
from ..tolerances import assert_gradient_near, assert_near

CASES = cases_of("tps_warp")
HALF = [torch.float32, torch.bfloat16, torch.float16]
ALL = (True, True, True)
PAIRS = list(itertools.product([False, True], repeat=2))


def spline_of(batch: int, points: int, shared: bool, before: bool, seed: int = 1) -> list[Tensor | None]:
    """Centres, weights, affine and before in float32."""
    centers = draw.uniform((points, 2) if shared else (batch, points, 2), seed)
    weights = draw.uniform((batch, points, 2), seed + 1, 0.3 / math.sqrt(points))
    maps = [UNIT + draw.uniform((batch, 2, 3), seed + 2 + i, 0.02) for i in (0, 1)]
    return [centers.float(), weights.float(), maps[0].float(), maps[1].float() if before else None]


def doubled(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """In float64."""
    return [None if t is None else t.double() for t in tensors]


def check(
    image: Tensor,
    spline: list[Tensor | None],
    size: tuple[int, int],
    padding: str = "border",
    align: bool = False,
    asked: tuple[bool, bool, bool] = ALL,
) -> tuple[Tensor, ...]:
    """Image and gradients near the definition's in float64; returns them."""
    kernels = cuda.tps_warp, cuda.tps_warp_backward
    definition = reference.tps_warp, reference.tps_warp_backward

    def results(ways: tuple[Any, Any], of: Tensor, tensors: list[Tensor | None]) -> list[Tensor]:
        forward, backward = ways
        out = forward(of, *tensors, size, padding, align)
        grad = draw.uniform(tuple(out.shape), 77).bfloat16().to(of.dtype)
        return [out, *backward(grad, of, *tensors, padding, align, *asked)]

    found = results(kernels, image, spline)
    want = results(definition, image.double(), doubled(spline))
    eager = results(definition, image, spline)
    assert_near(found[0], want[0], eager[0])
    for mine, exact, plain in zip(found[1:], want[1:], eager[1:], strict=True):
        if mine.dtype == torch.float64:  # sums are of floats
            mine, plain = mine.float(), plain.float()
        assert_gradient_near(mine, exact, plain, reach=max(size))
    return tuple(found)


@pytest.mark.parametrize("case", CASES, ids=str)
@given(arrangement=arrangements())
def test_agrees_with_the_definition(case: Case, arrangement: Arrangement) -> None:
    check_emulated(case, arrangement)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_order_of_threads_and_blocks(
    case: Case, layout: str, dtype: torch.dtype, deterministic: None
) -> None:
    check_orders(case, dtype, layout)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "at_the_end"])
def test_repeatable_gradient_agrees(layout: str, dtype: torch.dtype, deterministic: None) -> None:
    arrangement = Arrangement(Shape(2, 3, 5, 23, 24), (dtype, dtype), (layout,) * 3, ("normal",) * 2, 3)
    check_emulated(CASES[-1], arrangement)


@pytest.mark.parametrize("size", [(5, 4), (40, 33)])
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("channels", [4, 8, 16])
def test_channels_side_by_side(channels: int, dtype: torch.dtype, size: tuple[int, int]) -> None:
    image = draw.uniform((2, channels, 9, 12), 3).to(dtype)
    image = image.contiguous(memory_format=torch.channels_last)
    spline = spline_of(2, 4, False, False)
    (out, *_) = check(image, spline, size)
    assert out.is_contiguous(memory_format=torch.channels_last)
    other = arranged(image, "channels_last_sliced")  # one value at a time
    assert torch.equal(cuda.tps_warp(other, *spline, size, "border", False), out)


@pytest.mark.parametrize("points", [256, 257, 600])
@pytest.mark.parametrize(("shared", "before"), PAIRS)
def test_more_control_points_than_are_read_at_once(points: int, shared: bool, before: bool) -> None:
    spline = spline_of(2, points, shared, before)
    check(draw.uniform((2, 2, 6, 5), 4).float(), spline, (7, 5), "zeros", True)


@pytest.mark.parametrize("points", [1, 2, 7, 40, 90, 130])
def test_control_points_shared_out_among_threads(points: int) -> None:
    check(draw.uniform((2, 1, 24, 25), 4).float(), spline_of(2, points, False, False), (24, 25))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(("shared", "before"), PAIRS)
def test_spline_may_be_float64(shared: bool, before: bool, dtype: torch.dtype) -> None:
    spline = doubled(spline_of(2, 5, shared, before))
    _, _, *gradients = check(draw.uniform((2, 3, 19, 16), 4).to(dtype), spline, (18, 31))
    assert all(g.dtype == torch.float64 for g in gradients)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize(
    ("source", "size"), [((1, 1), (1, 1)), ((1, 9), (7, 1)), ((5, 4), (20, 3)), ((30, 21), (4, 21))]
)
def test_other_sizes(source: tuple[int, int], size: tuple[int, int], padding: str, align: bool) -> None:
    check(draw.uniform((2, 3, *source), 5).float(), spline_of(2, 3, True, True), size, padding, align)


def test_places_of_more_than_32_bits() -> None:
    image = draw.uniform((1, 1, 1, 80_000), 6).float()
    unit, nothing = torch.eye(2, 3)[None], torch.zeros(1, 1, 2)
    out = cuda.tps_warp(image, nothing, nothing, unit, None, (1, 39_999), "border", False)
    spline = doubled([nothing, nothing, unit, None])
    assert_near(out, reference.tps_warp(image.double(), *spline, (1, 39_999), "border", False))


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_identity_returns_the_image_bit_for_bit(dtype: torch.dtype, padding: str, align: bool) -> None:
    unit = torch.eye(2, 3).repeat(2, 1, 1)
    centers, weights = draw.uniform((2, 5, 2), 2).float(), torch.zeros(2, 5, 2)
    for channels, layout in ((3, "contiguous"), (3, "channels_last"), (8, "channels_last")):
        image = arranged(draw.uniform((2, channels, 18, 17), 1).to(dtype), layout)
        for before in (None, unit):
            out = cuda.tps_warp(image, centers, weights, unit, before, (18, 17), padding, align)
            assert torch.equal(out, image)


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_lost_positions_stay_in_bounds(padding: str) -> None:
    maps = torch.eye(2, 3).repeat(5, 1, 1)
    maps[:, 0, 2] = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -3e9])
    spline = [torch.zeros(1, 2), torch.zeros(5, 1, 2), maps, None]
    image = draw.uniform((5, 2, 5, 6), 1).float()
    out = cuda.tps_warp(image, *spline, (5, 6), padding, False)
    want = reference.tps_warp(image, *spline, (5, 6), padding, False)
    assert torch.equal(out.isnan(), want.isnan())
    assert torch.equal(out.nan_to_num(), want.nan_to_num())
    found = cuda.tps_warp_backward(out.nan_to_num(), image, *spline, padding, False, *ALL)
    assert found[0][3:].isfinite().all() and found[2][3:].isfinite().all()


@pytest.mark.parametrize("asked", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize(("shared", "before"), [(False, False), (True, True)])
def test_gradients_asked_for_one_at_a_time(
    asked: tuple[bool, bool, bool], shared: bool, before: bool, deterministic: None
) -> None:
    spline = spline_of(2, 3, shared, before)
    image, grad = draw.uniform((2, 3, 9, 8), 4).half(), draw.uniform((2, 3, 9, 8), 5).half()
    whole = cuda.tps_warp_backward(grad, image, *spline, "border", False, *ALL)
    part = cuda.tps_warp_backward(grad, image, *spline, "border", False, *asked)
    needed = (asked[0], asked[2], *[asked[1]] * 3)
    for mine, all_, is_needed in zip(part, whole, needed, strict=True):
        assert torch.equal(mine, all_ if is_needed else all_[:0].flatten())


def test_float_atomics_differ_by_rounding_alone() -> None:
    spline = spline_of(2, 3, False, False)
    image, grad = (draw.uniform((2, 3, 24, 25), s).float() for s in (4, 5))
    results = []
    for mode, seed in emulated.ORDERS:
        with emulated.order(mode, seed):
            results.append(cuda.tps_warp_backward(grad, image, *spline, "border", False, *ALL))
    want = reference.tps_warp_backward(grad.double(), image.double(), *doubled(spline), "border", False, *ALL)
    for found in results:
        assert_near(found[0], want[0])
        for one, other in zip(found[1:], results[0][1:], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1.0, 1e30])
def test_repeatable_gradient_of_any_magnitude(scale: float, deterministic: None) -> None:
    spline = spline_of(1, 3, False, False)
    image, grad = (draw.uniform((1, 2, 12, 25), s).float() for s in (4, 5))
    want = reference.tps_warp_backward(grad * scale, image, *spline, "border", False, True, False, False)[0]
    found = cuda.tps_warp_backward(grad * scale, image, *spline, "border", False, True, False, False)[0]
    torch.testing.assert_close(found, want, rtol=1e-5, atol=max(1e-6 * scale, 1e-44))
    nothing = cuda.tps_warp_backward(grad * 0, image, *spline, "border", False, True, False, False)[0]
    assert torch.equal(nothing, torch.zeros_like(image))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_repeatable_gradient_that_is_no_number(odd: float, deterministic: None) -> None:
    spline = spline_of(1, 3, False, False)
    image, grad = (draw.uniform((1, 2, 12, 25), s).float() for s in (4, 5))
    usual = cuda.tps_warp_backward(grad, image, *spline, "border", False, True, False, False)[0]
    grad[0, 1, 5, 7] = odd
    want = reference.tps_warp_backward(grad, image, *spline, "border", False, True, False, False)[0]
    found = cuda.tps_warp_backward(grad, image, *spline, "border", False, True, False, False)[0]
    assert torch.equal(found.isfinite(), want.isfinite()) and not want.isfinite().all()
    assert_near(found[want.isfinite()], usual[want.isfinite()].double())
