"""Channel softmax, then mean and variance of each landmark's map, against the eager forms in use."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor

from lmdis_fast.ops import heatmap_moments

from .ceilings import Work
from .harness import Case, Contender, Outputs, Problem
from .sizes import EXTRA_PIXELS, Sizes, centres, laid_out, seeded

EPS = 1e-6


def product(logits: Tensor, basis: Tensor) -> Outputs:
    """Softmax, then one matrix product with the columns 1, x, y, xx, yy of the ``basis`` (H W, 5)."""
    q = torch.softmax(logits, 1, dtype=torch.float32)
    # with the background's sums, because leaving its maps out before the product would copy the others
    sums = (q.flatten(2) @ basis)[:, :-1]
    mass = sums[..., :1] + EPS
    mean = sums[..., 1:3] / mass
    return mean, sums[..., 3:] / mass - mean.square()


def marginals(logits: Tensor, x: Tensor, y: Tensor) -> Outputs:
    """Softmax, its sums along each axis, then moments of those; as in dsntnn."""
    q = torch.softmax(logits, 1, dtype=torch.float32)[:, :-1]
    along_x, along_y = q.sum(2), q.sum(3)
    mass = along_x.sum(-1) + EPS
    mean_x, mean_y = (along_x * x).sum(-1) / mass, (along_y * y).sum(-1) / mass
    variance_x = (along_x * (x - mean_x[..., None]).square()).sum(-1) / mass
    variance_y = (along_y * (y - mean_y[..., None]).square()).sum(-1) / mass
    return torch.stack([mean_x, mean_y], -1), torch.stack([variance_x, variance_y], -1)


def broadcast(logits: Tensor, x: Tensor, y: Tensor) -> Outputs:
    """Softmax, then for each moment the whole map times a lattice of coordinates; as in the published program."""
    q = torch.softmax(logits, 1, dtype=torch.float32)[:, :-1]
    x, y = x[None, :], y[:, None]
    mass = q.sum((2, 3)) + EPS
    mean_x, mean_y = (q * x).sum((2, 3)) / mass, (q * y).sum((2, 3)) / mass
    variance_x = (q * (x - mean_x[..., None, None]).square()).sum((2, 3)) / mass
    variance_y = (q * (y - mean_y[..., None, None]).square()).sum((2, 3)) / mass
    return torch.stack([mean_x, mean_y], -1), torch.stack([variance_x, variance_y], -1)


def operator(logits: Tensor) -> Outputs:
    """This package's."""
    return heatmap_moments(logits)[:2]


def work(batch: int, channels: int, pixels: int, width: int) -> tuple[Work, Work]:
    """Forward and backward, for ``width`` bytes a value.

    Forward reads the logits once. A value costs one exponential and: maximum, difference, sum, quotient, and two
    additions to the sums along its row and its column, 6.
    Backward reads the logits again (keeping the softmax would cost more), computes the softmax again (4), weighs it
    with the gradient by q, which is a term of the row plus one of the column (1), sums over the channels (1), and
    subtracts and multiplies (2): 8. It writes the gradient.
    """
    values = float(batch * channels * pixels)
    return (
        Work(bytes=values * width, exps=values, madds=6 * values),
        Work(bytes=2 * values * width, exps=values, madds=8 * values),
    )


def build(batch: int, landmarks: int, size: int, dtype: torch.dtype, channels_last: bool) -> Problem:
    """Logits (batch, landmarks + 1, size, size)."""
    shape = (batch, landmarks + 1, size, size)
    logits = laid_out(2 * torch.randn(shape, generator=seeded()), channels_last).to(dtype).requires_grad_()
    axis = centres(size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y, x * x, y * y]).flatten(1).t().contiguous()
    by_marginals = functools.partial(marginals, x=axis, y=axis)
    by_broadcast = functools.partial(broadcast, x=axis, y=axis)
    contenders = [
        Contender("lmdis_fast", "ours", operator),
        # raw second moments lose digits
        Contender("softmax, product", "eager", functools.partial(product, basis=basis), tolerance=10),
        Contender("softmax, marginals", "eager", by_marginals),
        Contender("softmax, broadcast", "eager", by_broadcast),
        Contender("compile: marginals", "compile", by_marginals),
        Contender("compile: broadcast", "compile", by_broadcast),
    ]
    forward, backward = work(batch, landmarks + 1, size * size, dtype.itemsize)
    return Problem((logits,), contenders, operator, forward, backward)


def over_pixels(logits: Tensor) -> Outputs:
    """This package's soft-argmax over the pixels of each channel; the variance is computed as well."""
    return (heatmap_moments(logits, over="pixels", background=False).coords,)


def build_over_pixels(batch: int, landmarks: int, size: int) -> Problem:
    """Soft-argmax over space, for which there are libraries; they give coordinates alone."""
    shape = (batch, landmarks, size, size)
    logits = (2 * torch.randn(shape, generator=seeded())).requires_grad_()
    contenders = [Contender("lmdis_fast", "ours", over_pixels)]
    if importlib.util.find_spec("dsntnn"):
        import dsntnn

        contenders.append(Contender("dsntnn", "dsntnn", lambda z: (dsntnn.dsnt(dsntnn.flat_softmax(z)),)))
    if importlib.util.find_spec("kornia"):
        from kornia.geometry.subpix import spatial_expectation2d, spatial_softmax2d

        def kornia(logits: Tensor) -> Outputs:
            pixels = spatial_expectation2d(spatial_softmax2d(logits), normalized_coordinates=False)
            return ((2 * pixels + 1) / size - 1,)  # its own frame has the outer pixels' centres at -1 and 1

        contenders.append(Contender("kornia", "kornia", kornia))
    forward, backward = work(batch, landmarks, size * size, 4)
    return Problem((logits,), contenders, over_pixels, forward, backward)


def cases(sizes: Sizes) -> Iterator[Case]:
    """All cases."""
    name, batch = "heatmap_moments", sizes.batch
    for landmarks, pixels, dtype in sizes.grid():
        arguments = (batch, landmarks, pixels, dtype, False)
        yield Case(name, f"K={landmarks} {pixels}px", dtype, True, functools.partial(build, *arguments))
    if sizes.extras:
        for dtype in sizes.dtypes:
            arguments = (batch, 10, EXTRA_PIXELS, dtype, True)
            title = f"K=10 {EXTRA_PIXELS}px channels_last"
            yield Case(name, title, dtype, False, functools.partial(build, *arguments))
        yield Case(
            name,
            f"K=10 {EXTRA_PIXELS}px over pixels",
            torch.float32,
            False,
            functools.partial(build_over_pixels, batch, 10, EXTRA_PIXELS),
        )
