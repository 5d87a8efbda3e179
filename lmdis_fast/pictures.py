"""Pictures of landmarks: one colour per landmark, everywhere the same."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Picture = npt.NDArray[np.uint8]

SMOOTH = 4
"""Dots are drawn this many times larger than they appear, for smooth edges."""


def landmark_colours(count: int) -> list[tuple[int, int, int]]:
    """`count` RGB colours that are easy to tell apart: hues evenly spaced, light and dark in turn."""
    colours = []
    for k in range(count):
        red, green, blue = colorsys.hsv_to_rgb(
            k / max(count, 1), 0.95 if k % 2 else 0.75, 0.8 if k % 2 else 1.0
        )
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def draw_landmarks(
    image: Picture, coords: npt.NDArray[np.float32], *, side: int | None = None, numbers: bool = False
) -> Picture:
    """An image with its landmarks as dots.

    Args:
        image: (H, W, 3) uint8.
        coords: (K, 2) points (x, y) in [-1, 1] of the image; those that are not finite are left out.
        side: height of the result in pixels (default: the image's own).
        numbers: write each landmark's number beside it.
    """
    height, width = image.shape[:2]
    scale = 1.0 if side is None else side / height
    size = (round(width * scale), round(height * scale))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    radius = max(6.0, 0.022 * SMOOTH * min(size))
    font = ImageFont.load_default(size=round(2.6 * radius)) if numbers else None
    reach = math.ceil((5 if numbers else 1.5) * radius / SMOOTH) + 1
    patch_side = SMOOTH * 2 * reach
    for k, (colour, (x, y)) in enumerate(zip(landmark_colours(len(coords)), coords.tolist(), strict=True)):
        if not (np.isfinite(x) and np.isfinite(y)):
            continue
        right, down = (x + 1) / 2 * size[0], (y + 1) / 2 * size[1]
        left, top = math.floor(right) - reach, math.floor(down) - reach
        if not (-2 * reach < left < size[0] and -2 * reach < top < size[1]):
            continue
        patch = Image.new("RGBA", (patch_side, patch_side), (0, 0, 0, 0))
        draw = ImageDraw.Draw(patch)
        cx, cy = (right - left) * SMOOTH, (down - top) * SMOOTH
        box = (cx - radius, cy - radius, cx + radius, cy + radius)
        draw.ellipse(box, fill=(*colour, 255), outline=(0, 0, 0, 255), width=max(2, round(radius / 4)))
        if font is not None:
            draw.text(
                (cx + 1.2 * radius, cy - 1.8 * radius),
                str(k),
                font=font,
                fill=(255, 255, 255, 255),
                stroke_width=3,
                stroke_fill=(0, 0, 0, 255),
            )
        patch = patch.resize((2 * reach, 2 * reach), Image.Resampling.LANCZOS)
        picture.paste(patch, (left, top), patch)
    return np.asarray(picture)


def contact_sheet(rows: Sequence[Sequence[Picture]], gap: int = 4) -> Picture:
    """Rows of pictures of one size as one picture on white."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            sheet[i * (height + gap) :, j * (width + gap) :][:height, :width] = picture
    return sheet


def to_pictures(images: Tensor) -> list[Picture]:
    """(N, 3, H, W) float tensor in [0, 1] to N uint8 pictures (H, W, 3)."""
    array = np.asarray(images.detach().float().cpu().clamp(0, 1).permute(0, 2, 3, 1))
    return list((255 * array + 0.5).astype(np.uint8))
