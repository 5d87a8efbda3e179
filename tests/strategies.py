"""What hypothesis draws: sizes, memory layouts, dtypes and awkward values."""

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

SIZES = [(1, 1), (1, 7), (6, 1), (5, 4), (33, 17), (16, 16)]
LAYOUTS = ["contiguous", "channels_last", "sliced", "expanded", "channels_outermost", "transposed"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
VALUES = ["normal", "ties", "large", "equal", "masked"]

sizes = st.sampled_from(SIZES)
layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from(DTYPES)
values = st.sampled_from(VALUES)
batches = st.sampled_from([0, 1, 2])
seeds = st.integers(0, 2**31 - 1)


def in_layout(dense: Tensor, layout: str) -> Tensor:
    """The same (N, C, H, W) values in another layout; ``expanded`` repeats the first sample."""
    if layout == "channels_last":
        return dense.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = dense.new_full((*dense.shape[:2], dense.shape[2] + 2, 2 * dense.shape[3] + 1), math.nan)
        view = wide[:, :, 1:-1, 1::2]
        return view.copy_(dense)
    if layout == "expanded" and len(dense):
        return dense[:1].expand_as(dense)
    if layout == "channels_outermost":
        return dense.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "transposed":
        return dense.transpose(2, 3).contiguous().transpose(2, 3)
    return dense.contiguous()


def logits_of(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """float64 logits: normal, with ties, up to 1e4, all equal, or with a channel, a column and a pixel masked."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    if kind == "ties":
        return z.round()
    if kind == "large":
        return z * 5e3
    if kind == "equal":
        return torch.full_like(z, 3.0)
    if kind == "masked":
        z[:, 0, :, -1] = -math.inf
        z[:, :, 0, 0] = -math.inf
        z[:, -1] = -math.inf
    return z


@st.composite
def logits(draw: st.DrawFn, channels: int = 4, kinds: list[str] = VALUES) -> Tensor:
    """(N, channels, H, W) float64 logits in some layout."""
    height, width = draw(sizes)
    shape = (draw(batches), channels, height, width)
    return in_layout(logits_of(draw(st.sampled_from(kinds)), shape, draw(seeds)), draw(layouts))


def uniform(shape: tuple[int, ...], seed: int, reach: float = 1.0) -> Tensor:
    """float64 numbers in [-reach, reach]."""
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    ) * reach
