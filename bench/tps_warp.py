"""Warping images by thin-plate splines, against a spline grid in memory with grid_sample, kornia, and grid_sample alone.

Contenders sample in float32: a grid in bfloat16 would be off by half a pixel, so bfloat16 images are converted and
the result is converted back.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lmdis_fast.ops import ThinPlateSpline, similarity, tps_warp

from .ceilings import Work
from .harness import Case, Contender, Outputs, Problem
from .sizes import EXTRA_PIXELS, Sizes, centres, laid_out, seeded

POINTS = 49
CHANNELS = 3
FLOAT32_KERNEL, FLOAT32_SLOPE = 10, 100
"""Tolerance of forms that sum 49 large terms in float32 (kornia's r^2 is a difference of products besides); and of
their gradients, because the image's slope changes where such a position rounds to the next pixel."""
Variant = Literal["shared", "own points", "affine before"]
"""Control points of a 7 x 7 grid that the batch shares; each image's own; the shared ones after an affine map."""


def sample(image: Tensor, grid: Tensor) -> Tensor:
    """Images (N, C, H, W) at a float32 grid (N, H, W, 2), in the image's dtype."""
    sampled = F.grid_sample(image.float(), grid, padding_mode="border", align_corners=False)
    return sampled.to(image.dtype)


def kernel(points: Tensor, centers: Tensor) -> Tensor:
    """U = r^2 log(r^2) / 2 of points (..., M, 2) and centres (..., P, 2): (..., M, P)."""
    r2 = (points[..., :, None, :] - centers[..., None, :, :]).square().sum(-1)
    return 0.5 * r2 * torch.log(r2.clamp_min(1e-30))


def plain(image: Tensor, weights: Tensor, spline: ThinPlateSpline, lattice: Tensor) -> Outputs:
    """The usual form: for each image the kernel of all pixels (H W, 2) and control points, the grid, grid_sample."""
    n, _, height, width = image.shape
    points = lattice.expand(n, -1, -1)
    if spline.before is not None:
        points = points @ spline.before[..., :2].mT + spline.before[..., 2][:, None]
    basis = kernel(points, spline.centers.expand(n, -1, -1))
    grid = basis @ weights + points @ spline.affine[..., :2].mT + spline.affine[..., 2][:, None]
    return (sample(image, grid.view(n, height, width, 2)),)


def one_kernel(image: Tensor, weights: Tensor, spline: ThinPlateSpline, lattice: Tensor) -> Outputs:
    """The kernel once for all images, which shared control points allow; few programs do so."""
    n, _, height, width = image.shape
    basis = kernel(lattice, spline.centers)
    grid = basis @ weights + lattice @ spline.affine[..., :2].mT + spline.affine[..., 2][:, None]
    return (sample(image, grid.view(n, height, width, 2)),)


def operator(image: Tensor, weights: Tensor, spline: ThinPlateSpline) -> Outputs:
    """This package's."""
    return (tps_warp(image, dataclasses.replace(spline, weights=weights)),)


def given_grid(image: Tensor, _: Tensor, grid: Tensor) -> Outputs:
    """Without finding where to sample."""
    return (sample(image, grid),)


def by_kornia(image: Tensor, weights: Tensor, spline: ThinPlateSpline) -> Outputs:
    """kornia's warp by the same spline: its affine rows are the constant, x and y."""
    from kornia.geometry.transform import warp_image_tps

    n = len(image)
    centers, affine = spline.centers.expand(n, -1, -1), spline.affine[..., [2, 0, 1]].mT
    out = warp_image_tps(image.float(), centers, weights, affine, padding_mode="border")
    return (out.to(image.dtype),)


def work(batch: int, size: int, width: int, variant: Variant) -> tuple[Work, Work]:
    """Forward and backward (gradients of the weights), for ``width`` bytes a value of the image.

    Forward reads and writes the image. With shared control points the kernel on the lattice is a constant, so that a
    pixel costs 2 (P + 3) multiply-adds; otherwise P logarithms, and for each control point 3 for the distance, 2 for
    the kernel and 2 for the sum. Blending: 4 a channel, and 12 for the pixel's place and weights.
    Backward reads the image and the gradient, writes next to nothing, finds the place again, has 6 a channel for the
    slope, and the adjoint sums, 2 (P + 3); the kernel again where it is no constant.
    """
    pixels = float(batch * size**2)
    shared = variant == "shared"
    logs = 0.0 if shared else pixels * POINTS
    grid = pixels * (2 * (POINTS + 3) if shared else 7 * POINTS + 8)
    image = 2 * CHANNELS * pixels * width
    adjoint = grid + pixels * (6 * CHANNELS + 12 + 2 * (POINTS + 3))
    return (
        Work(bytes=image, logs=logs, madds=grid + pixels * (4 * CHANNELS + 12)),
        Work(bytes=image, logs=logs, madds=adjoint),
    )


def make_spline(batch: int, variant: Variant) -> ThinPlateSpline:
    """Random splines in float32."""
    generator = seeded()
    spline = ThinPlateSpline.random(batch, std=0.05, generator=generator)
    if variant == "own points":
        source = torch.rand(batch, POINTS, 2, generator=generator) * 1.8 - 0.9
        moves = 0.05 * torch.randn(batch, POINTS, 2, generator=generator)
        fitted = ThinPlateSpline.fit(source, source + moves, alpha=0.1)
        return dataclasses.replace(fitted, weights=fitted.weights.float(), affine=fitted.affine.float())
    if variant == "affine before":
        angle, scale = (
            0.2 * torch.randn(batch, generator=generator),
            1 + 0.1 * torch.rand(batch, generator=generator),
        )
        shift = 0.1 * torch.randn(batch, 2, generator=generator)
        return spline.compose_affine(before=similarity(angle, scale, shift))
    return spline


def build(
    batch: int, size: int, dtype: torch.dtype, channels_last: bool, variant: Variant, gradients: bool
) -> Problem:
    """Images (batch, 3, size, size) as data and the spline's weights (batch, 49, 2) in float32."""
    # smooth, because on noise a position that rounds to the next pixel changes the gradient by leaps
    image = torch.rand(batch, CHANNELS, 8, 8, generator=seeded())
    image = F.interpolate(image, (size, size), mode="bicubic", align_corners=False)
    image = laid_out(image, channels_last).to(dtype)
    spline = make_spline(batch, variant)
    double = dataclasses.replace(
        spline,
        centers=spline.centers.double(),
        affine=spline.affine.double(),
        before=None if spline.before is None else spline.before.double(),
        weights=spline.weights.double(),
    )
    y, x = torch.meshgrid(centres(size), centres(size), indexing="ij")
    lattice = torch.stack([x, y], -1).view(-1, 2)
    tolerance = FLOAT32_SLOPE if gradients else FLOAT32_KERNEL
    by_image = functools.partial(plain, spline=spline, lattice=lattice)
    contenders = [
        Contender(
            "lmdis_fast",
            "ours",
            functools.partial(operator, spline=spline),
            FLOAT32_SLOPE if gradients else 1.0,
        ),
        Contender("plain torch", "plain", by_image, tolerance),
    ]
    compiled: Callable[..., Outputs] = by_image
    if variant == "shared":
        compiled = functools.partial(one_kernel, spline=spline, lattice=lattice)
        contenders.append(Contender("one kernel for all", "eager", compiled, tolerance))
    contenders.append(Contender("compile", "compile", compiled, tolerance))
    if spline.before is None and importlib.util.find_spec("kornia"):
        run = functools.partial(by_kornia, spline=spline)
        contenders.append(Contender("kornia", "kornia", run, tolerance))
    if not gradients:
        given = functools.partial(given_grid, grid=spline.grid((size, size)))
        contenders.append(Contender("grid_sample, given grid", "given grid", given))
    forward, backward = work(batch, size, dtype.itemsize, variant)
    inputs = (image, spline.weights.clone().requires_grad_(gradients))
    reference = functools.partial(operator, spline=double)
    return Problem(inputs, contenders, reference, forward, backward if gradients else None)


def cases(sizes: Sizes) -> Iterator[Case]:
    """All cases. The number of landmarks plays no part."""
    for dtype in sizes.dtypes:
        sets: list[tuple[int, bool, Variant, bool, str]] = [
            (pixels, False, "shared", False, "") for pixels in sizes.pixels
        ]
        if sizes.extras:
            sets += [
                (EXTRA_PIXELS, True, "shared", False, " channels_last"),
                (EXTRA_PIXELS, False, "own points", False, " own points"),
                (EXTRA_PIXELS, False, "affine before", False, " affine before"),
                (EXTRA_PIXELS, True, "affine before", False, " affine before channels_last"),
                (EXTRA_PIXELS, False, "shared", True, " gradient of the spline"),
            ]
        for pixels, channels_last, variant, gradients, suffix in sets:
            arguments = (sizes.batch, pixels, dtype, channels_last, variant, gradients)
            yield Case(
                "tps_warp", f"{pixels}px{suffix}", dtype, suffix == "", functools.partial(build, *arguments)
            )
