"""Gradients of the thin-plate spline warp; see the reference of tps_warp.

A program recomputes the positions of its tile. Control points then come in blocks ``[points, pixels]``, whose sums over
the tile a last kernel adds in float64. Only the image's own gradient needs atomics: in float32, or, where
deterministic algorithms are asked for, as whole multiples of a unit, whose sums have no order. The unit depends on the
largest upstream gradient, which :func:`tps_warp_backward_largest` finds, and which runs in no other case.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import summed_parts
from .warp_positions import (
    LN2,
    TINY,
    affine_map,
    corner_offsets,
    corner_weights,
    displaced,
    flat_pixels,
    neighbours,
    pixel_centre,
    plate_log2,
    read_corners,
    tile_pixels,
)

#: Sums of whole numbers stay below a quarter of this; a NaN raises its pixel to it.
NOT_A_NUMBER = tl.constexpr(2**62)
#: Largest gradients of parts of the batch.
PARTS = tl.constexpr(256)


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
def _give_corners(target, targets, g, shares, mask, per_unit, FIXED: tl.constexpr):
    """Add a channel's shares to the four neighbours."""
    for corner in tl.static_range(4):
        _give(target + targets[corner], g * shares[corner], mask, per_unit, FIXED)


@triton.jit
def _two_channels(at, c, channels, stride_c, mask, ROWS: tl.constexpr, BLOCK_W: tl.constexpr):
    """Channels ``c`` and ``c + 1`` of the upstream gradient; ``at`` is flat and of channel 0.

    By two, because a thread has only 8 bytes of a tile in 16 bits.
    """
    both = c + tl.arange(0, 2)
    pointers = at[None, :] + both.to(tl.int64)[:, None] * stride_c
    g = tl.load(pointers, mask=(both < channels)[:, None] & mask[None, :], other=0.0).to(tl.float32)
    return tl.split(tl.permute(tl.reshape(g, (2, ROWS, BLOCK_W)), (1, 2, 0)))


@triton.jit
def _slopes(source, corners, along_x, along_y):
    """A channel's slopes along x and y, bilinear, at each position."""
    v_00, v_01, v_10, v_11 = read_corners(source, corners)
    upper = v_10 * along_x[5] - v_00 * along_x[4]
    lower = v_11 * along_x[5] - v_01 * along_x[4]
    left = v_01 * along_y[5] - v_00 * along_y[4]
    right = v_11 * along_y[5] - v_10 * along_y[4]
    return upper * along_y[2] + lower * along_y[3], left * along_x[2] + right * along_x[3]


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
        log = plate_log2(tl.maximum(r2, TINY), APPROXIMATE)
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
    column, row = tile_pixels(program % tiles, tiles_x, BLOCK_W, ROWS)
    x = pixel_centre(column, width, span_x, DOUBLE)
    y = pixel_centre(row, height, span_y, DOUBLE)
    spline = (centers, weights, affine, before)
    strides = (
        (centers_n, centers_i, centers_j),
        (weights_n, weights_i, weights_j),
        (affine_n, affine_i, affine_j),
        (before_n, before_i, before_j),
    )
    q_x, q_y, move_x, move_y = displaced(spline, strides, n, points, x, y, DOUBLE, APPROXIMATE)
    base_x = (times_x, plus_x, over_x)
    base_y = (times_y, plus_y, over_y)
    along_x = neighbours(column, base_x, move_x * pixels_x, image_width, ZEROS, BASE_BITS)
    along_y = neighbours(row, base_y, move_y * pixels_y, image_height, ZEROS, BASE_BITS)
    inside = (row < height) & (column < width)
    places, mask = flat_pixels(program % tiles, tiles_x, height, width, grad_h, grad_w, BLOCK_W, ROWS)
    upstream = grad + n * grad_n + places
    # the upstream gradient is read once for each of the two results: together they would take too many registers
    if of_image is not None:
        per_unit = 1.0
        if largest is not None:
            per_unit = 1.0 / _unit(largest, most)
        shares = corner_weights(along_x, along_y)
        targets = corner_offsets(along_x, along_y, to_h, to_w)
        target = of_image + n * to_n
        for c in range(0, channels, 2):
            g, next_g = _two_channels(upstream, c, channels, grad_c, mask, ROWS, BLOCK_W)
            _give_corners(target, targets, g, shares, inside, per_unit, largest is not None)
            if c + 1 < channels:
                _give_corners(target + to_c, targets, next_g, shares, inside, per_unit, largest is not None)
            target += 2 * to_c
    if partials is not None:
        across = tl.zeros((ROWS, BLOCK_W), tl.float32)
        down = tl.zeros((ROWS, BLOCK_W), tl.float32)
        corners = corner_offsets(along_x, along_y, image_h, image_w)
        source = image + n * image_n
        for c in range(0, channels, 2):
            g, next_g = _two_channels(upstream, c, channels, grad_c, mask, ROWS, BLOCK_W)
            slope_x, slope_y = _slopes(source, corners, along_x, along_y)
            across += g * slope_x
            down += g * slope_y
            if c + 1 < channels:
                slope_x, slope_y = _slopes(source + image_c, corners, along_x, along_y)
                across += next_g * slope_x
                down += next_g * slope_y
            source += 2 * image_c
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
            xx, xy, _, yx, yy, _ = affine_map(affine + n * affine_n, affine_i, affine_j, False)
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
        v = tl.where(v < tl.where(own, values_of_image, values), v, values)
        total = summed_parts(partials, n, tl.where(own, tiles, batch * tiles), values, v, BLOCK_T)
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
