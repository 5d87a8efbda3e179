"""Images warped by thin-plate splines; see the reference of this name.

A program owns a tile of output pixels of one image. It evaluates the spline at them, one control point after another,
and reads the image there channel by channel: the grid exists nowhere in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.tps_warp import memory_format_of
from .launch import ALIGNMENT, Launch, Prepared, laid_out, memory, planned
from .launch_table import architecture, configuration, options_of, overrides
from .tile import Tiling
from .warp_gradient import PARTS, tps_warp_backward_finish, tps_warp_backward_largest, tps_warp_backward_map
from .warp_positions import (
    corner_offsets,
    corner_weights,
    displaced,
    flat_pixels,
    neighbours,
    pixel_centre,
    read_corners,
    tile_pixels,
)


@triton.jit
def tps_warp_sample(
    image,
    centers,
    weights,
    affine,
    before,
    out,
    image_n,
    image_c,
    image_h,
    image_w,
    centers_n,
    centers_i,
    centers_j,
    weights_n,
    weights_i,
    weights_j,
    affine_n,
    affine_i,
    affine_j,
    before_n,
    before_i,
    before_j,
    out_n,
    out_c,
    out_h,
    out_w,
    channels,
    points,
    image_height,
    image_width,
    height,
    width,
    span_x,
    span_y,
    times_x,
    plus_x,
    over_x,
    times_y,
    plus_y,
    over_y,
    pixels_x,
    pixels_y,
    tiles_x,
    tiles,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    ZEROS: tl.constexpr,
    DOUBLE: tl.constexpr,
    BASE_BITS: tl.constexpr,
    APPROXIMATE: tl.constexpr,
):
    """A tile of the warped image, all channels."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, row = tile_pixels(program % tiles, tiles_x, BLOCK_W, ROWS)
    x = pixel_centre(column, width, span_x, DOUBLE)
    y = pixel_centre(row, height, span_y, DOUBLE)
    strides = (
        (centers_n, centers_i, centers_j),
        (weights_n, weights_i, weights_j),
        (affine_n, affine_i, affine_j),
        (before_n, before_i, before_j),
    )
    spline = (centers, weights, affine, before)
    _, _, move_x, move_y = displaced(spline, strides, n, points, x, y, DOUBLE, APPROXIMATE)
    base_x = (times_x, plus_x, over_x)
    base_y = (times_y, plus_y, over_y)
    along_x = neighbours(column, base_x, move_x * pixels_x, image_width, ZEROS, BASE_BITS)
    along_y = neighbours(row, base_y, move_y * pixels_y, image_height, ZEROS, BASE_BITS)
    corners = corner_offsets(along_x, along_y, image_h, image_w)
    w_00, w_01, w_10, w_11 = corner_weights(along_x, along_y)
    places, inside = flat_pixels(program % tiles, tiles_x, height, width, out_h, out_w, BLOCK_W, ROWS)
    source = image + n * image_n
    target = out + n * out_n + places
    for _ in range(channels):
        v_00, v_01, v_10, v_11 = read_corners(source, corners)
        value = v_00 * w_00 + v_01 * w_01 + v_10 * w_10 + v_11 * w_11
        value = tl.reshape(value.to(out.dtype.element_ty), (ROWS * BLOCK_W,))
        tl.store(target, value, mask=inside)
        source += image_c
        target += out_c


@Prepared
def tps_warp(
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    size: Sequence[int],
    padding_mode: str,
    align_corners: bool,
) -> Callable[..., Tensor]:
    """``(N, C, H', W')`` in the image's dtype; channels_last for a channels_last image."""
    shape = (image.shape[0], image.shape[1], *size)
    dtype = image.dtype
    strides = laid_out(shape)[1]
    if memory_format_of(image) == torch.channels_last:
        over_n, over_h, over_w, over_c = laid_out((shape[0], *size, shape[1]))[1]
        strides = over_n, over_c, over_h, over_w
    plan = _forward_plan(
        *_key(image, centers, weights, affine, before, shape, strides),
        padding_mode,
        align_corners,
        overrides(),
    )
    aligned = plan.for_aligned(image)
    empty, address = memory(image, centers, weights, affine, before)

    def run(
        image: Tensor, centers: Tensor, weights: Tensor, affine: Tensor, before: Tensor | None, *_: object
    ) -> Tensor:
        out = empty(shape, strides, dtype)
        places = address(image) | address(centers) | address(weights) | address(affine)
        if (places if before is None else places | address(before)) % ALIGNMENT:
            plan(image, centers, weights, affine, before, out)
        else:
            aligned(image, centers, weights, affine, before, out)
        return out

    return run


def tps_warp_backward(
    grad: Tensor,
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    padding_mode: str,
    align_corners: bool,
    need_image: bool,
    need_spline: bool,
    need_centers: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of image, centres, weights, affine and before, each in its tensor's dtype; ``(0,)`` if not asked for.

    ``need_spline`` asks for those of weights, affine and before.
    """
    ordered = need_image and torch.are_deterministic_algorithms_enabled()
    sums_dtype = torch.int64 if ordered else torch.float32
    of_image = sums = partials = largest = None
    if need_image:
        sums = torch.zeros_like(image, dtype=sums_dtype)
        # what is summed in the image's own dtype and layout is the result
        of_image = sums if sums.dtype == image.dtype else torch.empty_like(image)
    sum_strides = (0, 0, 0, 0) if sums is None else sums.stride()
    plan = _backward_plan(
        *_key(image, centers, weights, affine, before, grad.shape, grad.stride()),
        padding_mode,
        align_corners,
        sum_strides,
        need_image,
        need_spline,
        need_centers,
        ordered,
        overrides(),
    )
    of_centers = centers.new_empty(centers.shape) if need_centers else None
    of_weights = weights.new_empty(weights.shape) if need_spline else None
    of_affine = affine.new_empty(affine.shape) if need_spline else None
    of_before = before.new_empty(before.shape) if need_spline and before is not None else None
    if need_spline or need_centers:
        partials = image.new_empty(plan.workspace, dtype=torch.float32)
    if ordered:
        largest = image.new_empty((PARTS.value,), dtype=torch.float32)
        plan.largest(grad, largest)
    plan.map(grad, image, centers, weights, affine, before, largest, partials, sums)
    unread = None if sums is of_image else sums
    plan.finish(partials, largest, unread, of_image, of_centers, of_weights, of_affine, of_before)
    absent = [t.new_empty((0,)) for t in (image, centers, weights, affine, affine)]
    found = (of_image, of_centers, of_weights, of_affine, of_before)
    first, second, third, fourth, fifth = (
        nothing if t is None else t for t, nothing in zip(found, absent, strict=True)
    )
    return first, second, third, fourth, fifth


def _key(
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    shape: Sequence[int],
    strides: tuple[int, ...],
) -> tuple[Any, ...]:
    """What plans depend on: sizes, strides, dtypes and the device."""
    return (
        image.shape,
        image.stride(),
        image.dtype,
        image.device,
        centers.dim(),
        (centers.shape[-2], centers.stride(), weights.stride(), affine.stride()),
        None if before is None else before.stride(),
        torch.float64 in (centers.dtype, weights.dtype),
        tuple(shape[2:]),
        strides,
    )


class _Warp:
    """What forward and backward launches have in common: numbers, constants and tiles."""

    def __init__(
        self,
        kernel: str,
        shape: torch.Size,
        stride: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        rank_of_centers: int,
        of_spline: tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        of_before: tuple[int, ...] | None,
        double: bool,
        size: tuple[int, int],
        maps_stride: tuple[int, ...],
        padding_mode: str,
        align_corners: bool,
    ) -> None:
        batch, channels, *source = shape
        self.points, of_centers, of_weights, of_affine = of_spline
        arch = architecture(device)
        width = 8 if double else dtype.itemsize  # bytes of what takes the registers
        self.entry = configuration(kernel, arch, channels, size[0] * size[1], width)
        tiling = Tiling(size, self.entry)
        self.tiles = tiling.tiles
        self.programs = batch * tiling.tiles
        self.options = tiling.options
        inset = 1 if align_corners else 0
        bases = [_base(n, m, align_corners) for n, m in zip(size, source, strict=True)]
        largest = max(a * n + b + c for (a, b, c), n in zip(bases, size, strict=True))
        resized = tuple(size) != tuple(source)
        self.constants = {
            "BLOCK_W": tiling.block_w,
            "ROWS": tiling.rows,
            "ZEROS": padding_mode == "zeros",
            "DOUBLE": double,
            "BASE_BITS": 0 if not resized else 32 if largest < 2**31 else 64,
            "APPROXIMATE": arch.startswith("sm_") and not double,
        }
        self.numbers: tuple[float, ...] = (
            *stride,
            *((0, *of_centers) if rank_of_centers == 2 else of_centers),
            *of_weights,
            *of_affine,
            *(of_before or (0, 0, 0)),
            *maps_stride,
            channels,
            self.points,
            *source,
            *size,
            *(max(n - inset, 1) for n in reversed(size)),
            *bases[1],
            *bases[0],
            *((n - inset) / 2 for n in reversed(source)),
            tiling.tiles_x,
            self.tiles,
        )


def _base(count: int, source: int, align_corners: bool) -> tuple[int, int, int]:
    """``(a, b, c)``: pixel ``i`` of ``count`` has its place at ``(a i + b) / c`` among ``source`` pixels."""
    if not align_corners:
        return 2 * source, source - count, 2 * count
    return (source - 1, 0, count - 1) if count > 1 else (0, source - 1, 2)


@planned
def _forward_plan(*key: Any) -> Launch:
    warp = _Warp("tps_warp_sample", *key[:-1])
    return Launch(tps_warp_sample, (warp.programs,), warp.numbers, warp.constants, warp.options)


class _Backward:
    """Launches of one kind of backward pass, and the shape of the tiles' sums."""

    def __init__(
        self, workspace: tuple[int, int], largest: Launch | None, map: Launch, finish: Launch
    ) -> None:
        self.workspace = workspace
        self.largest: Any = largest
        self.map = map
        self.finish = finish


@planned
def _backward_plan(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    rank_of_centers: int,
    of_spline: tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    of_before: tuple[int, ...] | None,
    double: bool,
    size: tuple[int, int],
    maps_stride: tuple[int, ...],
    padding_mode: str,
    align_corners: bool,
    sum_strides: tuple[int, ...],
    need_image: bool,
    need_spline: bool,
    need_centers: bool,
    ordered: bool,
    _overrides: object,
) -> _Backward:
    batch, channels = shape[:2]
    places = (rank_of_centers, of_spline, of_before, double, size, maps_stride)
    warp = _Warp("tps_warp_backward_map", shape, stride, dtype, device, *places, padding_mode, align_corners)
    points = warp.points
    of_image = 2 * points + (6 if of_before is None else 12)
    values = of_image + (2 * points if need_centers else 0)
    shared = need_centers and rank_of_centers == 2
    if not shared:
        of_image = values
    # a map before needs sums over the points as well, and registers for them
    block_p = warp.entry["BLOCK_P"] if of_before is None else max(warp.entry["BLOCK_P"] // 2, 1)
    # an image pixel receives at most what all output pixels give, which has to stay below a quarter of 2**62
    most = 2.0 ** (60 - math.ceil(math.log2(size[0] * size[1] + 1)))
    options = warp.options
    if (
        ordered and size[1] % 8
    ):  # whole numbers, and an address for each pixel: in more threads, for the registers
        options = {**options, "num_warps": 2 * options["num_warps"]}
    mapped = Launch(
        tps_warp_backward_map,
        (warp.programs,),
        (*warp.numbers, *sum_strides, values, values - 2 * points, most),
        {**warp.constants, "BLOCK_P": block_p, "CENTERS": need_centers},
        options,
    )
    entry = configuration(
        "tps_warp_backward_finish", architecture(device), channels, size[0] * size[1], dtype.itemsize
    )
    blocks = -(-of_image // entry["BLOCK_V"])
    programs = batch * blocks + (-(-2 * points // entry["BLOCK_V"]) if shared else 0)
    if not need_spline and not need_centers:
        programs = 0
    converted = shape.numel() if need_image and (ordered or dtype != torch.float32) else 0
    finish = Launch(
        tps_warp_backward_finish,
        (programs + -(-converted // entry["TILE"]),),
        (batch, warp.tiles, points, values, of_image, blocks, programs, converted, most),
        {
            "BLOCK_V": entry["BLOCK_V"],
            "BLOCK_T": min(entry["BLOCK_T"], triton.next_power_of_2(warp.tiles)),
            "TILE": entry["TILE"],
        },
        options_of(entry),
    )
    largest = None
    if ordered:
        block_w = min(triton.next_power_of_2(size[1]), 256)
        largest = Launch(
            tps_warp_backward_largest,
            (PARTS.value,),
            (*maps_stride, batch, channels, *size),
            {"BLOCK_W": block_w, "ROWS": 2048 // block_w},
            {"num_warps": 4},
        )
    return _Backward((warp.programs, values), largest, mapped, finish)
