"""Rendering Gaussians and spreading features with them, against the same written with broadcasts and products."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lmdis_fast.models.config import DecoderConfig, model_preset
from lmdis_fast.ops import render_gaussians, splat_landmarks

from .ceilings import Work
from .harness import Case, Contender, Outputs, Problem
from .sizes import EXTRA_PIXELS, Sizes, centres, seeded

LARGEST = 1.2e9
"""Bytes: a batch whose output would be larger is halved."""
RENDERED = 0.1
"""Width of render_gaussians."""


@dataclass(frozen=True)
class Levels:
    """Widths and gains of the splatted levels, and the number S of spread features."""

    sigmas: tuple[float, ...]
    gains: tuple[float, ...]
    features: int


def levels_of(decoder: DecoderConfig) -> Levels:
    """As a preset's decoder has them, in the operators' unit of half a side."""
    gains = tuple(1 / (2 * math.pi * s**4 * decoder.gain_pixels) for s in decoder.sigmas)
    return Levels(tuple(2 * s for s in decoder.sigmas), gains, decoder.features)


def broadcast(coords: Tensor, features: Tensor, axis: Tensor, levels: Levels) -> Outputs:
    """One exponential for each pixel, landmark and width; einsum; everything joined."""
    distance = (axis - coords[..., 0, None, None]).square()
    distance = distance + (axis[:, None] - coords[..., 1, None, None]).square()
    floor = torch.ones_like(distance[:, :1])
    maps, spread = [], []
    for sigma, gain in zip(levels.sigmas, levels.gains, strict=True):
        g = torch.cat([gain * torch.exp(-distance / (2 * sigma**2)), floor], 1)
        shares = (g / g.sum(1, keepdim=True)).to(features.dtype)
        maps.append(shares)
        spread.append(torch.einsum("nkhw,nks->nshw", shares, features))
    return (torch.cat(maps + spread, 1),)


def separable(coords: Tensor, features: Tensor, axis: Tensor, precision: Tensor, gain: Tensor) -> Outputs:
    """Exponentials along each axis, their outer products, one batched product for all widths; everything joined.

    ``precision`` and ``gain`` are (L, 1, 1).
    """
    n, _, size = len(coords), coords.shape[1], len(axis)
    along_x, along_y = (
        torch.exp(-0.5 * precision * (axis - coords[:, None, :, i : i + 1]).square()) for i in (0, 1)
    )
    g = (gain * along_y)[..., :, None] * along_x[..., None, :]
    total = g.sum(2, keepdim=True) + 1
    shares = torch.cat([g / total, 1 / total], 2).flatten(3).to(features.dtype)
    spread = torch.matmul(features.transpose(1, 2)[:, None], shares)
    return (torch.cat([shares.flatten(1, 2), spread.flatten(1, 2)], 1).view(n, -1, size, size),)


def work(batch: int, channels: int, levels: Levels, size: int, width: int) -> tuple[Work, Work]:
    """Forward and backward for K+1 channels, L widths and S features, ``width`` bytes a value.

    Forward writes L (K+1+S) maps and evaluates L K (H + W) exponentials an image. A pixel of a level costs for each
    channel a product, an addition to the sum and a quotient (3), and K+1 times S multiply-adds to spread.
    Backward reads the gradient of all maps, and per pixel, level and channel renders again (3), takes the features'
    gradient and the gradient through the features (2 S), the normalisation's (3) and the sums along the axes (3).
    """
    count, features = float(batch * len(levels.sigmas) * size**2), levels.features
    written = count * (channels + features) * width
    exps = float(batch * len(levels.sigmas) * (channels - 1) * 2 * size)
    return (
        Work(bytes=written, exps=exps, madds=count * channels * (3 + features)),
        Work(bytes=written, exps=exps, madds=count * channels * (9 + 2 * features)),
    )


def build(batch: int, landmarks: int, size: int, levels: Levels, dtype: torch.dtype) -> Problem:
    """Coordinates (batch, landmarks, 2) in float32 and features (batch, landmarks + 1, S)."""
    generator = seeded()
    coords = (torch.rand(batch, landmarks, 2, generator=generator) * 1.8 - 0.9).requires_grad_()
    features = torch.randn(batch, landmarks + 1, levels.features, generator=generator)
    features = features.to(dtype).requires_grad_()
    axis = centres(size)
    by_broadcast = functools.partial(broadcast, axis=axis, levels=levels)
    by_axes = functools.partial(
        separable,
        axis=axis,
        precision=torch.tensor([1 / s**2 for s in levels.sigmas])[:, None, None],
        gain=torch.tensor(levels.gains)[:, None, None],
    )

    def operator(coords: Tensor, features: Tensor) -> Outputs:
        return (splat_landmarks(coords, features, (size, size), sigma=levels.sigmas, gain=levels.gains),)

    contenders = [
        Contender("lmdis_fast", "ours", operator),
        Contender("broadcast, einsum", "plain", by_broadcast),
        Contender("separable, bmm", "eager", by_axes),
        Contender("compile: broadcast", "compile", by_broadcast),
        Contender("compile: separable", "compile", by_axes),
    ]
    forward, backward = work(batch, landmarks + 1, levels, size, dtype.itemsize)
    return Problem((coords, features), contenders, operator, forward, backward)


def outer(coords: Tensor, axis: Tensor) -> Outputs:
    """Maps of peak 1 as products of exponentials along the axes."""
    along_x, along_y = (
        torch.exp(-(axis - coords[..., i : i + 1]).square() / (2 * RENDERED**2)) for i in (0, 1)
    )
    return (along_y[..., :, None] * along_x[..., None, :],)


def build_rendered(batch: int, landmarks: int, size: int, sums: bool) -> Problem:
    """Coordinates (batch, landmarks, 2) to maps of peak 1 or, as kornia's, of sum 1.

    The least work: K (H + W) exponentials an image; a product for each value, and with sums the axis weights'; the
    maps are written. Backward reads their gradient and has two multiply-adds for each value, its sums along the axes.
    """
    coords = (torch.rand(batch, landmarks, 2, generator=seeded()) * 1.8 - 0.9).requires_grad_()

    def operator(coords: Tensor) -> Outputs:
        normalize: Literal["sum", "peak"] = "sum" if sums else "peak"
        maps = render_gaussians(
            coords,
            (size, size),
            sigma=RENDERED,
            normalize=normalize,
            align_corners=sums,  # kornia's frame has the outer pixels' centres at -1 and 1
        )
        return (maps.squeeze(1),)

    contenders = [Contender("lmdis_fast", "ours", operator)]
    if not sums:
        by_axes = functools.partial(outer, axis=centres(size))
        contenders.append(Contender("outer product", "eager", by_axes))
        contenders.append(Contender("compile: outer product", "compile", by_axes))
    elif importlib.util.find_spec("kornia"):
        from kornia.geometry.subpix import render_gaussian2d

        std = torch.full((2,), RENDERED * size / (size - 1))
        contenders.append(
            Contender("kornia", "kornia", lambda c: (render_gaussian2d(c, std.to(c.dtype), (size, size)),))
        )
    values, exps = float(batch * landmarks * size**2), float(batch * landmarks * 2 * size)
    forward = Work(bytes=4 * values, exps=exps, madds=values)
    backward = Work(bytes=4 * values, exps=exps, madds=2 * values)
    return Problem((coords,), contenders, operator, forward, backward)


def fitting_batch(batch: int, landmarks: int, size: int, levels: Levels, dtype: torch.dtype) -> int:
    """The batch, halved until the output is small enough."""
    values = len(levels.sigmas) * (landmarks + 1 + levels.features) * size**2
    while batch * values * dtype.itemsize > LARGEST:
        batch //= 2
    return batch


def cases(sizes: Sizes) -> Iterator[Case]:
    """All cases: the levels of small-64 at all sizes; beside them both presets as they are."""
    name = "splat_landmarks"
    small, paper = model_preset("small-64").decoder, model_preset("paper-80").decoder
    sets = [(k, p, levels_of(small), d, "", True) for k, p, d in sizes.grid()]
    if sizes.extras:
        for dtype in sizes.dtypes:
            sets.append((10, small.resolution, levels_of(small), dtype, " small-64", False))
            sets.append((10, paper.resolution, levels_of(paper), dtype, " paper-80", False))
    for landmarks, pixels, levels, dtype, suffix, main in sets:
        batch = fitting_batch(sizes.batch, landmarks, pixels, levels, dtype)
        smaller = "" if batch == sizes.batch else f" N={batch}"
        arguments = (batch, landmarks, pixels, levels, dtype)
        title = f"K={landmarks} {pixels}px{suffix}{smaller}"
        yield Case(name, title, dtype, main, functools.partial(build, *arguments))
    if sizes.extras:
        for landmarks in sizes.landmarks:
            for sums in (False, True):
                title = f"K={landmarks} {EXTRA_PIXELS}px {'sum' if sums else 'peak'}"
                rendered = (sizes.batch, landmarks, EXTRA_PIXELS, sums)
                yield Case(
                    "render_gaussians",
                    title,
                    torch.float32,
                    False,
                    functools.partial(build_rendered, *rendered),
                )
