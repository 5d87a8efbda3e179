"""Steps between an hourglass's resolutions, max-pool and nearest doubling with a skip, against torch's layers."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lmdis_fast.ops import max_pool_2x2, upsample_add

from .ceilings import Work
from .harness import Case, Contender, Outputs, Problem
from .sizes import Sizes, laid_out, seeded

SHAPES = ((16, 80), (24, 40), (64, 20))
"""Channels and pixels of a side of the larger maps: what an hourglass has, from its finest level to a coarse one."""


def pool(x: Tensor) -> Outputs:
    """torch's max-pool."""
    return (F.max_pool2d(x, 2),)


def pool_operator(x: Tensor) -> Outputs:
    """This package's."""
    return (max_pool_2x2(x),)


def upsample(x: Tensor, skip: Tensor) -> Outputs:
    """torch's interpolation, and the skip added in place."""
    return (F.interpolate(x, scale_factor=2.0, mode="nearest").add_(skip),)


def upsample_operator(x: Tensor, skip: Tensor) -> Outputs:
    """This package's."""
    return (upsample_add(x, skip),)


def build_pool(batch: int, channels: int, size: int, dtype: torch.dtype, channels_last: bool) -> Problem:
    """Maps (batch, channels, size, size).

    The least work: forward reads them once and writes a quarter; backward reads maps and gradient and writes the
    maps' gradient. Comparisons are counted as multiply-adds, 3 a window.
    """
    x = torch.randn(batch, channels, size, size, generator=seeded()).to(dtype)
    x = laid_out(x, channels_last).requires_grad_()
    contenders = [
        Contender("lmdis_fast", "ours", pool_operator),
        Contender("max_pool2d", "eager", pool),
        Contender("compile: the same", "compile", pool),
    ]
    values = float(x.numel())
    forward = Work(bytes=1.25 * values * dtype.itemsize, madds=0.75 * values)
    backward = Work(bytes=2.25 * values * dtype.itemsize, madds=0.75 * values)
    return Problem((x,), contenders, pool_operator, forward, backward)


def build_upsample(batch: int, channels: int, size: int, dtype: torch.dtype, channels_last: bool) -> Problem:
    """Skip maps (batch, channels, size, size), and maps of half their sides.

    The least work: forward reads both and writes the sum; backward reads its gradient and writes a quarter.
    """
    generator = seeded()
    x = torch.randn(batch, channels, size // 2, size // 2, generator=generator).to(dtype)
    skip = torch.randn(batch, channels, size, size, generator=generator).to(dtype)
    inputs = tuple(laid_out(t, channels_last).requires_grad_() for t in (x, skip))
    contenders = [
        Contender("lmdis_fast", "ours", upsample_operator),
        Contender("interpolate, add_", "eager", upsample),
        Contender("compile: the same", "compile", upsample),
    ]
    values = float(skip.numel())
    forward = Work(bytes=2.25 * values * dtype.itemsize, madds=values)
    backward = Work(bytes=1.25 * values * dtype.itemsize, madds=values)
    return Problem(inputs, contenders, upsample_operator, forward, backward)


def cases(sizes: Sizes) -> Iterator[Case]:
    """All cases: channels_last, as convolutions leave it, and one contiguous."""
    for operator, build in (("max_pool_2x2", build_pool), ("upsample_add", build_upsample)):
        for channels, size in SHAPES:
            for dtype in sizes.dtypes:
                make = functools.partial(build, sizes.batch, channels, size, dtype, True)
                yield Case(operator, f"C={channels} {size}px", dtype, True, make)
        if sizes.extras:
            for dtype in sizes.dtypes:
                make = functools.partial(build, sizes.batch, *SHAPES[1], dtype, False)
                yield Case(operator, f"C={SHAPES[1][0]} {SHAPES[1][1]}px contiguous", dtype, False, make)
