"""The calls whose kernels are compiled ahead of time: every room, layout and channel bucket, on tensors without memory.

Names begin with the layout: ``contiguous`` for what is usual, ``odd`` for maps whose size is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

BATCH = 4
SIZE = (80, 80)
#: Neither rows nor channels begin at a multiple of 16 bytes: nothing is vectorised, and registers go for addresses.
ODD = (33, 17)
#: One count in each bucket: in registers (16, 32, 64 channels with the background) and in chunks.
LANDMARKS = (10, 30, 60, 100)
#: Of maps of an odd size.
FEW_AND_MANY = (10, 100)


def maps(channels: int, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    """(N, C, H, W) on device meta."""
    memory_format = torch.channels_last if "channels_last" in layout else torch.contiguous_format
    size = ODD if "odd" in layout else SIZE
    return torch.empty((BATCH, channels, *size), dtype=dtype, device="meta", memory_format=memory_format)


def floats(*shape: int) -> Tensor:
    """float32 on device meta."""
    return torch.empty(shape, device="meta")


def heatmap_moments(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Forward and backward over channels, pixels and marginals."""
    from lmdis_fast.kernels import heatmap_moments as room

    for k, over, layout in [
        *((k, "channels", "contiguous") for k in LANDMARKS),
        *((k, "channels", "channels_last") for k in LANDMARKS[:2]),
        *(
            (10, over, layout)
            for over in ("pixels", "marginals")
            for layout in ("contiguous", "channels_last", "odd")
        ),
        *((k, "channels", "odd") for k in FEW_AND_MANY),
    ]:
        z = maps(k + 1, dtype, layout)
        options = (over, True, 1.0, False, 1e-6)
        saved = floats(BATCH, k, 2), floats(BATCH, k, 2), floats(BATCH, k)

        def forward(z: Tensor = z, options: tuple[Any, ...] = options) -> None:
            room.heatmap_moments(z, *options, False)

        def backward(
            z: Tensor = z, options: tuple[Any, ...] = options, saved: tuple[Any, ...] = saved
        ) -> None:
            room.heatmap_moments_backward(*saved, z, *saved, *options)

        yield f"{layout} K={k}", forward
        yield f"{layout} K={k}", backward


def landmark_pool(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Softmax across channels and pixels, and Gaussians; both gradients."""
    from lmdis_fast.kernels import landmark_pool as room

    for k, s, over, layout in [
        *((k, 64, "channels", "contiguous") for k in LANDMARKS),
        (10, 16, "channels", "contiguous"),
        (10, 64, "channels", "channels_last"),
        *((10, 64, over, layout) for over in ("pixels", "gaussian") for layout in ("contiguous", "odd")),
        *((k, 64, "channels", "odd") for k in FEW_AND_MANY),
    ]:
        f, z = (maps(channels, dtype, layout) for channels in (s, k + 1))
        options = (over, 1.0, 1e-6)
        pooled, mass = floats(BATCH, k + 1, s), floats(BATCH, k + 1)
        points, widths, grad = floats(BATCH, k, 2), floats(BATCH, k), floats(BATCH, k, s)

        def forward(f: Tensor = f, z: Tensor = z, options: Any = options) -> None:
            room.landmark_pool(f, z, *options)

        def backward(
            f: Tensor = f, z: Tensor = z, options: Any = options, saved: Any = (pooled, mass)
        ) -> None:
            room.landmark_pool_backward(*saved, f, z, *saved, *options, True, True)

        def by_gaussians(f: Tensor = f, points: Tensor = points, widths: Tensor = widths) -> None:
            room.gaussian_pool(f, points, widths, False)

        def by_gaussians_backward(f: Tensor = f, given: Any = (points, widths), grad: Tensor = grad) -> None:
            room.gaussian_pool_backward(grad, f, *given, False, True, True)

        both = (by_gaussians, by_gaussians_backward) if over == "gaussian" else (forward, backward)
        for call in both:
            yield f"{layout} K={k} S={s} {over}", call


def gaussian_splat(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Maps alone, of each kind, and with features spread over them; three levels."""
    from lmdis_fast.kernels import gaussian_splat as room

    sigma, gain, floor = [0.25, 0.35, 0.5], [1.0] * 3, [0.4] * 3
    for k, layout, size in [
        *((k, "contiguous", SIZE) for k in LANDMARKS),
        *((k, "odd", ODD) for k in FEW_AND_MANY),
    ]:
        points, codes = floats(BATCH, k, 2).to(dtype), floats(BATCH, k + 1, 64).to(dtype)
        kinds = ("channels", "peak", "sum") if k == 10 else ("channels", "sum") if k == 100 else ("channels",)
        for kind in kinds:
            background = floor if kind == "channels" else None
            channels = k + (background is not None)
            grad = torch.empty((BATCH, 3, channels, *size), dtype=dtype, device="meta")
            options = (sigma, gain, background, kind, False)

            def render(points: Tensor = points, size: Any = size, options: Any = options) -> None:
                room.render_gaussians(points, size, *options)

            def render_backward(grad: Tensor = grad, points: Tensor = points, options: Any = options) -> None:
                room.render_gaussians_backward(grad, points, *options)

            yield f"{layout} K={k} {kind}", render
            yield f"{layout} K={k} {kind}", render_backward
        spread = torch.empty((BATCH, 3 * (k + 65), *size), dtype=dtype, device="meta")

        def splat(points: Tensor = points, codes: Tensor = codes, size: Any = size) -> None:
            room.splat_landmarks(points, codes, size, sigma, gain, floor, False)

        def splat_backward(points: Tensor = points, codes: Tensor = codes, grad: Tensor = spread) -> None:
            room.splat_landmarks_backward(grad, points, codes, sigma, gain, floor, False, True, True)

        yield f"{layout} K={k} S=64", splat
        yield f"{layout} K={k} S=64", splat_backward


def tps_warp(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Images of 3 channels in both layouts, with and without an affine map before, and every gradient."""
    from lmdis_fast.kernels import tps_warp as room

    points = 49
    for layout, before, padding in (
        ("contiguous", False, "border"),
        ("contiguous", True, "zeros"),
        ("channels_last", False, "border"),
        ("odd", True, "border"),
    ):
        image = maps(3, dtype, layout)
        spline = (floats(points, 2), floats(BATCH, points, 2), floats(BATCH, 2, 3))
        maps_ = (*spline, floats(BATCH, 2, 3) if before else None)

        def forward(image: Tensor = image, maps_: Any = maps_, padding: str = padding) -> None:
            room.tps_warp(image, *maps_, image.shape[2:], padding, False)

        def backward(
            image: Tensor = image, maps_: Any = maps_, padding: str = padding, need_image: bool = before
        ) -> None:
            room.tps_warp_backward(image, image, *maps_, padding, False, need_image, True, need_image)

        def repeatable(image: Tensor = image, maps_: Any = maps_, padding: str = padding) -> None:
            torch.use_deterministic_algorithms(True)
            try:
                room.tps_warp_backward(image, image, *maps_, padding, False, True, True, False)
            finally:
                torch.use_deterministic_algorithms(False)

        yield f"{layout} before={before} {padding}", forward
        yield f"{layout} before={before} {padding}", backward
        if before:
            yield f"{layout} repeatable", repeatable


ROOMS = {
    "heatmap_moments": heatmap_moments,
    "landmark_pool": landmark_pool,
    "gaussian_splat": gaussian_splat,
    "tps_warp": tps_warp,
}
