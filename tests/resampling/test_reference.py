"""max_pool_2x2 and upsample_add against NumPy loops and torch's own layers, bit by bit where nothing is rounded."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmdis_fast.ops import max_pool_2x2, upsample_add

from .. import strategies as draw
from ..tolerances import assert_near
from . import formula

pytestmark = pytest.mark.usefixtures("backend")

CHANNELS = st.sampled_from([1, 3, 8, 16, 24, 35])
POOLED = st.sampled_from([(2, 2), (2, 9), (7, 2), (5, 4), (33, 18), (16, 67)])
#: Of the dtypes' own values: few of them, so that windows have ties.
ODD = [0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, math.nan]


def odd_values(shape: tuple[int, ...], seed: int) -> Tensor:
    """Infinities, NaN and ties among ordinary numbers."""
    usual = draw.uniform(shape, seed).bfloat16().double()
    kinds = torch.randint(0, len(ODD) + 2, shape, generator=torch.Generator().manual_seed(seed))
    for i, value in enumerate(ODD):
        usual[kinds == i] = value
    return usual


def gradients(call: Callable[..., Tensor], upstream: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The result and the gradients by all tensors."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = call(*leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out.dtype)))


def assert_same(found: Tensor, expected: Tensor) -> None:
    """The same numbers, NaN included."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, check_stride=False)


@given(CHANNELS, POOLED, draw.layouts, draw.dtypes, st.booleans(), draw.seeds)
def test_max_pool_values_and_gradient(
    channels: int, size: tuple[int, int], layout: str, dtype: torch.dtype, odd: bool, seed: int
) -> None:
    shape = (2, channels, *size)
    values = odd_values(shape, seed) if odd else draw.uniform(shape, seed)
    x = draw.in_layout(values.to(dtype), layout)
    upstream = draw.uniform((2, channels, size[0] // 2, size[1] // 2), seed + 1).bfloat16()
    out, taken = formula.max_pool_2x2(x.double().numpy())
    spread = upstream.to(dtype).double().repeat_interleave(2, 2).repeat_interleave(2, 3)
    spread = F.pad(spread, (0, size[1] % 2, 0, size[0] % 2))
    found, grad_x = gradients(max_pool_2x2, upstream, x)
    assert found.dtype == grad_x.dtype == dtype
    assert_same(found.double(), torch.from_numpy(out))
    assert_same(grad_x.double(), spread * torch.from_numpy(taken))


@given(CHANNELS, POOLED, draw.layouts, draw.dtypes, draw.seeds)
def test_max_pool_is_torch_s_layer(
    channels: int, size: tuple[int, int], layout: str, dtype: torch.dtype, seed: int
) -> None:
    x = draw.in_layout(odd_values((2, channels, *size), seed).to(dtype), layout)
    upstream = draw.uniform((2, channels, size[0] // 2, size[1] // 2), seed + 1).bfloat16()
    found = gradients(max_pool_2x2, upstream, x)
    expected = gradients(lambda t: F.max_pool2d(t, 2), upstream, x.contiguous())
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


@given(CHANNELS, draw.sizes, draw.layouts, draw.layouts, draw.dtypes, st.booleans(), draw.seeds)
def test_upsample_add_values_and_gradients(
    channels: int,
    size: tuple[int, int],
    layout: str,
    of_skip: str,
    dtype: torch.dtype,
    odd: bool,
    seed: int,
) -> None:
    make = odd_values if odd else draw.uniform
    shape, larger = (2, channels, *size), (2, channels, 2 * size[0], 2 * size[1])
    x = draw.in_layout(make(shape, seed).to(dtype), layout)
    skip = draw.in_layout(make(larger, seed + 1).to(dtype), of_skip)
    upstream = draw.uniform(larger, seed + 2).bfloat16()
    out, grad_x, grad_skip = gradients(upsample_add, upstream, x, skip)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exact = torch.from_numpy(formula.upsample_add(x.to(wide).numpy(), skip.to(wide).numpy()))
    assert_same(out, exact.to(dtype))
    assert_same(grad_skip, upstream.to(dtype))
    sums = upstream.double().unfold(2, 2, 2).unfold(3, 2, 2).sum((-2, -1))
    assert grad_x.dtype == dtype
    assert_near(grad_x, sums)


@pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_upsample_add_is_torch_s_two_layers(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = draw.uniform((3, 12, 5, 9), 1).to(dtype).contiguous(memory_format=layout)
    skip = draw.uniform((3, 12, 10, 18), 2).to(dtype).contiguous(memory_format=layout)
    found = upsample_add(x, skip)
    assert torch.equal(found, F.interpolate(x, scale_factor=2.0, mode="nearest") + skip)
    assert found.stride() == skip.stride()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_results_are_laid_out_like_the_maps(layout: torch.memory_format) -> None:
    x = draw.uniform((2, 5, 6, 7), 1).float().contiguous(memory_format=layout).requires_grad_()
    out = max_pool_2x2(x)
    assert out.is_contiguous(memory_format=layout)
    (grad_x,) = torch.autograd.grad(out, x, torch.ones(out.shape))
    assert grad_x.is_contiguous(memory_format=layout)
    skip = draw.uniform((2, 5, 12, 14), 2).float().contiguous(memory_format=layout)
    assert upsample_add(x.detach().contiguous(), skip).is_contiguous(memory_format=layout)


def test_the_gradient_of_skip_is_the_tensor_given() -> None:
    x, skip = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 6, 8, requires_grad=True)
    upstream = torch.ones(1, 2, 6, 8)
    (found,) = torch.autograd.grad(upsample_add(x, skip), skip, upstream)
    assert found.data_ptr() == upstream.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [4, 8, 12, 16, 24, 32, 48])
def test_large_sums_are_the_same_numbers(channels: int, dtype: torch.dtype) -> None:
    """Results of channels_last maps from 2 MB on are written past the caches where their lines are whole."""
    side = 2 * math.ceil((1.2e6 / (channels * dtype.itemsize)) ** 0.5 / 2)
    generator = torch.Generator().manual_seed(channels)
    x, skip = (
        torch.randn(2, channels, s, s, generator=generator)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
        for s in (side // 2, side)
    )
    assert skip.numel() * dtype.itemsize > 2 << 20
    wide = dtype if dtype == torch.float64 else torch.float32
    doubled = x.to(wide).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_same(upsample_add(x, skip), (doubled + skip.to(wide)).to(dtype))
