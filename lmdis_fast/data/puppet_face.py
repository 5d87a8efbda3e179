"""A puppet's head, layer by layer: each function lays one part over the picture (n, 3, S, S)."""

from __future__ import annotations

import numpy as np

from lmdis_fast.data.puppet_canvas import HeadPlane, column, lay_over, power, tint
from lmdis_fast.data.puppet_traits import Array, Traits, ear_centre, nose_tip, project, surface_point


def _hair_colour(t: Traits, plane: HeadPlane) -> Array:
    strands = 1 + 0.10 * np.sin(34 * plane.u + 5 * np.sin(3 * plane.v))
    gloss = 0.35 * power(np.maximum(plane.facing, 0), 8)
    return np.asarray(
        tint(t["hair"]) * (strands * plane.shade)[:, None] + gloss[:, None] * tint(0.3 + 0.5 * t["hair"])
    )


def paint_back_hair(picture: Array, t: Traits, plane: HeadPlane) -> None:
    """Hair seen around and behind the head."""
    crown = np.stack([0 * t["width"], -0.10 * t["height"], -0.25 * t["depth"]], 1)
    turned = np.einsum("nij,nj->ni", t["rotation"], crown)
    volume = column(t["hair_volume"])
    x, y = plane.x - column(turned[:, 0]), plane.y - column(turned[:, 1])
    rx, ry = column(t["width"]) * volume, column(t["height"]) * volume * 0.96
    shell = plane.ramp((1 - np.sqrt((x / rx) ** 2 + (y / ry) ** 2)) * rx)
    shell *= np.clip((0.25 - plane.y / column(t["height"])) * 8, 0, 1)
    fall = np.sqrt(np.sqrt(power(x / (rx * 1.02), 4) + power((y - 0.45 * ry) / (ry * 0.95), 4)))
    long = plane.ramp((1 - fall) * rx) * column(t["long_hair"])
    cover = np.maximum(shell, long) * (1 - column(t["bald"]))
    shade = np.clip(1.05 - 0.35 * np.maximum(plane.y / column(t["height"]), 0), 0.5, 1)
    shade = shade * (0.75 + 0.25 * np.sin(40 * plane.x / column(t["width"])) ** 2)
    light = column(t["ambient"] + 0.45 * t["lamp"]) * shade
    lay_over(picture, cover, tint(t["hair"]) * light[:, None])


def paint_ears(picture: Array, t: Traits, plane: HeadPlane, *, front: bool) -> None:
    """The ears that lie behind the head, or those in front of it."""
    for side in (-1, 1):
        _, centre = project(t, ear_centre(t, side))
        shown = (centre[:, 2] >= 0) == front
        if front:
            shown &= t["long_hair"] == 0
        high = column(t["ear_size"] * t["height"])
        wide = high * column(0.45 + 0.35 * np.abs(t["rotation"][:, 0, 2]))
        x, y = (plane.x - column(centre[:, 0])) / wide, (plane.y - column(centre[:, 1])) / high
        reach = np.sqrt(x * x + y * y)
        alpha = plane.ramp((1 - reach) * wide) * column(shown.astype(np.float32))
        light = column(t["ambient"] + 0.6 * t["lamp"] * (0.75 + 0.25 * side * t["lamp_x"]))
        bowl = 1 - 0.35 * np.clip((0.62 - np.sqrt(x * x + (y + 0.1) ** 2)) * 5, 0, 1)
        lay_over(
            picture,
            alpha,
            tint(t["skin"] * np.array([1.0, 0.92, 0.90], np.float32)) * (light * bowl)[:, None],
        )


def paint_head(picture: Array, t: Traits, plane: HeadPlane) -> None:
    """The head with everything painted on its surface, lit."""
    front = np.clip(plane.w * 8, 0, 1)
    skin = np.broadcast_to(tint(t["skin"]), (len(plane.u), 3, *plane.u.shape[1:])).copy()
    _cheeks_and_beard(skin, t, plane, front)
    _mouth(skin, t, plane, front)
    for side in (-1, 1):
        _eye(skin, t, plane, front, side)
    skin *= plane.shade[:, None]
    skin += (0.10 * column(t["lamp"]) * power(np.maximum(plane.facing, 0), 16))[:, None]
    line = column(t["hairline"]) + column(t["hair_bend"]) * (plane.u - column(t["parting"]) * 0.5) ** 2
    above = np.minimum(plane.v - line, np.maximum(plane.w + 0.10, plane.v - 0.30))
    cover = plane.ramp(-above * column(t["height"])) * (1 - column(t["bald"]))
    lay_over(skin, cover, _hair_colour(t, plane))
    lay_over(picture, plane.inside, skin)


def _cheeks_and_beard(skin: Array, t: Traits, plane: HeadPlane, front: Array) -> None:
    for side in (-1, 1):
        reach = ((plane.u - side * 0.50) / 0.30) ** 2 + ((plane.v - 0.28) / 0.22) ** 2
        lay_over(
            skin,
            0.25 * np.maximum(1 - reach, 0) * front,
            tint(t["skin"] * np.array([1.0, 0.72, 0.68], np.float32)),
        )
    low = np.clip((plane.v - 0.30 - 0.25 * (1 - plane.u * plane.u)) * 6, 0, 1) + np.clip(
        (np.abs(plane.u) - 0.62) * 6, 0, 1
    )
    chin = np.clip(low, 0, 1) * np.clip((plane.v - 0.12) * 8, 0, 1)
    strength = np.where(t["beard"] > 0.82, 0.9, np.where(t["beard"] > 0.66, 0.3, 0)).astype(np.float32)
    strength = strength * (1 - t["long_hair"])
    lay_over(skin, chin * column(strength), tint(0.8 * t["hair"]))


def _mouth(skin: Array, t: Traits, plane: HeadPlane, front: Array) -> None:
    along = np.clip(plane.u / column(t["mouth_half"]), -1, 1)
    profile = 1 - along * along
    height = column(t["height"])
    # The line between the lips passes through both corners; a smile lifts the corners, not the middle.
    from_line = plane.v - (column(t["mouth_v"]) - column(t["smile"]) * (1 - profile))
    gap, lip = column(t["mouth_gap"]), column(t["lip"])
    within = plane.ramp((column(t["mouth_half"]) - np.abs(plane.u)) * column(t["width"])) * front
    top = -(0.9 * lip + 0.35 * gap) * profile
    bottom = (1.3 * lip + 0.65 * gap) * profile
    lips = plane.ramp(np.minimum(from_line - top, bottom - from_line) * height) * within
    lay_over(skin, lips, tint(t["lips"]))
    inner = np.minimum(from_line + 0.35 * gap * profile, 0.65 * gap * profile - from_line)
    dark = plane.ramp(inner * height - 0.1 * plane.pixel) * within
    teeth = plane.ramp((0.06 - from_line - 0.35 * gap) * height) * dark
    line = np.maximum(plane.ramp(0.012 * 1.0 - np.abs(from_line) * height) * within, dark)
    lay_over(skin, line, tint(0.28 * t["lips"]))
    lay_over(
        skin, teeth * column((t["mouth_gap"] > 0.03).astype(np.float32)), tint(np.full_like(t["lips"], 0.9))
    )


def _eye(skin: Array, t: Traits, plane: HeadPlane, front: Array, side: int) -> None:
    width, height = column(t["width"]), column(t["height"])
    x, y = (plane.u - side * column(t["eye_u"])) * width, (plane.v - column(t["eye_v"])) * height
    rx = column(t["eye_size"] * t["width"])
    ry = rx * 0.68 * column(t["lids"])
    brow_y = y + column((t["brow_gap"] + t["brow_raise"]) * t["height"])
    brow_x = side * x
    brow_y = brow_y - column(t["brow_tilt"]) * 0.5 * brow_x + 1.2 * brow_x * brow_x
    half = column(t["brow_length"] * t["width"])
    thick = column(t["brow_thickness"] * t["height"])
    ends = np.maximum(np.abs(brow_x) - half, 0)
    lay_over(
        skin, 0.9 * plane.ramp(thick - np.sqrt(brow_y * brow_y + ends * ends)) * front, tint(0.7 * t["hair"])
    )
    reach = np.sqrt((x / rx) ** 2 + (y / ry) ** 2)
    socket = np.clip(1.9 - np.sqrt((x / rx) ** 2 + ((y + 0.3 * rx) / (0.85 * rx)) ** 2), 0, 1)
    lay_over(skin, 0.22 * socket * front, tint(0.45 * t["skin"]))
    lash = plane.ramp((1.22 - reach) * ry) * np.clip(0.75 - y / ry, 0.15, 1) * front
    lay_over(skin, lash, tint(0.22 * t["skin"]))
    white = plane.ramp((1 - reach) * ry) * front
    lay_over(skin, white, tint(np.full_like(t["skin"], 0.93)))
    ball_x = x - column(t["gaze_x"]) * 0.45 * rx
    ball_y = y - column(t["gaze_y"]) * 0.30 * rx
    ball = np.sqrt(ball_x * ball_x + ball_y * ball_y)
    lay_over(skin, plane.ramp(0.56 * rx - ball) * white, tint(t["iris"]))
    lay_over(skin, plane.ramp(0.27 * rx - ball) * white, tint(np.full_like(t["skin"], 0.03)))
    gleam = np.sqrt((ball_x - 0.16 * rx) ** 2 + (ball_y + 0.18 * rx) ** 2)
    lay_over(skin, plane.ramp(0.13 * rx - gleam) * white, tint(np.ones_like(t["skin"])))
    frame = column((t["glasses"] > 0.86).astype(np.float32)) * front
    rim = np.sqrt(x * x + (y / 0.9) ** 2)
    bridge = plane.ramp(0.014 - np.abs(y)) * (brow_x < -1.7 * rx) * (np.abs(plane.u) < 0.42)
    ring = np.maximum(plane.ramp(0.016 - np.abs(rim - 1.65 * rx)), bridge)
    lay_over(skin, ring * frame, tint(0.5 * t["blob_1"]))


def paint_nose(picture: Array, t: Traits, plane: HeadPlane) -> None:
    """The nose, a tapered body from between the eyes to the tip, with nostrils."""
    _, tip = project(t, nose_tip(t))
    _, root = project(t, surface_point(t, 0 * t["eye_v"], t["eye_v"] - 0.02))
    along_x, along_y = tip[:, 0] - root[:, 0], tip[:, 1] - root[:, 1]
    length = along_x**2 + along_y**2
    x, y = plane.x - column(root[:, 0]), plane.y - column(root[:, 1])
    place = np.clip((x * column(along_x) + y * column(along_y)) / column(length), 0, 1)
    radius = column(t["nose_width"] * t["width"]) * (0.42 + 0.58 * place**2)
    off_x, off_y = (x - place * column(along_x)) / radius, (y - place * column(along_y)) / radius
    reach = np.sqrt(off_x**2 + off_y**2)
    depth = np.sqrt(np.maximum(1 - reach**2, 0.0))
    lamp = t["lamp_direction"]
    facing = column(lamp[:, 0]) * off_x + column(lamp[:, 1]) * off_y + column(lamp[:, 2]) * depth
    facing = np.clip(facing, 0, 1)
    light = column(t["ambient"]) + column(t["lamp"]) * facing
    gloss = 0.22 * column(t["lamp"]) * power(facing, 24) * place
    alpha = plane.ramp((1 - reach) * radius) * np.clip(place * 1.6 - 0.15, 0, 1)
    red = np.array([1.0, 0.93, 0.91], np.float32)
    lay_over(picture, alpha, tint(t["skin"] * red) * light[:, None] + gloss[:, None])
    wide = t["nose_width"] * t["width"]
    for side in (-1, 1):
        hole_x = (plane.x - column(tip[:, 0] + side * 0.45 * wide)) / column(0.30 * wide)
        hole_y = (plane.y - column(tip[:, 1] + 0.72 * wide)) / column(0.22 * wide)
        hole = plane.ramp((1 - np.sqrt(hole_x**2 + hole_y**2)) * column(0.22 * wide))
        lay_over(picture, 0.7 * hole, tint(0.25 * t["skin"]))
