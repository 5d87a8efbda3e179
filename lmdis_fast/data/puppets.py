"""Puppets: drawn faces with varied identity, pose, expression, light and background, and exact landmarks.

A head is an ellipsoid seen in parallel projection. Each pixel is followed to the surface, where eyes, brows,
mouth, beard and hairline are painted in the head's own coordinates and lit by a lamp; nose, ears, hair, neck
and shoulders are simple bodies in front of it or behind. The same equations project the landmarks, so these
are exact. Edges are one pixel wide ramps.

Frames: picture points are (x, y) in [-1, 1], y down. The head's own coordinates are x to the picture's
right, y down and z towards the viewer when the head looks straight at the viewer; (u, v) are x and y over
the semi-axes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lmdis_fast.data.order import sample_rng
from lmdis_fast.data.puppet_canvas import HeadPlane, column, lay_over, tint
from lmdis_fast.data.puppet_face import paint_back_hair, paint_ears, paint_head, paint_nose
from lmdis_fast.data.puppet_traits import Array, Traits, draw_traits, landmark_points, to_picture

VERSION = 4
"""Raise it when any pixel or landmark changes."""
TRAIN_COUNT = 8000
TEST_COUNT = 500
FIRST_TEST_INDEX = 1 << 32
"""Test puppets are counted from here, so that no number of training puppets reaches them."""

LANDMARK_NAMES = (
    "eye_left",
    "eye_right",
    "nose",
    "mouth_left",
    "mouth_right",
    "brow_left",
    "brow_right",
    "chin",
    "ear_left",
    "ear_right",
)
"""Left and right are those of the picture."""

NOISE_STREAM = 5
_CHUNK_PIXELS = 1 << 15


def landmarks(indices: npt.ArrayLike, seed: int = 0) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Landmarks without drawing: (points (n, 10, 2) in [-1, 1], visible (n, 10)); see ``generate``."""
    return landmark_points(draw_traits(np.atleast_1d(np.asarray(indices, np.int64)), seed))


def generate(
    indices: npt.ArrayLike, size: int, seed: int = 0
) -> tuple[npt.NDArray[np.uint8], Array, npt.NDArray[np.bool_]]:
    """Draw puppets.

    Args:
        indices: (n,) numbers of the puppets, not negative; a puppet depends on (seed, index) alone.
        size: S, side of the pictures in pixels; a puppet is the same at every size.
        seed: of the collection.

    Returns:
        (images (n, S, S, 3) uint8, points (n, 10, 2) float32 (x, y) in [-1, 1] in the order of
        ``LANDMARK_NAMES``, visible (n, 10) bool: not hidden by the head or by hair, and inside the picture).
    """
    if size < 8:
        raise ValueError(f"puppets: size must be at least 8, got {size}")
    index = np.atleast_1d(np.asarray(indices, np.int64))
    images = np.empty((len(index), size, size, 3), np.uint8)
    step = max(1, _CHUNK_PIXELS // (size * size))
    for start in range(0, len(index), step):
        images[start : start + step] = _draw(index[start : start + step], size, seed)
    points, visible = landmarks(index, seed)
    return images, points, visible


def _draw(index: npt.NDArray[np.int64], size: int, seed: int) -> npt.NDArray[np.uint8]:
    t = draw_traits(index, seed)
    axis = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    x, y = axis[None, None, :], axis[None, :, None]
    picture = _background(t, x, y)
    plane = HeadPlane(t, x, y, size)
    _body(picture, t, x, y, size)
    paint_back_hair(picture, t, plane)
    paint_ears(picture, t, plane, front=False)
    paint_head(picture, t, plane)
    paint_ears(picture, t, plane, front=True)
    paint_nose(picture, t, plane)
    picture *= 1 + t["warmth"][:, None, None, None] * np.array([1, 0, -1], np.float32)[:, None, None]
    for image, i, strength in zip(picture, index.tolist(), t["noise"].tolist(), strict=True):
        rng = sample_rng(seed, 0, i, size, NOISE_STREAM)
        image += np.float32(strength) * rng.standard_normal(image.shape[1:], np.float32)
    picture *= 255
    np.clip(picture, 0, 255, out=picture)
    return np.ascontiguousarray(picture.astype(np.uint8).transpose(0, 2, 3, 1))


def _background(t: Traits, x: Array, y: Array) -> Array:
    slope, stripes = np.deg2rad(t["slope"]), np.deg2rad(t["stripe_angle"])
    mix = np.clip(0.5 + 0.5 * (column(np.cos(slope)) * x + column(np.sin(slope)) * y), 0, 1)[:, None]
    picture = tint(t["wall_1"]) * (1 - mix) + tint(t["wall_2"]) * mix
    wave = np.sin(
        column(t["stripe_count"]) * 3.14 * (column(np.cos(stripes)) * x + column(np.sin(stripes)) * y)
        + column(t["stripe_phase"])
    )
    picture *= 1 + column(np.maximum(t["stripe_strength"], 0))[:, None] * wave[:, None]
    for number in range(3):
        blob = t["blobs"][:, number]
        distance = np.sqrt((x - column(blob[:, 0])) ** 2 + (y - column(blob[:, 1])) ** 2)
        edge = np.clip((column(blob[:, 2]) - distance) * 12, 0, 1)
        lay_over(picture, 0.6 * edge, tint(t[f"blob_{number + 1}"]))
    return np.asarray(picture, np.float32)


def _body(picture: Array, t: Traits, x: Array, y: Array, size: int) -> None:
    scale = t["scale"]
    throat = to_picture(t, np.stack([0 * scale, 0.55 * t["height"]], 1))
    chest_x = t["centre_x"] - 0.25 * scale * np.sin(t["roll"])
    chest_y = t["centre_y"] + 1.95 * scale * t["height"]
    down = np.clip((y - column(throat[:, 1])) / column(chest_y - throat[:, 1]), 0, 1)
    middle = column(throat[:, 0]) + down * column(chest_x - throat[:, 0])
    neck = column(0.50 * scale * t["width"]) * (1 + 0.25 * down * down) - np.abs(x - middle)
    side = (x - middle) / column(0.5 * scale * t["width"])
    light = column(0.62 * (t["ambient"] + 0.7 * t["lamp"])) * (
        1 + 0.25 * column(t["lamp_x"]) * np.clip(side, -1, 1)
    )
    below = np.clip((y - column(throat[:, 1])) * (size / 2) + 0.5, 0, 1)
    lay_over(picture, np.clip(neck * (size / 2) + 0.5, 0, 1) * below, tint(t["skin"]) * light[:, None])
    across = (x - column(chest_x)) / column(1.75 * scale * t["width"])
    up = (y - column(chest_y)) / column(0.62 * scale * t["height"])
    reach = np.sqrt(across * across + up * up)
    collar = np.sqrt((across / 0.34) ** 2 + ((up + 1.02) / 0.24) ** 2)
    cloth = np.clip((1 - reach) * column(0.62 * scale * t["height"]) * (size / 2) + 0.5, 0, 1)
    cloth = np.maximum(cloth, np.clip(up * size / 4, 0, 1) * (np.abs(across) < 1))
    cloth *= np.clip((collar - 1) * 0.12 * column(scale) * (size / 2) + 0.5, 0, 1)
    pattern = np.where(np.sin(14 * across) > 0, 1 + column(t["shirt_stripes"]), 1)
    light = column(t["ambient"] + 0.55 * t["lamp"]) * (
        1 + 0.25 * column(t["lamp_x"]) * np.clip(across, -1, 1)
    )
    lay_over(
        picture,
        cloth,
        tint(t["shirt"]) * (pattern * light * np.clip(1.15 - 0.25 * reach, 0.6, 1.1))[:, None],
    )
