"""What each GPU kernel has to do, by counting: one entry a kernel, a list for each room.

Bytes are those that pass between memory and the chip: what a tile reads twice within its own program is in a cache.
``least`` is the operator's inputs read once and its results written once; partial sums between two kernels count for
``moved`` alone.
"""

from __future__ import annotations

from collections.abc import Callable

from .kernel_model import Cost, Kernel, Launch, Operator, Size

FLOAT = 4
MOMENTS = 7
"""Values of a tile in heatmap_moments."""


def _moments(per_element: float, exps: float) -> Callable[[Size, Launch], Cost]:
    """Logits read once, moments of tiles written."""

    def cost(size: Size, launch: Launch) -> Cost:
        elements = size.pixels * size.channels
        partials = size.tiles(launch) * MOMENTS * size.channels * FLOAT
        read = size.maps(size.channels)
        return Cost(read, read + partials, per_element * elements, exps * elements + size.pixels)

    return cost


def _moments_finish(size: Size, launch: Launch) -> Cost:
    partials = size.tiles(launch) * MOMENTS * size.channels * FLOAT
    written = size.batch * size.landmarks * 5 * FLOAT
    return Cost(written, partials + written, partials)


def _axes(size: Size, launch: Launch) -> Cost:
    """Sums along both axes, for each band and column of tiles."""
    tile = launch.get("TILE", 512) * launch.get("STEPS", 1)
    sums = size.batch * size.channels * 2 * size.side * max(1, size.side * size.side // tile) ** 0.5
    read = size.maps(size.channels)
    return Cost(read, read + sums * FLOAT, 2.0 * size.pixels * size.channels)


def _marginals(size: Size, launch: Launch) -> Cost:
    values = size.batch * size.landmarks * 2 * size.side
    written = size.batch * size.landmarks * 5 * FLOAT
    return Cost(written, values * FLOAT + written, 8.0 * values, values)


def _moments_backward(size: Size, launch: Launch) -> Cost:
    elements = size.pixels * size.channels
    both = 2 * size.maps(size.channels)
    return Cost(both, both, 20.0 * elements, elements + size.pixels)


def _moments_backward_written(size: Size, launch: Launch) -> Cost:
    """The gradient from sums along the axes: the maps are not read again."""
    written = size.maps(size.channels)
    return Cost(written, written, 4.0 * size.pixels * size.channels)


def _moments_again(size: Size, launch: Launch) -> Cost:
    """The forward pass's partial sums, taken again: nothing of it is least."""
    cost = _moments(10, 2)(size, launch)
    return Cost(0.0, cost.moved, cost.madds, cost.special)


HEATMAP_MOMENTS = (
    Operator(
        "heatmap_moments",
        "heatmap_moments",
        "forward",
        (
            Kernel("heatmap_moments_channels", _moments(8, 1)),
            Kernel("heatmap_moments_finish", _moments_finish, "heatmap_moments_channels"),
        ),
        ("landmarks",),
    ),
    Operator(
        "heatmap_moments",
        "heatmap_moments",
        "backward",
        (Kernel("heatmap_moments_backward_channels", _moments_backward),),
        ("landmarks",),
    ),
    Operator(
        "heatmap_moments",
        "heatmap_moments over pixels",
        "forward",
        (
            Kernel("heatmap_moments_pixels", _moments(10, 2)),
            Kernel("heatmap_moments_finish", _moments_finish, "heatmap_moments_pixels"),
        ),
        ("landmarks",),
    ),
    Operator(
        "heatmap_moments",
        "heatmap_moments over pixels",
        "backward",
        (
            Kernel("heatmap_moments_pixels", _moments_again),
            Kernel("heatmap_moments_backward_pixels", _moments_backward),
        ),
        ("landmarks",),
    ),
    Operator(
        "heatmap_moments",
        "heatmap_moments over marginals",
        "forward",
        (Kernel("heatmap_moments_axes", _axes), Kernel("heatmap_moments_marginals", _marginals)),
        ("landmarks",),
    ),
    Operator(
        "heatmap_moments",
        "heatmap_moments over marginals",
        "backward",
        (
            Kernel("heatmap_moments_axes", _axes),
            Kernel("heatmap_moments_backward_marginals", _moments_backward_written),
        ),
        ("landmarks",),
    ),
)


def _sample(size: Size, launch: Launch) -> Cost:
    """For each pixel and control point 7 multiply-adds and a logarithm; 5 for each pixel and colour."""
    both = 2 * size.maps(size.colours)
    spline = size.batch * (2 * size.points + 6) * FLOAT
    madds = size.pixels * (7.0 * size.points + 40 + 5 * size.colours)
    return Cost(both + spline, both + spline, madds, size.pixels * size.points)


def _warp_sums(size: Size, launch: Launch) -> float:
    """Bytes of the tiles' sums for weights and affine map."""
    return float(size.tiles(launch) * (2 * size.points + 6) * FLOAT)


def _warp_map(size: Size, launch: Launch) -> Cost:
    """The forward pass's positions again, then the kernels of the sums."""
    read = 2 * size.maps(size.colours) + size.batch * (2 * size.points + 6) * FLOAT
    madds = size.pixels * (16.0 * size.points + 60 + 14 * size.colours)
    return Cost(read, read + _warp_sums(size, launch), madds, 2.0 * size.pixels * size.points)


def _warp_finish(size: Size, launch: Launch) -> Cost:
    written = size.batch * (2 * size.points + 6) * FLOAT
    sums = _warp_sums(size, launch)
    return Cost(written, sums + written, sums / FLOAT)


def _warp_scatter(size: Size, launch: Launch) -> Cost:
    """Zeroes, then each line of the float32 sums in and out of the chip once; the atomics are the L2 cache's."""
    sums = size.pixels * size.colours * FLOAT
    grad = size.maps(size.colours)
    madds = size.pixels * (7.0 * size.points + 40 + 5 * size.colours)
    return Cost(2 * grad, grad + 3 * sums, madds, size.pixels * size.points)


def _warp_convert(size: Size, launch: Launch) -> Cost:
    """Nothing, and no launch, where the image is float32: the sums are the result."""
    sums = size.pixels * size.colours * FLOAT
    return Cost(0.0, 0.0 if size.bytes == FLOAT else sums + size.maps(size.colours))


TPS_WARP = (
    Operator("tps_warp", "tps_warp", "forward", (Kernel("tps_warp_sample", _sample),)),
    Operator(
        "tps_warp",
        "tps_warp",
        "backward",
        (
            Kernel("tps_warp_backward_map", _warp_map),
            Kernel("tps_warp_backward_finish", _warp_finish, "tps_warp_backward_map"),
        ),
    ),
    Operator(
        "tps_warp",
        "tps_warp, image's gradient alone",
        "backward",
        (
            Kernel("tps_warp_backward_map", _warp_scatter),
            Kernel("tps_warp_backward_finish", _warp_convert),
        ),
    ),
)


def _splat(size: Size, launch: Launch) -> Cost:
    """Maps and spread features of all levels written; exponentials along a tile's axes only."""
    pixels = size.pixels * size.levels
    written = size.maps(size.levels * (size.channels + size.features))
    read = size.batch * size.channels * (2 + size.features) * FLOAT
    axes = 2 * launch.get("TILE", 128) ** 0.5
    exps = size.tiles(launch) * launch.get("STEPS", 1) * size.levels * size.landmarks * axes
    madds = pixels * size.channels * (3.0 + size.features)
    return Cost(written + read, written + read, madds, pixels + exps)


def _feature_blocks(size: Size, launch: Launch) -> int:
    """Blocks of features that a program takes one of."""
    return -(-size.features // min(launch.get("BLOCK_S", size.features), size.features))


def _splat_sums(size: Size, launch: Launch) -> float:
    values = 2 * size.landmarks * _feature_blocks(size, launch) + size.channels * size.features
    return float(size.tiles(launch) * size.levels * values * FLOAT)


def _splat_backward(size: Size, launch: Launch) -> Cost:
    """The upstream gradient read once; two products, of the features and of the maps."""
    read = size.maps(size.levels * (size.channels + size.features))
    madds = size.pixels * size.levels * size.channels * (12.0 + 2 * size.features)
    axes = 2 * launch.get("TILE", 64) ** 0.5
    exps = size.tiles(launch) * launch.get("STEPS", 1) * size.levels * size.landmarks * axes
    return Cost(read, read + _splat_sums(size, launch), madds, size.pixels * size.levels + exps)


def _splat_finish(size: Size, launch: Launch) -> Cost:
    written = size.batch * (2 * size.landmarks + size.channels * size.features) * FLOAT
    sums = _splat_sums(size, launch)
    return Cost(written, sums + written, sums / FLOAT)


def _render(size: Size, launch: Launch) -> Cost:
    """Maps of all levels, the background's with them, written."""
    elements = size.pixels * size.levels * size.channels
    written = size.maps(size.levels * size.channels) + size.batch * size.landmarks * 2 * FLOAT
    axes = 2 * launch.get("TILE", 128) ** 0.5
    exps = size.tiles(launch) * launch.get("STEPS", 1) * size.levels * size.landmarks * axes
    return Cost(written, written, 3.0 * elements, size.pixels * size.levels + exps)


def _render_sums(size: Size, launch: Launch) -> float:
    return float(size.tiles(launch) * size.levels * 2 * size.landmarks * FLOAT)


def _render_backward(size: Size, launch: Launch) -> Cost:
    """The upstream gradient read once."""
    cost = _render(size, launch)
    elements = size.pixels * size.levels * size.channels
    return Cost(cost.least, cost.moved + _render_sums(size, launch), 12.0 * elements, cost.special)


def _render_finish(size: Size, launch: Launch) -> Cost:
    written = size.batch * size.landmarks * 2 * FLOAT
    sums = _render_sums(size, launch)
    return Cost(written, sums + written, sums / FLOAT)


GAUSSIAN_SPLAT = (
    Operator(
        "gaussian_splat",
        "render_gaussians",
        "forward",
        (Kernel("render_gaussians_maps", _render),),
        ("landmarks",),
    ),
    Operator(
        "gaussian_splat",
        "render_gaussians",
        "backward",
        (
            Kernel("render_gaussians_backward_partials", _render_backward),
            Kernel("render_gaussians_backward_finish", _render_finish, "render_gaussians_backward_partials"),
        ),
        ("landmarks",),
    ),
    Operator(
        "gaussian_splat",
        "splat_landmarks",
        "forward",
        (Kernel("splat_landmarks_maps", _splat),),
        ("landmarks", "features"),
    ),
    Operator(
        "gaussian_splat",
        "splat_landmarks",
        "backward",
        (
            Kernel("splat_landmarks_backward_partials", _splat_backward),
            Kernel("splat_landmarks_backward_finish", _splat_finish, "splat_landmarks_backward_partials"),
        ),
        ("landmarks", "features"),
    ),
)


def _pool(size: Size, launch: Launch) -> Cost:
    """A product of weights and features; the softmax is taken again for each block of features."""
    logits, features = size.maps(size.channels), size.maps(size.features)
    blocks = _feature_blocks(size, launch)
    madds = size.pixels * size.channels * (size.features + 6.0 * blocks)
    sums = size.tiles(launch) * size.channels * (size.features + 1) * FLOAT
    special = float(size.pixels * (size.channels + 1) * blocks)
    return Cost(logits + features, logits * blocks + features + sums, madds, special)


def _pool_finish(size: Size, launch: Launch) -> Cost:
    sums = size.tiles(launch) * size.channels * (size.features + 1) * FLOAT
    written = size.batch * size.channels * size.features * FLOAT
    return Cost(written, sums + written, sums / FLOAT)


def _pool_backward(size: Size, launch: Launch) -> Cost:
    """Logits and features read, both gradients written; two products."""
    all_maps = 2 * size.maps(size.channels + size.features)
    madds = size.pixels * size.channels * (2.0 * size.features + 12)
    return Cost(all_maps, all_maps, madds, float(size.pixels * (size.channels + 1)))


def _landmark_blocks(size: Size, launch: Launch) -> int:
    """How often gaussian_pool reads the features: once for each block of landmarks."""
    return -(-size.landmarks // min(launch.get("BLOCK_C", size.landmarks), size.landmarks))


def _axis_exps(size: Size, launch: Launch) -> float:
    """Of every program: a softmax along both axes for each landmark."""
    return float(size.tiles(launch) * size.landmarks * 2 * size.side)


def _gaussian_pool(size: Size, launch: Launch) -> Cost:
    """A product of weights and features; no logits."""
    features = size.maps(size.features)
    sums = size.tiles(launch) * size.landmarks * size.features * FLOAT
    madds = size.pixels * size.landmarks * (size.features + 1.0)
    moved = features * _landmark_blocks(size, launch) + sums
    return Cost(features, moved, madds, _axis_exps(size, launch))


def _gaussian_pool_finish(size: Size, launch: Launch) -> Cost:
    sums = size.tiles(launch) * size.landmarks * size.features * FLOAT
    written = size.batch * size.landmarks * size.features * FLOAT
    return Cost(written, sums + written, sums / FLOAT)


def _gaussian_pool_backward(size: Size, launch: Launch) -> Cost:
    """Features read, their gradient written; two products, and three sums a tile and landmark."""
    both = 2 * size.maps(size.features)
    sums = size.tiles(launch) * 3 * size.landmarks * FLOAT
    madds = size.pixels * size.landmarks * (2.0 * size.features + 10)
    return Cost(both, both + sums, madds, _axis_exps(size, launch))


def _gaussian_pool_backward_finish(size: Size, launch: Launch) -> Cost:
    sums = size.tiles(launch) * 3 * size.landmarks * FLOAT
    written = size.batch * size.landmarks * 3 * FLOAT
    return Cost(written, sums + written, sums / FLOAT)


LANDMARK_POOL = (
    Operator(
        "landmark_pool",
        "gaussian_pool",
        "forward",
        (
            Kernel("gaussian_pool_partials", _gaussian_pool),
            Kernel("gaussian_pool_finish", _gaussian_pool_finish, "gaussian_pool_partials"),
        ),
        ("landmarks", "features"),
    ),
    Operator(
        "landmark_pool",
        "gaussian_pool",
        "backward",
        (
            Kernel("gaussian_pool_backward_map", _gaussian_pool_backward),
            Kernel(
                "gaussian_pool_backward_finish",
                _gaussian_pool_backward_finish,
                "gaussian_pool_backward_map",
            ),
        ),
        ("landmarks", "features"),
    ),
    Operator(
        "landmark_pool",
        "landmark_pool",
        "forward",
        (
            Kernel("landmark_pool_partials", _pool),
            Kernel("landmark_pool_finish", _pool_finish, "landmark_pool_partials"),
        ),
        ("landmarks", "features"),
    ),
    Operator(
        "landmark_pool",
        "landmark_pool",
        "backward",
        (Kernel("landmark_pool_backward_map", _pool_backward),),
        ("landmarks", "features"),
    ),
)

OPERATORS = (*HEATMAP_MOMENTS, *LANDMARK_POOL, *GAUSSIAN_SPLAT, *TPS_WARP)
