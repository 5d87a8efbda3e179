"""Batch norm and leaky ReLU in training, against torch's two layers."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lmdis_fast.ops import batch_norm_leaky_relu

from .ceilings import Work
from .harness import Case, Contender, Outputs, Problem
from .sizes import Sizes, laid_out, seeded

SHAPES = ((16, 80), (24, 40), (64, 20))
"""Channels and pixels of a side: what an hourglass has, from its finest level to a coarse one."""
EPS, SLOPE = 1e-3, 0.2


def layers(x: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
    """torch's batch norm, and its leaky ReLU in place."""
    return (F.leaky_relu_(F.batch_norm(x, None, None, weight, bias, True, 0.1, EPS), SLOPE),)


def operator(x: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
    """This package's."""
    return (batch_norm_leaky_relu(x, weight, bias, eps=EPS, slope=SLOPE).out,)


def away_from_the_kink(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x with values moved until none comes near 0 after the norm, where a rounding would decide about a gradient."""
    for _ in range(20):
        z = F.batch_norm(x.double(), None, None, weight.double(), bias.double(), True, 0.1, EPS)
        near = z.abs() < 1e-3
        if not near.any():
            return x
        x = torch.where(near, x + 0.1, x)
    raise AssertionError("values keep coming near the kink")


def build(batch: int, channels: int, size: int, dtype: torch.dtype, channels_last: bool) -> Problem:
    """Maps (batch, channels, size, size) and parameters.

    The least work: forward reads the maps once and writes the result, 3 multiply-adds a value for the statistics and 4
    for the result; backward reads maps and gradient, writes the maps' gradient, 6 and 7.
    """
    generator = seeded()
    weight, bias = torch.rand(channels, generator=generator) + 0.5, torch.randn(channels, generator=generator)
    x = torch.randn(batch, channels, size, size, generator=generator).to(dtype)
    x = laid_out(away_from_the_kink(x, weight, bias), channels_last)
    inputs = (x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_())
    contenders = [
        Contender("lmdis_fast", "ours", operator),
        Contender("batch_norm, leaky_relu_", "eager", layers),
        Contender("compile: the same", "compile", layers),
    ]
    values = float(x.numel())
    forward = Work(bytes=2 * values * dtype.itemsize, madds=7 * values)
    backward = Work(bytes=3 * values * dtype.itemsize, madds=13 * values)
    return Problem(inputs, contenders, operator, forward, backward)


def cases(sizes: Sizes) -> Iterator[Case]:
    """All cases: channels_last, as convolutions leave it, and one contiguous."""
    for channels, size in SHAPES:
        for dtype in sizes.dtypes:
            make = functools.partial(build, sizes.batch, channels, size, dtype, True)
            yield Case("batch_norm_leaky_relu", f"C={channels} {size}px", dtype, True, make)
    if sizes.extras:
        for dtype in sizes.dtypes:
            make = functools.partial(build, sizes.batch, *SHAPES[1], dtype, False)
            yield Case(
                "batch_norm_leaky_relu", f"C={SHAPES[1][0]} {SHAPES[1][1]}px contiguous", dtype, False, make
            )
