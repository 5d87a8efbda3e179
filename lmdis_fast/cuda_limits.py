"""What the compiled CUDA kernels cannot take, by the sizes of a call; csrc/cuda/<room>.cuh says the same (``refusal``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: The most channels (for Gaussians: landmarks) that fit into a block's shared memory.
CHANNELS = {
    "heatmap_moments": 512,  # of a softmax across them
    "landmark_pool": 256,
    "gaussian_pool": 128,
    "render_gaussians": 128,
    "splat_landmarks": 128,
}
#: The most widths that are a kernel's arguments.
WIDTHS = 16
#: The most blocks along a grid's second and third axis, which go through maps.
MAPS = 65535

#: Which argument of an operator, and of its backward pass, has the channels or landmarks as its dimension 1.
_CHANNELS_OF = {
    "heatmap_moments": (0, 3),
    "landmark_pool": (1, 3),
    "gaussian_pool": (1, 2),
    "render_gaussians": (0, 1),
    "splat_landmarks": (0, 1),
}
#: The same for the features, with their dimension, and for the widths.
_FEATURES_OF = {"landmark_pool": (0, 2, 1), "gaussian_pool": (0, 1, 1), "splat_landmarks": (1, 2, 2)}
_WIDTHS_OF = {"render_gaussians": (2, 2), "splat_landmarks": (3, 3)}
_OVER_OF_MOMENTS = (1, 7)


def beyond(op: str, args: Sequence[Any]) -> str | None:
    """Why a call is too large, or None. ``op`` and its ``args`` are those of a registered operator."""
    name = op.removesuffix("_backward")
    way = int(name != op)
    if name not in _CHANNELS_OF:
        return None
    count, most = args[_CHANNELS_OF[name][way]].shape[1], CHANNELS[name]
    if name == "heatmap_moments" and args[_OVER_OF_MOMENTS[way]] != "channels":
        most = MAPS
    if count > most:
        points = "landmarks" if "gauss" in name or "splat" in name else "channels"
        return f"takes at most {most} {points}, got {count}"
    if name in _FEATURES_OF:
        *places, dimension = _FEATURES_OF[name]
        features = args[places[way]].shape[dimension]
        if features > MAPS:
            return f"takes at most {MAPS} features, got {features}"
    if name in _WIDTHS_OF:
        widths = len(args[_WIDTHS_OF[name][way]])
        if widths > WIDTHS:
            return f"takes at most {WIDTHS} widths, got {widths}"
    return None
