"""Batch norm and leaky ReLU in training, and what an hourglass does next, against torch's layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Literal

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
Then = Literal["nothing", "low", "upsampled"]
"""What comes after the two layers. Maxima are not among them: a rounding decides which of two pixels is the larger, and
with it about a gradient. They are timed by themselves in resampling, and in the training step."""
NEXT: tuple[tuple[Then, tuple[int, int]], ...] = (("low", SHAPES[0]), ("upsampled", SHAPES[1]))
"""Cases of it."""


def layers(x: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
    """torch's batch norm, and its leaky ReLU in place."""
    return (F.leaky_relu_(F.batch_norm(x, None, None, weight, bias, True, 0.1, EPS), SLOPE),)


def operator(x: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
    """This package's."""
    return (batch_norm_leaky_relu(x, weight, bias, eps=EPS, slope=SLOPE).out,)


def layers_and_low(x: Tensor, weight: Tensor, bias: Tensor, low: Tensor) -> Outputs:
    """The same, added in place to the lower maps doubled."""
    return (F.interpolate(low, scale_factor=2.0, mode="nearest").add_(layers(x, weight, bias)[0]),)


def operator_with_low(x: Tensor, weight: Tensor, bias: Tensor, low: Tensor) -> Outputs:
    """This package's."""
    return (batch_norm_leaky_relu(x, weight, bias, eps=EPS, slope=SLOPE, low=low).out,)


def layers_upsampled(x: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
    """The same, doubled."""
    return (F.interpolate(layers(x, weight, bias)[0], scale_factor=2.0, mode="nearest"),)


def operator_upsampled(x: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
    """This package's."""
    return (batch_norm_leaky_relu(x, weight, bias, eps=EPS, slope=SLOPE, upsample=True).out,)


def away_from_the_kink(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x with values moved until none comes near 0 after the norm, where a rounding would decide about a gradient."""
    for _ in range(20):
        z = F.batch_norm(x.double(), None, None, weight.double(), bias.double(), True, 0.1, EPS)
        near = z.abs() < 1e-3
        if not near.any():
            return x
        x = torch.where(near, x + 0.1, x)
    raise AssertionError("values keep coming near the kink")


def build(
    batch: int, channels: int, size: int, dtype: torch.dtype, channels_last: bool, then: Then = "nothing"
) -> Problem:
    """Maps (batch, channels, size, size) and parameters, with "low" maps of half the side.

    The least work: forward reads the maps once and writes the result, 3 multiply-adds a value for the statistics and 4
    for the result; backward reads maps and gradient, writes the maps' gradient, 6 and 7. Lower maps are read and their
    gradient is written, an addition a value each way; the result upsampled and its gradient are four times as large.
    """
    generator = seeded()
    weight, bias = torch.rand(channels, generator=generator) + 0.5, torch.randn(channels, generator=generator)
    x = torch.randn(batch, channels, size, size, generator=generator).to(dtype)
    x = laid_out(away_from_the_kink(x, weight, bias), channels_last)
    inputs = [x, weight, bias]
    if then == "low":
        low = torch.randn(batch, channels, size // 2, size // 2, generator=generator).to(dtype)
        inputs.append(laid_out(low, channels_last))
    ours, theirs, name = FORMS[then]
    contenders = [
        Contender("lmdis_fast", "ours", ours),
        Contender(name, "eager", theirs),
        Contender("compile: the same", "compile", theirs),
    ]
    values = float(x.numel())
    low_values, result = values / 4 if then == "low" else 0.0, 4 * values if then == "upsampled" else values
    forward = Work(bytes=(values + result + low_values) * dtype.itemsize, madds=7 * values + 4 * low_values)
    backward = Work(
        bytes=(2 * values + result + low_values) * dtype.itemsize,
        madds=13 * values + 4 * low_values + (result - values),
    )
    return Problem(tuple(t.requires_grad_() for t in inputs), contenders, ours, forward, backward)


FORMS: dict[Then, tuple[Callable[..., Outputs], Callable[..., Outputs], str]] = {
    "nothing": (operator, layers, "batch_norm, leaky_relu_"),
    "low": (operator_with_low, layers_and_low, "batch_norm, leaky_relu_, interpolate, add_"),
    "upsampled": (operator_upsampled, layers_upsampled, "batch_norm, leaky_relu_, interpolate"),
}


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
            for then, (channels, size) in NEXT:
                make = functools.partial(build, sizes.batch, channels, size, dtype, True, then)
                yield Case("batch_norm_leaky_relu", f"C={channels} {size}px {then}", dtype, False, make)
