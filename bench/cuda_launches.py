"""How the CUDA kernels cut their maps, as csrc/cuda does it: what a launch table says for Triton's.

The same arithmetic as ``tiling_of`` in csrc/cuda/tile.cuh, ``pool_block`` in pool_block.cuh and their callers; the tests
hold its grids against those that the kernels are launched with.
"""

from __future__ import annotations

from dataclasses import replace

from .kernel_model import Kernel, Launch, Operator, Size

THREADS = 256
TILE_BYTES = 46 * 1024
FLOAT = 4
MOMENTS_ROWS, POOL_STEPS = 16, 8
WINDOW, LEVEL = 12, 10
"""Numbers of a landmark along both axes: of gaussian_pool's, and of a level's."""

#: Triton's kernels and what does their work in CUDA, where the name is another.
NAMES = {
    "gaussian_pool_finish": "sum_of_tiles",
    "gaussian_pool_backward_finish": "sum_of_tiles",
    "render_gaussians_maps": "gaussian_splat_maps",
    "render_gaussians_backward_partials": "gaussian_splat_backward_partials",
    "render_gaussians_backward_finish": "sum_of_tiles",
    "splat_landmarks_maps": "gaussian_splat_maps",
    "splat_landmarks_backward_partials": "gaussian_splat_backward_partials",
    "splat_landmarks_backward_finish": "sum_of_tiles",
}
BLOCKS = {"heatmap_moments_finish": 128, "heatmap_moments_marginals": 128, "tps_warp_sample": 128}
"""Threads of a block, where they are not 256."""


def tiling(height: int, width: int, pixels: int, rows_wanted: int) -> tuple[int, int, int]:
    """Columns and rows that threads take at a time, and steps."""
    best, most = (pixels, 1), 0.0
    first = -(-width // pixels)
    for slices in range(first, first + 4):
        share = (width + slices - 1) // slices
        columns = width if slices == 1 else (share + 7) // 8 * 8
        if columns > pixels or columns * (slices - 1) >= width:
            continue
        rows = min(pixels // columns, height, 32)
        if rows * width // slices > most:
            best, most = (columns, rows), rows * width // slices
    columns, rows = best
    return columns, rows, min(max(rows_wanted // rows, 1), -(-height // rows))


def pool_block(channels: int, features: int, of_pixel: int, of_channel: int, coefficients: bool) -> Launch:
    """Pixels of a step, features at a time, and bytes of shared memory."""
    pixels = 64 if channels <= 64 else 32 if channels <= 128 else 16
    while True:
        block = min(features, 64)
        while True:
            numbers = channels * (pixels + 4 + of_pixel * pixels + of_channel)
            numbers += max(block * (pixels + 4), 4 * THREADS) + (block * channels if coefficients else 0)
            fits = numbers * FLOAT <= TILE_BYTES and -(-channels // 4) * -(-block // 4) <= THREADS
            if fits or (pixels == 8 and block <= 4):
                return {"pixels": pixels, "BLOCK_S": block, "shared": max(numbers, 20 * THREADS) * FLOAT}
            if block <= 4:
                break
            block = (block + 1) // 2
        pixels //= 2


def launch_of(kernel: str, size: Size) -> Launch:
    """TILE, STEPS, BLOCK_S and num_warps as in a launch table, a tile's columns, and bytes of shared memory asked for."""
    name = NAMES.get(kernel, kernel)
    entry = {"num_warps": BLOCKS.get(name, THREADS) // 32, "shared": 0}
    channels = size.channels
    if kernel.startswith("tps_warp"):
        # tiles are runs of an image's pixels, 2 a thread
        return {**entry, "TILE": 2 * BLOCKS.get(name, THREADS), "STEPS": 1}
    if kernel.startswith("heatmap_moments"):
        columns, rows, steps = tiling(size.side, size.side, THREADS, MOMENTS_ROWS)
        if kernel == "heatmap_moments_channels":
            entry["shared"] = max((12 if channels <= 12 else 31) * (THREADS + 4), 24 * THREADS) * FLOAT
        if kernel == "heatmap_moments_backward_channels":
            entry["shared"] = channels * (THREADS + 4 + 8) * FLOAT
        return {**entry, "TILE": columns * rows, "STEPS": steps, "columns": columns}
    backward = "backward" in kernel
    if kernel.startswith("landmark_pool"):
        block = pool_block(channels, size.features, 0, 3 if backward else 2, backward)
    elif kernel.startswith("gaussian_pool"):
        block = pool_block(size.landmarks, size.features, 2, WINDOW, backward)
    else:
        features = 1 if kernel.startswith("render") else size.features
        block = pool_block(channels, features, 3 if backward else 2, LEVEL + (4 if backward else 0), True)
    columns, rows, _ = tiling(size.side, size.side, block["pixels"], 1)
    steps = min(POOL_STEPS, block["pixels"] // rows, -(-size.side // rows))
    return {
        **entry,
        "columns": columns,
        "TILE": columns * rows,
        "STEPS": steps,
        "BLOCK_S": block["BLOCK_S"],
        "shared": block["shared"],
    }


def on_cuda(operator: Operator) -> Operator:
    """The operator with CUDA's kernels: the same work, cut otherwise."""
    return replace(operator, kernels=tuple(map(_kernel, operator.kernels)))


def _kernel(kernel: Kernel) -> Kernel:
    name = NAMES.get(kernel.name, kernel.name)
    if name == "tps_warp_backward_finish" and kernel.partials is None:
        name = "tps_warp_backward_convert"  # the image's gradient; the spline's has sums of tiles
    return replace(
        kernel,
        name=name,
        partials=kernel.partials or kernel.name,
        backend="cuda",
        threads=BLOCKS.get(name, THREADS),
    )
