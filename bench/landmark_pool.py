"""Feature pooling under softmax maps and under Gaussians, against maps in memory and a batched product."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from lmdis_fast.ops import gaussian_pool, landmark_pool

from .ceilings import Work
from .harness import Case, Contender, Outputs, Problem
from .sizes import EXTRA_PIXELS, Sizes, centres, laid_out, seeded

CHANNELS = (16, 64)
"""Pooled channels S: of the presets small-64, and of paper-80."""
WIDTH = 0.2
"""Of gaussian_pool."""


def softmax_bmm(features: Tensor, logits: Tensor) -> Outputs:
    """Softmax in float32, batched product in the features' dtype, division by the mass."""
    q = torch.softmax(logits, 1, dtype=torch.float32).flatten(2)
    pooled = torch.bmm(q.to(features.dtype), features.flatten(2).transpose(1, 2))
    return (pooled / (q.sum(-1, keepdim=True) + 1e-6).to(features.dtype),)


def operator(features: Tensor, logits: Tensor) -> Outputs:
    """This package's."""
    return (landmark_pool(features, logits),)


def work(batch: int, channels: int, pooled: int, pixels: int, width: int) -> tuple[Work, Work]:
    """Forward and backward for C maps and S features, ``width`` bytes a value.

    Forward reads features and logits once; one exponential for each logit with 5 operations of a softmax and its mass;
    a multiply-add for each pixel, map and feature.
    Backward reads both again, writes both gradients, computes the softmax again, and has two such products: the
    gradient of the features, and that by the maps, followed by the softmax' own (4).
    """
    maps, features = float(batch * channels * pixels), float(batch * pooled * pixels)
    read = (maps + features) * width
    return (
        Work(bytes=read, exps=maps, madds=5 * maps + maps * pooled),
        Work(bytes=2 * read, exps=maps, madds=9 * maps + 2 * maps * pooled),
    )


def build(
    batch: int, landmarks: int, pooled: int, size: int, dtype: torch.dtype, channels_last: bool
) -> Problem:
    """Features (batch, pooled, size, size) and logits (batch, landmarks + 1, size, size)."""
    generator = seeded()
    inputs = tuple(
        laid_out(torch.randn(batch, channels, size, size, generator=generator), channels_last)
        .to(dtype)
        .requires_grad_()
        for channels in (pooled, landmarks + 1)
    )
    contenders = [
        Contender("lmdis_fast", "ours", operator),
        Contender("softmax, bmm", "eager", softmax_bmm),
        Contender("compile: softmax, bmm", "compile", softmax_bmm),
    ]
    forward, backward = work(batch, landmarks + 1, pooled, size * size, dtype.itemsize)
    return Problem(inputs, contenders, operator, forward, backward)


def rendered_bmm(features: Tensor, coords: Tensor, axis: Tensor) -> Outputs:
    """Gaussian maps of sum one from their axis weights, then a batched product."""
    weight_x, weight_y = (
        torch.softmax(-((axis - coords[..., i : i + 1]).square()) / (2 * WIDTH**2), -1) for i in (0, 1)
    )
    maps = (weight_y[..., :, None] * weight_x[..., None, :]).flatten(2)
    return (torch.bmm(maps.to(features.dtype), features.flatten(2).transpose(1, 2)),)


def gaussian_operator(features: Tensor, coords: Tensor) -> Outputs:
    """This package's."""
    return (gaussian_pool(features, coords, WIDTH),)


def build_gaussian(batch: int, landmarks: int, pooled: int, size: int, dtype: torch.dtype) -> Problem:
    """Features (batch, pooled, size, size) and coordinates (batch, landmarks, 2).

    The least work: forward reads the features; K (H + W) exponentials an image; a multiply-add for each pixel, map and
    feature, and one for the map. Backward reads them again and writes their gradient; two such products, and 3 more
    for each pixel and map, for the sums along the axes.
    """
    generator = seeded()
    features = torch.randn(batch, pooled, size, size, generator=generator).to(dtype).requires_grad_()
    coords = (torch.rand(batch, landmarks, 2, generator=generator) * 1.8 - 0.9).requires_grad_()
    by_maps = functools.partial(rendered_bmm, axis=centres(size))
    contenders = [
        Contender("lmdis_fast", "ours", gaussian_operator),
        Contender("maps, bmm", "eager", by_maps),
        Contender("compile: maps, bmm", "compile", by_maps),
    ]
    maps, exps = float(batch * landmarks * size**2), float(batch * landmarks * 2 * size)
    read = float(batch * pooled * size**2 * dtype.itemsize)
    forward = Work(bytes=read, exps=exps, madds=maps * (pooled + 1))
    backward = Work(bytes=2 * read, exps=exps, madds=maps * (2 * pooled + 4))
    return Problem((features, coords), contenders, gaussian_operator, forward, backward)


def cases(sizes: Sizes) -> Iterator[Case]:
    """All cases."""
    name, batch = "landmark_pool", sizes.batch
    for pooled in CHANNELS:
        for landmarks, pixels, dtype in sizes.grid():
            arguments = (batch, landmarks, pooled, pixels, dtype, False)
            title = f"K={landmarks} {pixels}px S={pooled}"
            yield Case(name, title, dtype, True, functools.partial(build, *arguments))
    if sizes.extras:
        for dtype in sizes.dtypes:
            arguments = (batch, 10, CHANNELS[-1], EXTRA_PIXELS, dtype, True)
            title = f"K=10 {EXTRA_PIXELS}px S={CHANNELS[-1]} channels_last"
            yield Case(name, title, dtype, False, functools.partial(build, *arguments))
        for pooled in CHANNELS:
            for dtype in sizes.dtypes:
                title = f"K=10 {EXTRA_PIXELS}px S={pooled}"
                pooling = functools.partial(build_gaussian, batch, 10, pooled, EXTRA_PIXELS, dtype)
                yield Case("gaussian_pool", title, dtype, False, pooling)
