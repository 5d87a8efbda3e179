"""Layers, soft edges and the view of a puppet's head from each pixel."""

from __future__ import annotations

import numpy as np

from lmdis_fast.data.puppet_traits import Array, Traits, taper


def column(values: Array) -> Array:
    """(n,) to (n, 1, 1)."""
    return values[:, None, None]


def tint(colour: Array) -> Array:
    """(n, 3) to (n, 3, 1, 1)."""
    return colour[:, :, None, None]


def power(base: Array, exponent: int) -> Array:
    """``base`` to a whole power by repeated squaring, many times faster than the general power."""
    result, square = None, base
    while exponent:
        if exponent & 1:
            result = square if result is None else result * square
        exponent >>= 1
        square = square * square if exponent else square
    assert result is not None
    return result


def lay_over(picture: Array, alpha: Array, colour: Array) -> None:
    """Lay ``colour`` (n, 3, S or 1, S or 1) over ``picture`` (n, 3, S, S) with ``alpha`` (n, S, S)."""
    difference = colour - picture
    difference *= alpha[:, None]
    picture += difference


class HeadPlane:
    """Pixels seen from the head: upright plane, surface coordinates (u, v, w), light."""

    def __init__(self, t: Traits, x: Array, y: Array, size: int) -> None:
        cos, sin, scale = (column(v) for v in (np.cos(t["roll"]), np.sin(t["roll"]), t["scale"]))
        dx, dy = (x - column(t["centre_x"])) / scale, (y - column(t["centre_y"])) / scale
        self.pixel = (2 / size) / scale
        self.x, self.y = cos * dx + sin * dy, cos * dy - sin * dx
        bent = self.x / taper(t, self.y)
        rotation, axes = t["rotation"], t["axes"]
        form = np.einsum("nij,nj,nkj->nik", rotation, axes**-2, rotation)
        a13, a23, a33 = column(form[:, 0, 2]), column(form[:, 1, 2]), column(form[:, 2, 2])
        flat = (column(form[:, 0, 0]) - a13 * a13 / a33) * bent * bent
        flat += 2 * (column(form[:, 0, 1]) - a13 * a23 / a33) * bent * self.y
        flat += (column(form[:, 1, 1]) - a23 * a23 / a33) * self.y * self.y
        np.maximum(flat, 0, out=flat)
        z = np.sqrt(np.maximum(1 - flat, 0) / a33) - (a13 * bent + a23 * self.y) / a33
        self.inside = self.ramp((1 - np.sqrt(flat)) * column(t["width"]))
        to_unit = rotation.transpose(0, 2, 1) / axes[:, :, None]
        self.u, self.v, self.w = (
            column(to_unit[:, i, 0]) * bent + column(to_unit[:, i, 1]) * self.y + column(to_unit[:, i, 2]) * z
            for i in range(3)
        )
        lamp = np.einsum("nij,ni->nj", rotation, t["lamp_direction"]) / axes
        normal = [p * column(1 / axes[:, i]) for i, p in enumerate((self.u, self.v, self.w))]
        length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
        facing = sum(column(lamp[:, i]) * p for i, p in enumerate((self.u, self.v, self.w))) / length
        self.facing = np.asarray(facing)
        self.shade = column(t["ambient"]) + column(t["lamp"]) * np.maximum(self.facing, 0)

    def ramp(self, distance: Array) -> Array:
        """Coverage of a pixel at a signed distance (in head units) inside an edge."""
        return np.clip(distance / self.pixel + 0.5, 0, 1)
