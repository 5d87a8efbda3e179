"""batch_norm_leaky_relu with what an hourglass does next, against the same in steps of their own."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lmdis_fast.ops import batch_norm_leaky_relu, max_pool_2x2, upsample_add

from .. import strategies as draw
from ..tolerances import assert_near

pytestmark = pytest.mark.usefixtures("backend")

CHANNELS = st.sampled_from([1, 3, 8, 16, 24, 37])
HALVES = st.sampled_from([(1, 1), (1, 5), (4, 1), (3, 7), (16, 16), (33, 20)])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
LAYOUTS = st.sampled_from([torch.contiguous_format, torch.channels_last])


def maps(shape: tuple[int, ...], seed: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """Some of whose values are equal."""
    values = draw.uniform(shape, seed)
    return (values * 8).round().div(8).to(dtype).contiguous(memory_format=layout)


def parts(
    channels: int, halves: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, low."""
    height, width = halves
    return (
        maps((3, channels, 2 * height, 2 * width), seed, dtype, layout),
        draw.uniform((channels,), seed + 1).float() + 1.2,
        draw.uniform((channels,), seed + 2).float(),
        maps((3, channels, height, width), seed + 3, dtype, layout),
    )


@given(CHANNELS, HALVES, DTYPES, LAYOUTS, draw.seeds)
def test_forward(channels: int, halves: tuple[int, int], dtype: Any, layout: Any, seed: int) -> None:
    x, weight, bias, low = parts(channels, halves, dtype, layout, seed)
    plain = batch_norm_leaky_relu(x, weight, bias, slope=0.2)
    found = batch_norm_leaky_relu(x, weight, bias, slope=0.2, low=low, pool=True)
    summed = upsample_add(low, plain.out)
    assert found.pooled is not None and found.out.stride() == summed.stride()
    assert_near(found.out, summed.double(), summed)
    assert torch.equal(found.pooled, max_pool_2x2(found.out))
    assert found.pooled.stride() == max_pool_2x2(found.out).stride()
    for ours, theirs in zip(found[1:3], plain[1:3], strict=True):
        assert_near(ours, theirs.double())
    alone = batch_norm_leaky_relu(x, weight, bias, slope=0.2, pool=True)
    assert alone.pooled is not None and torch.equal(alone.pooled, max_pool_2x2(alone.out))


@given(
    CHANNELS, HALVES, DTYPES, LAYOUTS, st.sampled_from(["both", "out", "pooled"]), st.booleans(), draw.seeds
)
def test_backward(
    channels: int, halves: tuple[int, int], dtype: Any, layout: Any, used: str, need_x: bool, seed: int
) -> None:
    """The operator itself, with one result to find the maxima in."""
    x, weight, bias, low = parts(channels, halves, dtype, layout, seed)
    with torch.no_grad():
        out, pooled, mean, rstd, _ = torch.ops.lmdis_fast.batch_norm_leaky_relu(
            x, weight, bias, low, 1e-5, 0.2, True, False
        )
    grad = None if used == "pooled" else maps(tuple(x.shape), seed + 4, dtype, layout)
    of_pooled = None if used == "out" else maps(tuple(pooled.shape), seed + 5, dtype, layout)
    backward = torch.ops.lmdis_fast.batch_norm_leaky_relu_backward
    given_ = x, weight, bias, mean, rstd
    kept = None if of_pooled is None else out
    found = backward(grad, of_pooled, *given_, kept, 1e-5, 0.2, False, need_x, True)
    leaf = out.detach().requires_grad_()
    total = torch.zeros_like(out) if grad is None else grad
    if of_pooled is not None:
        total = total + torch.autograd.grad(max_pool_2x2(leaf), leaf, of_pooled)[0]
    expected = backward(total, None, *given_, None, 1e-5, 0.2, False, need_x, False)
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        assert ours.shape == theirs.shape and ours.stride() == theirs.stride()
        assert_near(ours, theirs.double(), theirs)
    leaf = low.detach().requires_grad_()
    assert torch.equal(found[3], torch.autograd.grad(upsample_add(leaf, out), leaf, total)[0])


@given(CHANNELS, HALVES, LAYOUTS, draw.seeds)
def test_gradients_are_those_of_the_steps(
    channels: int, halves: tuple[int, int], layout: Any, seed: int
) -> None:
    """In float64, where other sums of statistics change no maximum."""
    leaves = [t.double().requires_grad_() for t in parts(channels, halves, torch.float64, layout, seed)]

    def fused(x: Tensor, weight: Tensor, bias: Tensor, low: Tensor) -> tuple[Tensor, ...]:
        found = batch_norm_leaky_relu(x, weight, bias, slope=0.2, low=low, pool=True)
        assert found.pooled is not None
        return found.out, found.pooled

    def steps(x: Tensor, weight: Tensor, bias: Tensor, low: Tensor) -> tuple[Tensor, ...]:
        out = upsample_add(low, batch_norm_leaky_relu(x, weight, bias, slope=0.2).out)
        return out, max_pool_2x2(out)

    results = fused(*leaves), steps(*leaves)
    upstream = [draw.uniform(tuple(t.shape), seed + 7).double() for t in results[0]]
    found, expected = (torch.autograd.grad(r, leaves, upstream) for r in results)
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs)


@given(CHANNELS, HALVES, DTYPES, LAYOUTS, st.booleans(), draw.seeds)
def test_upsampled(
    channels: int, sides: tuple[int, int], dtype: Any, layout: Any, need_x: bool, seed: int
) -> None:
    """Each pixel four times, odd sides too, and the sum of their gradients."""
    x, weight, bias = (
        maps((3, channels, *sides), seed, dtype, layout),
        draw.uniform((channels,), seed + 1).float() + 1.2,
        draw.uniform((channels,), seed + 2).float(),
    )
    if x[:, 0].numel() < 2:
        return
    plain = batch_norm_leaky_relu(x, weight, bias, slope=0.2)
    forward, backward = (
        getattr(torch.ops.lmdis_fast, f"batch_norm_leaky_relu{name}") for name in ("", "_backward")
    )
    out, _, mean, rstd, variance = forward(x, weight, bias, None, 1e-5, 0.2, False, True)
    assert out.is_contiguous(memory_format=layout)
    for ours, theirs in ((mean, plain.mean), (variance, plain.variance)):
        assert_near(ours, theirs.double())
    doubled = plain.out.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_near(out, doubled.double(), doubled)
    grad = maps(tuple(out.shape), seed + 4, dtype, layout)
    windows = grad.double().unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    summed = windows.sum((3, 5)).to(dtype).contiguous(memory_format=layout)
    given_ = x, weight, bias, mean, rstd, None, 1e-5, 0.2
    found = backward(grad, None, *given_, True, need_x, False)
    expected = backward(summed, None, *given_, False, need_x, False)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.stride() == theirs.stride()
        assert_near(ours, theirs.double(), theirs)


def test_maxima_are_kept_for_the_gradient_only_where_they_were_asked_for() -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = draw.uniform((1, 2, 4, 6), 1).float().requires_grad_()
    for pool in (False, True):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = batch_norm_leaky_relu(x, torch.ones(2), torch.zeros(2), pool=pool).out
        assert any(tensor.data_ptr() == out.data_ptr() for tensor in saved) == pool


@pytest.mark.parametrize("options", [{"upsample": True}, {"pool": True}], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(0, 4, 4, 6), (2, 4, 4, 6), (2, 1, 4, 6)], ids=str)
def test_results_of_any_size_are_laid_out_as_the_fake_kernel_says(
    options: dict[str, bool], layout: torch.memory_format, shape: tuple[int, ...]
) -> None:
    x = torch.ones(shape).contiguous(memory_format=layout)
    norm = torch.ones(shape[1]), torch.zeros(shape[1])
    found = batch_norm_leaky_relu(x, *norm, **options)
    with FakeTensorMode() as mode:
        fake = batch_norm_leaky_relu(*(mode.from_tensor(t) for t in (x, *norm)), **options)
    for ours, theirs in zip(found, fake, strict=True):
        if ours is not None:
            assert (ours.shape, ours.stride()) == (theirs.shape, theirs.stride())
