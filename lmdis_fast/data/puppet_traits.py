"""What a puppet is like and where its landmarks lie; the drawing itself is in ``puppets``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lmdis_fast.data.order import sample_rng

Array = npt.NDArray[Any]
"""float32 throughout."""
Traits = dict[str, Array]
"""Traits of n puppets: (n,) numbers, (n, 3) colours and points, (n, 3, 3) rotations."""

TRAIT_STREAM = 4

# Every trait is uniform in its range. Lengths are fractions of the picture's half side; u and v are
# fractions of the head's half width and half height; angles are in degrees.
_UNIFORM: dict[str, tuple[float, float]] = {
    # pose
    "centre_x": (-0.24, 0.24),
    "centre_y": (-0.18, 0.24),
    "log_scale": (-0.04, 0.30),
    "yaw": (-13.0, 13.0),
    "pitch": (-7.0, 7.0),
    "roll_1": (-15.0, 15.0),
    "roll_2": (-15.0, 15.0),
    # expression
    "gaze_x": (-0.85, 0.85),
    "gaze_y": (-0.6, 0.6),
    "lids": (0.45, 1.0),
    "brow_raise": (-0.02, 0.09),
    "brow_tilt": (-0.35, 0.35),
    "mouth_open": (-0.07, 0.15),
    "smile": (-0.05, 0.11),
    "mouth_stretch": (0.8, 1.2),
    # identity: shape
    "width": (0.35, 0.43),
    "height": (0.46, 0.56),
    "depth": (0.40, 0.50),
    "jaw": (0.05, 0.36),
    "eye_u": (0.37, 0.46),
    "eye_v": (-0.17, -0.03),
    "eye_size": (0.24, 0.30),
    "brow_gap": (0.20, 0.26),
    "brow_length": (0.17, 0.24),
    "brow_thickness": (0.045, 0.08),
    "nose_v": (0.17, 0.27),
    "nose_out": (0.10, 0.22),
    "nose_width": (0.12, 0.19),
    "mouth_v": (0.50, 0.58),
    "mouth_width": (0.32, 0.42),
    "lip": (0.045, 0.085),
    "ear_size": (0.17, 0.25),
    "hairline": (-0.84, -0.58),
    "hair_bend": (0.45, 1.0),
    "parting": (-0.45, 0.45),
    "hair_volume": (1.06, 1.22),
    "hair_kind": (0.0, 1.0),
    "beard": (0.0, 1.0),
    "glasses": (0.0, 1.0),
    # colours
    "skin_tone": (0.0, 1.0),
    "skin_red": (-0.03, 0.05),
    "hair_tone": (0.0, 1.0),
    "hair_light": (0.8, 1.25),
    "lip_red": (0.30, 0.70),
    "iris_tone": (0.0, 1.0),
    # light
    "lamp_x": (-0.8, 0.8),
    "lamp_y": (-0.9, 0.2),
    "ambient": (0.40, 0.66),
    "lamp": (0.42, 0.85),
    "warmth": (-0.10, 0.10),
    "noise": (0.0, 0.016),
    # background
    "slope": (0.0, 360.0),
    "stripe_angle": (0.0, 180.0),
    "stripe_count": (1.5, 9.0),
    "stripe_phase": (0.0, 6.28),
    "stripe_strength": (-0.12, 0.14),
    "shirt_stripes": (-0.25, 0.25),
}
_COLOURS = ("wall_1", "wall_2", "blob_1", "blob_2", "blob_3", "shirt")
_BLOBS = 3

_SKIN = np.array(
    [[0.99, 0.87, 0.78], [0.93, 0.74, 0.60], [0.78, 0.56, 0.40], [0.55, 0.36, 0.25], [0.42, 0.28, 0.21]]
)
_HAIR = np.array(
    [[0.10, 0.08, 0.08], [0.26, 0.16, 0.10], [0.50, 0.28, 0.13], [0.87, 0.70, 0.38], [0.72, 0.71, 0.70]]
)
_IRIS = np.array(
    [[0.20, 0.13, 0.08], [0.33, 0.22, 0.10], [0.30, 0.42, 0.25], [0.27, 0.45, 0.62], [0.40, 0.48, 0.52]]
)


def draw_traits(indices: npt.NDArray[np.int64], seed: int) -> Traits:
    """Traits of the puppets ``indices`` (n,); each depends on (seed, index) alone."""
    names = list(_UNIFORM)
    low, high = np.array(list(_UNIFORM.values())).T
    extra = 3 * len(_COLOURS) + 3 * _BLOBS
    drawn = np.empty((len(indices), len(names) + extra))
    for row, index in zip(drawn, indices.tolist(), strict=True):
        sample_rng(seed, 0, index, 0, TRAIT_STREAM).random(out=row)
    values = (low + (high - low) * drawn[:, : len(names)]).astype(np.float32)
    traits: Traits = {name: values[:, column] for column, name in enumerate(names)}
    rest = drawn[:, len(names) :].astype(np.float32)
    for number, name in enumerate(_COLOURS):
        traits[name] = _colour(rest[:, 3 * number : 3 * number + 3])
    # Both ends of the wall's gradient are of one family, so that backgrounds look lit, not painted.
    traits["wall_2"] = 0.45 * traits["wall_1"] + 0.55 * traits["wall_2"]
    blobs = rest[:, 3 * len(_COLOURS) :].reshape(-1, _BLOBS, 3)
    traits["blobs"] = blobs * np.array([2.4, 2.4, 0.6], np.float32) + np.array([-1.2, -1.2, 0.15], np.float32)
    _finish(traits)
    return traits


def _finish(t: Traits) -> None:
    """Derived traits: colours from tones, rotation, light in the head's frame."""
    t["skin"] = _palette(_SKIN, t["skin_tone"]) + t["skin_red"][:, None] * np.array(
        [1.0, -0.3, -0.5], np.float32
    )
    t["hair"] = np.clip(_palette(_HAIR, t["hair_tone"]) * t["hair_light"][:, None], 0, 1)
    t["iris"] = _palette(_IRIS, t["iris_tone"])
    t["lips"] = t["skin"] * (1 - t["lip_red"][:, None]) + t["lip_red"][:, None] * np.array(
        [0.72, 0.20, 0.24], np.float32
    )
    t["scale"] = np.exp(t["log_scale"])
    t["roll"] = np.deg2rad(t["roll_1"] + t["roll_2"])
    yaw, pitch = np.deg2rad(t["yaw"]), np.deg2rad(t["pitch"])
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    turn = np.stack([np.cos(yaw), zero, np.sin(yaw), zero, one, zero, -np.sin(yaw), zero, np.cos(yaw)], 1)
    nod = np.stack(
        [one, zero, zero, zero, np.cos(pitch), np.sin(pitch), zero, -np.sin(pitch), np.cos(pitch)], 1
    )
    t["rotation"] = nod.reshape(-1, 3, 3) @ turn.reshape(-1, 3, 3)
    t["axes"] = np.stack([t["width"], t["height"], t["depth"]], 1)
    t["mouth_half"] = t["mouth_width"] * t["mouth_stretch"]
    t["mouth_gap"] = np.maximum(t["mouth_open"], 0)
    lamp = np.stack([t["lamp_x"], t["lamp_y"], np.full_like(yaw, 0.9)], 1)
    lamp /= np.linalg.norm(lamp, axis=1, keepdims=True)
    cos, sin = np.cos(t["roll"]), np.sin(t["roll"])
    t["lamp_direction"] = np.stack(
        [cos * lamp[:, 0] + sin * lamp[:, 1], cos * lamp[:, 1] - sin * lamp[:, 0], lamp[:, 2]], 1
    )
    t["long_hair"] = (t["hair_kind"] > 0.66).astype(np.float32)
    t["bald"] = (t["hair_kind"] < 0.08).astype(np.float32)


def _colour(uniform: Array) -> Array:
    """Hue, saturation and value from three uniform numbers (n, 3), to RGB."""
    hue, saturation, value = uniform[:, :1] * 6, 0.1 + 0.45 * uniform[:, 1:2], 0.30 + 0.60 * uniform[:, 2:]
    wheel = np.clip(np.abs((hue + np.array([0, 4, 2], np.float32)) % 6 - 3) - 1, 0, 1)
    return np.asarray(value * (1 - saturation * (1 - wheel)), np.float32)


def _palette(colours: npt.NDArray[np.float64], tone: Array) -> Array:
    place = tone * (len(colours) - 1)
    return np.stack([np.interp(place, np.arange(len(colours)), colours[:, c]) for c in range(3)], 1).astype(
        np.float32
    )


def surface_point(t: Traits, u: Array, v: Array) -> Array:
    """(n, 3) points of the heads' front at (u, v), in the heads' own coordinates."""
    w = np.sqrt(np.maximum(1 - u * u - v * v, 0))
    return np.asarray(np.stack([u, v, w], 1) * t["axes"])


def taper(t: Traits, y: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """How much narrower the head is than its ellipsoid at height y (n, ...) of the upright head."""
    shape = (-1,) + (1,) * (y.ndim - 1)
    below = np.clip((y / t["height"].reshape(shape) + 0.15) / 1.15, 0, 1)
    return np.asarray(1 - t["jaw"].reshape(shape) * below * below)


def project(t: Traits, points: Array) -> tuple[Array, Array]:
    """Points (n, 3) of the heads' own coordinates to the picture.

    Returns:
        (picture points (n, 2), the same points in the upright, centred head plane with depth (n, 3)).
    """
    turned = np.einsum("nij,nj->ni", t["rotation"], points)
    turned[:, 0] *= taper(t, turned[:, 1])
    return to_picture(t, turned[:, :2]), turned


def to_picture(t: Traits, plane: Array) -> Array:
    """Points (n, 2) of the upright head plane to the picture: roll, scale and shift."""
    cos, sin = np.cos(t["roll"]), np.sin(t["roll"])
    x = cos * plane[:, 0] - sin * plane[:, 1]
    y = sin * plane[:, 0] + cos * plane[:, 1]
    return np.stack([t["scale"] * x + t["centre_x"], t["scale"] * y + t["centre_y"]], 1).astype(np.float32)


def nose_tip(t: Traits) -> Array:
    """(n, 3) the tip of the nose, off the surface, in the heads' own coordinates."""
    tip = surface_point(t, np.zeros_like(t["nose_v"]), t["nose_v"])
    tip[:, 2] += t["nose_out"] * t["depth"]
    return tip


def ear_centre(t: Traits, side: int) -> Array:
    """(n, 3) the centre of an ear in the heads' own coordinates; side is -1 (picture's left) or 1."""
    return np.stack([side * 1.02 * t["width"], 0.02 * t["height"], -0.12 * t["depth"]], 1).astype(np.float32)


def landmark_points(t: Traits) -> tuple[Array, npt.NDArray[np.bool_]]:
    """(n, 10, 2) landmarks in the picture and (n, 10) whether each can be seen, in the order of
    ``LANDMARK_NAMES``."""
    zero = np.zeros_like(t["eye_u"])
    brow_v = t["eye_v"] - t["brow_gap"] - t["brow_raise"]
    surface = [
        surface_point(t, -t["eye_u"], t["eye_v"]),
        surface_point(t, t["eye_u"], t["eye_v"]),
        surface_point(t, -t["mouth_half"], t["mouth_v"] - t["smile"]),
        surface_point(t, t["mouth_half"], t["mouth_v"] - t["smile"]),
        surface_point(t, -t["eye_u"], brow_v),
        surface_point(t, t["eye_u"], brow_v),
        surface_point(t, zero, zero + 0.94),
    ]
    points, visible = [], []
    for point in surface:
        place, _ = project(t, point)
        normal = np.einsum("nj,nj->n", t["rotation"][:, 2], point / t["axes"] ** 2)
        points.append(place)
        visible.append(normal > 0)
    points.insert(2, project(t, nose_tip(t))[0])
    visible.insert(2, np.ones(len(zero), np.bool_))
    for side in (-1, 1):
        place, plane = project(t, ear_centre(t, side))
        points.append(place)
        outside = np.abs(plane[:, 0]) > t["width"] * taper(t, plane[:, 1])
        visible.append(((plane[:, 2] >= 0) | outside) & (t["long_hair"] == 0))
    stacked = np.stack(points, 1)
    return stacked, np.stack(visible, 1) & (np.abs(stacked) < 1).all(axis=2)
