"""Images warped by thin-plate splines; see the reference of this name.

A program owns a tile of output pixels of one image. It evaluates the spline at them, one control point after another,
and reads the image there channel by channel: the grid exists nowhere in memory. A position is the output pixel's own
place in whole pixels plus what the spline adds, and is never rounded as a whole.

The backward pass recomputes the positions. Control points then come in blocks ``[points, pixels]``, whose sums over
the tile a second kernel adds in float64. Only the image's own gradient needs atomics: in float32, or, where
deterministic algorithms are asked for, as whole multiples of a unit, whose sums have no order. The unit depends on the
largest upstream gradient, which :func:`tps_warp_backward_largest` finds, and which runs in no other case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ..reference.tps_warp import memory_format_of
from .launch import Launch, planned
from .launch_table import architecture, columns, configuration, overrides

LN2 = tl.constexpr(math.log(2))
#: Smallest squared distance whose logarithm is taken.
TINY = tl.constexpr(2.0**-126)
#: Pixels beyond which a position counts as so far away.
FAR = tl.constexpr(1e9)
#: Sums of whole numbers stay below a quarter of this; a NaN raises its pixel to it.
NOT_A_NUMBER = tl.constexpr(2**62)
#: Largest gradients of parts of the batch.
PARTS = tl.constexpr(256)


@triton.jit
def _log2(x, APPROXIMATE: tl.constexpr):
    """NVIDIA's own instruction where asked for: to 2e-7 near 1, in place of twenty others."""
    if APPROXIMATE:
        return libdevice.fast_log2f(x)
    else:
        return tl.log2(x)


@triton.jit
def _pixels(tile, tiles_x, BLOCK_W: tl.constexpr, ROWS: tl.constexpr):
    """Columns ``[1, BLOCK_W]`` and rows ``[ROWS, 1]`` of a tile."""
    column = (tile % tiles_x) * BLOCK_W + tl.arange(0, BLOCK_W)
    row = (tile // tiles_x) * ROWS + tl.arange(0, ROWS)
    return column[None, :], row[:, None]


@triton.jit
def _places(tile, tiles_x, height, width, stride_h, stride_w, BLOCK_W: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of a tile's pixels, flat, and which are inside.

    What the lanes read and write in 16 bytes is kept apart from the tile in which they compute and gather: there
    neighbouring lanes have neighbouring pixels.
    """
    lane = tl.arange(0, ROWS * BLOCK_W)
    column = (tile % tiles_x) * BLOCK_W + lane % BLOCK_W
    row = (tile // tiles_x) * ROWS + lane // BLOCK_W
    return row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w, (row < height) & (column < width)


@triton.jit
def _centre(i, count, span, DOUBLE: tl.constexpr):
    """Pixel centres in the frame."""
    real: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    return (2 * i - (count - 1)).to(real) / span


@triton.jit
def _affine_map(at, stride_i, stride_j, DOUBLE: tl.constexpr):
    """The six numbers of a map, rows after each other."""
    real: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    xx = tl.load(at).to(real)
    xy = tl.load(at + stride_j).to(real)
    x0 = tl.load(at + 2 * stride_j).to(real)
    yx = tl.load(at + stride_i).to(real)
    yy = tl.load(at + stride_i + stride_j).to(real)
    y0 = tl.load(at + stride_i + 2 * stride_j).to(real)
    return xx, xy, x0, yx, yy, y0


@triton.jit
def _mapped(m, x, y):
    """A map at points."""
    xx, xy, x0, yx, yy, y0 = m
    return xx * x + xy * y + x0, yx * x + yy * y + y0


@triton.jit
def _displaced(spline, strides, n, points, x, y, DOUBLE: tl.constexpr, APPROXIMATE: tl.constexpr):
    """``q`` and ``g(p) - p`` at the points of columns ``x`` and rows ``y`` of image ``n``."""
    real: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    centers, weights, affine, before = spline
    of_centers, of_weights, of_affine, of_before = strides
    a = _affine_map(affine + n * of_affine[0], of_affine[1], of_affine[2], DOUBLE)
    if before is None:
        q_x, q_y = x, y
        xx, xy, x0, yx, yy, y0 = a
    else:
        b = _affine_map(before + n * of_before[0], of_before[1], of_before[2], DOUBLE)
        q_x, q_y = _mapped(b, x, y)
        xx, yx = a[0] * b[0] + a[1] * b[3], a[3] * b[0] + a[4] * b[3]
        xy, yy = a[0] * b[1] + a[1] * b[4], a[3] * b[1] + a[4] * b[4]
        x0, y0 = _mapped(a, b[2], b[5])
    centre = centers + n * of_centers[0]
    weight = weights + n * of_weights[0]
    sum_x = tl.zeros((y.shape[0], x.shape[1]), real)
    sum_y = tl.zeros((y.shape[0], x.shape[1]), real)
    for _ in tl.range(0, points, loop_unroll_factor=4):
        dx = q_x - tl.load(centre).to(real)
        dy = q_y - tl.load(centre + of_centers[2]).to(real)
        r2 = dx * dx + dy * dy
        kernel = r2 * _log2(tl.maximum(r2, TINY), APPROXIMATE)
        sum_x += kernel * tl.load(weight).to(real)
        sum_y += kernel * tl.load(weight + of_weights[2]).to(real)
        centre += of_centers[1]
        weight += of_weights[1]
    # the identity is taken from the map before it meets a point, so that it leaves exactly nothing
    shift_x, shift_y = _mapped((xx - 1.0, xy, x0, yx, yy - 1.0, y0), x, y)
    return q_x, q_y, shift_x + sum_x * (0.5 * LN2), shift_y + sum_y * (0.5 * LN2)


@triton.jit
def _neighbours(i, base, move, count, ZEROS: tl.constexpr, BASE_BITS: tl.constexpr):
    """The two pixels of the image beside a position along an axis, their weights, and their parts in its slope.

    The position is pixel ``i``'s own place ``(base[0] i + base[1]) / base[2]`` (``i`` where BASE_BITS is 0) plus
    ``move``, in pixels.
    """
    if BASE_BITS == 0:
        whole = i
    else:
        if BASE_BITS == 64:
            i = i.to(tl.int64)
        place = i * base[0] + base[1]
        quotient = (place + base[2]) // base[2] - 1  # of a number that may be negative, but above -base[2]
        move += (place - quotient * base[2]).to(move.dtype) / base[2]
        whole = quotient.to(tl.int32)
    lower = tl.floor(move)
    fraction = (move - lower).to(tl.float32)
    # bounded before the conversion: a NaN or huge position must not become a wild address
    known = move == move
    lower = tl.minimum(tl.maximum(tl.where(known, lower, -FAR), -FAR), FAR)
    index = whole + lower.to(tl.int32)
    first = tl.minimum(tl.maximum(index, 0), count - 1)
    if ZEROS:
        second = tl.minimum(tl.maximum(index + 1, 0), count - 1)
        slope_0 = ((index >= 0) & (index < count)).to(tl.float32)
        slope_1 = ((index >= -1) & (index < count - 1)).to(tl.float32)
        weight_0 = (1.0 - fraction) * slope_0
        weight_1 = fraction * slope_1
    else:
        second = tl.where(known, tl.minimum(first + 1, count - 1), first)
        within = (index >= 0) & ((index < count - 1) | ((index == count - 1) & (fraction == 0.0)))
        slope_0 = within.to(tl.float32)
        slope_1 = slope_0
        weight_1 = tl.where(known & ((index < 0) | (index >= count - 1)), 0.0, fraction)
        weight_0 = 1.0 - weight_1
    return first.to(tl.int64), second.to(tl.int64), weight_0, weight_1, slope_0, slope_1


@triton.jit
def _corners(along_x, along_y, stride_h, stride_w):
    """Offsets of the four neighbours: 00, 01 (the lower), 10 (the right), 11."""
    x_0, x_1 = along_x[0] * stride_w, along_x[1] * stride_w
    y_0, y_1 = along_y[0] * stride_h, along_y[1] * stride_h
    return y_0 + x_0, y_1 + x_0, y_0 + x_1, y_1 + x_1


@triton.jit
def _weights(along_x, along_y):
    """What the four neighbours count for."""
    x_0, x_1 = along_x[2], along_x[3]
    y_0, y_1 = along_y[2], along_y[3]
    return x_0 * y_0, x_0 * y_1, x_1 * y_0, x_1 * y_1


@triton.jit
def _read(at, corners):
    """Values of the four neighbours, which are inside the image wherever the position is."""
    v_00 = tl.load(at + corners[0]).to(tl.float32)
    v_01 = tl.load(at + corners[1]).to(tl.float32)
    v_10 = tl.load(at + corners[2]).to(tl.float32)
    v_11 = tl.load(at + corners[3]).to(tl.float32)
    return v_00, v_01, v_10, v_11


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
    column, row = _pixels(program % tiles, tiles_x, BLOCK_W, ROWS)
    x = _centre(column, width, span_x, DOUBLE)
    y = _centre(row, height, span_y, DOUBLE)
    strides = (
        (centers_n, centers_i, centers_j),
        (weights_n, weights_i, weights_j),
        (affine_n, affine_i, affine_j),
        (before_n, before_i, before_j),
    )
    spline = (centers, weights, affine, before)
    _, _, move_x, move_y = _displaced(spline, strides, n, points, x, y, DOUBLE, APPROXIMATE)
    base_x = (times_x, plus_x, over_x)
    base_y = (times_y, plus_y, over_y)
    along_x = _neighbours(column, base_x, move_x * pixels_x, image_width, ZEROS, BASE_BITS)
    along_y = _neighbours(row, base_y, move_y * pixels_y, image_height, ZEROS, BASE_BITS)
    corners = _corners(along_x, along_y, image_h, image_w)
    w_00, w_01, w_10, w_11 = _weights(along_x, along_y)
    places, inside = _places(program % tiles, tiles_x, height, width, out_h, out_w, BLOCK_W, ROWS)
    source = image + n * image_n
    target = out + n * out_n + places
    for _ in range(channels):
        v_00, v_01, v_10, v_11 = _read(source, corners)
        value = v_00 * w_00 + v_01 * w_01 + v_10 * w_10 + v_11 * w_11
        value = tl.reshape(value.to(out.dtype.element_ty), (ROWS * BLOCK_W,))
        tl.store(target, value, mask=inside)
        source += image_c
        target += out_c


@triton.jit
def tps_warp_backward_largest(
    grad,
    largest,
    grad_n,
    grad_c,
    grad_h,
    grad_w,
    batch,
    channels,
    height,
    width,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The largest finite magnitude in a part of the upstream gradient."""
    program = tl.program_id(0).to(tl.int64)
    found = tl.zeros((ROWS, BLOCK_W), tl.float32)
    for first in range(program * ROWS, batch * channels * height, PARTS * ROWS):
        line = first + tl.arange(0, ROWS)
        plane = line // height
        at = grad + plane // channels * grad_n + plane % channels * grad_c + line % height * grad_h
        for left in range(0, width, BLOCK_W):
            column = left + tl.arange(0, BLOCK_W).to(tl.int64)
            mask = (line < batch * channels * height)[:, None] & (column < width)[None, :]
            pointers = at[:, None] + column[None, :] * grad_w
            size = tl.abs(tl.load(pointers, mask=mask, other=0.0).to(tl.float32))
            found = tl.maximum(found, tl.where(size < float("inf"), size, 0.0))
    tl.store(largest + program, tl.max(tl.max(found, 1), 0))


@triton.jit
def _unit(largest, most):
    """Value of 1 in a sum of whole numbers, where the largest term is ``most``."""
    peak = tl.max(tl.load(largest + tl.arange(0, PARTS)).to(tl.float32), 0)
    return tl.where(peak == 0.0, 1.0, peak).to(tl.float64) / most


@triton.jit
def _give(pointers, value, mask, per_unit, FIXED: tl.constexpr):
    """Add to pixels of the image's gradient."""
    if FIXED:
        finite = tl.abs(value) < float("inf")
        whole = tl.where(finite, value.to(tl.float64) * per_unit, 0.0).to(tl.int64)
        tl.atomic_add(pointers, whole, mask=mask & finite, sem="relaxed")
        raised = tl.full(value.shape, NOT_A_NUMBER, tl.int64)
        tl.atomic_max(pointers, raised, mask=mask & (finite == 0), sem="relaxed")
    else:
        tl.atomic_add(pointers, value, mask=mask, sem="relaxed")


@triton.jit
def _flat(values, ROWS: tl.constexpr, BLOCK_W: tl.constexpr):
    """Numbers of a tile's pixels, columns or rows in float32, one for each pixel."""
    return tl.reshape(tl.broadcast_to(values.to(tl.float32), (ROWS, BLOCK_W)), (ROWS * BLOCK_W,))


@triton.jit
def _store_outer(at, of_x, of_y, x, y):
    """Sums over the tile of ``of (x, y, 1)^T``, six numbers."""
    r = tl.arange(0, 8)[:, None]
    of = tl.where(r < 3, of_x[None, :], of_y[None, :])
    by = tl.where(r % 3 == 0, x[None, :], tl.where(r % 3 == 1, y[None, :], 1.0))
    tl.store(at + tl.arange(0, 8), tl.sum(of * by, 1), mask=tl.arange(0, 8) < 6)


@triton.jit
def _store_points(
    at,
    spline,
    strides,
    n,
    points,
    q_x,
    q_y,
    g_x,
    g_y,
    of_centers_at,
    CENTERS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    APPROXIMATE: tl.constexpr,
):
    """Sums over the tile for weights and centres; returns ``sum_i e_i (q - c_i)`` where there is a map before."""
    centers, weights, _, before = spline
    of_centers, of_weights, _, _ = strides
    pulled_x = tl.zeros(q_x.shape, tl.float32)
    pulled_y = tl.zeros(q_x.shape, tl.float32)
    for first in range(0, points, BLOCK_P):
        i = first + tl.arange(0, BLOCK_P)
        known = i < points
        centre = centers + n * of_centers[0] + i * of_centers[1]
        dx = q_x[None, :] - tl.load(centre, mask=known, other=0.0).to(tl.float32)[:, None]
        dy = q_y[None, :] - tl.load(centre + of_centers[2], mask=known, other=0.0).to(tl.float32)[:, None]
        r2 = dx * dx + dy * dy
        log = _log2(tl.maximum(r2, TINY), APPROXIMATE)
        kernel = r2 * log
        tl.store(at + 2 * i, tl.sum(kernel * g_x[None, :], 1) * (0.5 * LN2), mask=known)
        tl.store(at + 2 * i + 1, tl.sum(kernel * g_y[None, :], 1) * (0.5 * LN2), mask=known)
        if CENTERS or before is not None:
            weight = weights + n * of_weights[0] + i * of_weights[1]
            w_x = tl.load(weight, mask=known, other=0.0).to(tl.float32)[:, None]
            w_y = tl.load(weight + of_weights[2], mask=known, other=0.0).to(tl.float32)[:, None]
            e = (log * LN2 + 1.0) * (w_x * g_x[None, :] + w_y * g_y[None, :])
            if CENTERS:
                tl.store(at + of_centers_at + 2 * i, -tl.sum(e * dx, 1), mask=known)
                tl.store(at + of_centers_at + 2 * i + 1, -tl.sum(e * dy, 1), mask=known)
            if before is not None:
                pulled_x += tl.sum(e * dx, 0)
                pulled_y += tl.sum(e * dy, 0)
    return pulled_x, pulled_y


@triton.jit
def tps_warp_backward_map(
    grad,
    image,
    centers,
    weights,
    affine,
    before,
    largest,
    partials,
    of_image,
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
    grad_n,
    grad_c,
    grad_h,
    grad_w,
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
    to_n,
    to_c,
    to_h,
    to_w,
    values,
    of_centers_at,
    most,
    BLOCK_W: tl.constexpr,
    ROWS: tl.constexpr,
    ZEROS: tl.constexpr,
    DOUBLE: tl.constexpr,
    BASE_BITS: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    CENTERS: tl.constexpr,
):
    """A tile's sums for the spline (where there are ``partials``) and shares of the image's gradient."""
    program = tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    column, row = _pixels(program % tiles, tiles_x, BLOCK_W, ROWS)
    x = _centre(column, width, span_x, DOUBLE)
    y = _centre(row, height, span_y, DOUBLE)
    spline = (centers, weights, affine, before)
    strides = (
        (centers_n, centers_i, centers_j),
        (weights_n, weights_i, weights_j),
        (affine_n, affine_i, affine_j),
        (before_n, before_i, before_j),
    )
    q_x, q_y, move_x, move_y = _displaced(spline, strides, n, points, x, y, DOUBLE, APPROXIMATE)
    base_x = (times_x, plus_x, over_x)
    base_y = (times_y, plus_y, over_y)
    along_x = _neighbours(column, base_x, move_x * pixels_x, image_width, ZEROS, BASE_BITS)
    along_y = _neighbours(row, base_y, move_y * pixels_y, image_height, ZEROS, BASE_BITS)
    corners = _corners(along_x, along_y, image_h, image_w)
    if of_image is not None:
        targets = _corners(along_x, along_y, to_h, to_w)
        shares = _weights(along_x, along_y)
        per_unit = 1.0
        if largest is not None:
            per_unit = 1.0 / _unit(largest, most)
    inside = (row < height) & (column < width)
    places, mask = _places(program % tiles, tiles_x, height, width, grad_h, grad_w, BLOCK_W, ROWS)
    upstream = grad + n * grad_n + places
    source = image + n * image_n
    target = of_image
    if of_image is not None:
        target += n * to_n
    across = tl.zeros((ROWS, BLOCK_W), tl.float32)
    down = tl.zeros((ROWS, BLOCK_W), tl.float32)
    for _ in range(channels):
        g = tl.load(upstream, mask=mask, other=0.0).to(tl.float32)
        g = tl.reshape(g, (ROWS, BLOCK_W))
        if partials is not None:
            v_00, v_01, v_10, v_11 = _read(source, corners)
            upper = v_10 * along_x[5] - v_00 * along_x[4]
            lower = v_11 * along_x[5] - v_01 * along_x[4]
            left = v_01 * along_y[5] - v_00 * along_y[4]
            right = v_11 * along_y[5] - v_10 * along_y[4]
            across += g * (upper * along_y[2] + lower * along_y[3])
            down += g * (left * along_x[2] + right * along_x[3])
        if of_image is not None:
            for corner in tl.static_range(4):
                _give(target + targets[corner], g * shares[corner], inside, per_unit, largest is not None)
            target += to_c
        upstream += grad_c
        source += image_c
    if partials is not None:
        g_x = _flat(tl.where(inside, across * pixels_x, 0.0), ROWS, BLOCK_W)
        g_y = _flat(tl.where(inside, down * pixels_y, 0.0), ROWS, BLOCK_W)
        q_x = _flat(q_x, ROWS, BLOCK_W)
        q_y = _flat(q_y, ROWS, BLOCK_W)
        at = partials + program.to(tl.int64) * values
        pulled_x, pulled_y = _store_points(
            at, spline, strides, n, points, q_x, q_y, g_x, g_y, of_centers_at, CENTERS, BLOCK_P, APPROXIMATE
        )
        _store_outer(at + 2 * points, g_x, g_y, q_x, q_y)
        if before is not None:
            xx, xy, _, yx, yy, _ = _affine_map(affine + n * affine_n, affine_i, affine_j, False)
            pulled_x += xx * g_x + yx * g_y
            pulled_y += xy * g_x + yy * g_y
            p_x = _flat(x, ROWS, BLOCK_W)
            p_y = _flat(y, ROWS, BLOCK_W)
            _store_outer(at + 2 * points + 6, pulled_x, pulled_y, p_x, p_y)


@triton.jit
def _store_part(result, offset, total, v, first, count):
    """Values ``first`` to ``first + count`` of the totals, where their gradient is asked for."""
    if result is not None:
        mask = (v >= first) & (v < first + count)
        tl.store(result + offset + (v - first), total.to(result.dtype.element_ty), mask=mask)


@triton.jit
def tps_warp_backward_finish(
    partials,
    largest,
    sums,
    of_image,
    of_centers,
    of_weights,
    of_affine,
    of_before,
    batch,
    tiles,
    points,
    values,
    values_of_image,
    blocks,
    programs_of_sums,
    pixels,
    most,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    TILE: tl.constexpr,
):
    """All tiles together, in float64: the spline's gradients. Further programs convert the image's gradient.

    Programs come for each image and block of its values, then for each block of centres that the batch shares.
    """
    program = tl.program_id(0).to(tl.int64)
    if partials is not None and program < programs_of_sums:
        own = program < batch * blocks
        n = tl.where(own, program // blocks, 0)
        block = tl.where(own, program % blocks, program - batch * blocks)
        v = tl.where(own, 0, values_of_image) + block * BLOCK_V + tl.arange(0, BLOCK_V)
        v_end = tl.where(own, values_of_image, values)
        begin = n * tiles
        end = tl.where(own, begin + tiles, batch * tiles)
        total = tl.zeros((BLOCK_V,), tl.float64)
        for t in range(begin, end, BLOCK_T):
            rows = t + tl.arange(0, BLOCK_T)
            mask = (rows < end)[:, None] & (v < v_end)[None, :]
            pointers = partials + rows[:, None] * values + v[None, :]
            total += tl.sum(tl.load(pointers, mask=mask, other=0.0).to(tl.float64), 0)
        v = tl.where(v < v_end, v, values)
        _store_part(of_weights, n * 2 * points, total, v, 0, 2 * points)
        _store_part(of_affine, n * 6, total, v, 2 * points, 6)
        _store_part(of_before, n * 6, total, v, 2 * points + 6, 6)
        _store_part(of_centers, n * 2 * points, total, v, values - 2 * points, 2 * points)
    if sums is not None and program >= programs_of_sums:
        i = (program - programs_of_sums) * TILE + tl.arange(0, TILE)
        if largest is not None:
            found = tl.load(sums + i, mask=i < pixels, other=0).to(tl.int64)
            value = found.to(tl.float64) * _unit(largest, most)
            value = tl.where(found >= NOT_A_NUMBER // 2, float("nan"), value).to(tl.float32)
        else:
            value = tl.load(sums + i, mask=i < pixels, other=0.0).to(tl.float32)
        tl.store(of_image + i, value.to(of_image.dtype.element_ty), mask=i < pixels)


def tps_warp(
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    size: Sequence[int],
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """``(N, C, H', W')`` in the image's dtype; channels_last for a channels_last image."""
    shape = (image.shape[0], image.shape[1], *size)
    out = torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=memory_format_of(image))
    plan = _forward_plan(
        *_key(image, centers, weights, affine, before, out), padding_mode, align_corners, overrides()
    )
    plan(image, centers, weights, affine, before, out)
    return out


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
        *_key(image, centers, weights, affine, before, grad),
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
    image: Tensor, centers: Tensor, weights: Tensor, affine: Tensor, before: Tensor | None, maps: Tensor
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
        maps.shape[2:],
        maps.stride(),
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
        block_w = columns(size[1], self.entry["TILE"])
        rows = min(max(self.entry["TILE"] // block_w, 1), triton.next_power_of_2(size[0]))
        tiles_x = -(-size[1] // block_w)
        self.tiles = tiles_x * -(-size[0] // rows)
        self.programs = batch * self.tiles
        self.options = {"num_warps": self.entry["num_warps"]}
        inset = 1 if align_corners else 0
        bases = [_base(n, m, align_corners) for n, m in zip(size, source, strict=True)]
        largest = max(a * n + b + c for (a, b, c), n in zip(bases, size, strict=True))
        resized = tuple(size) != tuple(source)
        self.constants = {
            "BLOCK_W": block_w,
            "ROWS": rows,
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
            tiles_x,
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
    mapped = Launch(
        tps_warp_backward_map,
        (warp.programs,),
        (*warp.numbers, *sum_strides, values, values - 2 * points, most),
        {**warp.constants, "BLOCK_P": block_p, "CENTERS": need_centers},
        warp.options,
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
        {"num_warps": entry["num_warps"]},
    )
    largest = None
    if ordered:
        block_w = min(triton.next_power_of_2(size[1]), 256)
        largest = Launch(
            tps_warp_backward_largest,
            (PARTS.value,),
            (*maps_stride, batch, channels, *size),
            {"BLOCK_W": block_w, "ROWS": 1024 // block_w},
            {"num_warps": 4},
        )
    return _Backward((warp.programs, values), largest, mapped, finish)
