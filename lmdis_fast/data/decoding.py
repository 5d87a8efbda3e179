"""From the bytes of one picture to a square uint8 RGB image."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lmdis_fast.data.frame import Fit, fit_boxes

if TYPE_CHECKING:
    from PIL import Image

Picture = tuple[npt.NDArray[np.uint8], tuple[int, int]]
"""((S, S, 3) image, (width, height) of the upright original)."""

MIN_SIDE = 16
"""Pictures with a shorter side than this many pixels hold nothing to learn from."""
MAX_PIXELS = 178_956_970
"""Pictures with more pixels than this (Pillow's own limit against decompression bombs) are refused."""


class UnusablePicture(Exception):
    """The picture cannot be used; the message is the reason."""


def decode_picture(encoded: bytes, size: int, fit: Fit = "crop") -> Picture:
    """Decode, turn upright, make RGB, make square and scale.

    Grey, palette, CMYK, YCbCr, 1-bit and alpha are understood; alpha lies over white; 16-bit grey is divided
    by 257, 32-bit integers and floats that are outside [0, 255] are stretched from their smallest to their
    largest value; of an animation the first frame counts. Scaling down averages over the area (Lanczos with
    support), scaling up is bicubic.

    Args:
        encoded: the file's bytes.
        size: side of the result.
        fit: see ``lmdis_fast.data.frame.Fit``.

    Returns:
        ((size, size, 3) uint8, (width, height) of the upright picture).

    Raises:
        UnusablePicture: empty, broken, truncated, too small or too large.
    """
    from PIL import Image, ImageOps

    if not encoded:
        raise UnusablePicture("empty file")
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            width, height = picture.size
            if min(width, height) < MIN_SIDE:
                raise UnusablePicture(
                    f"too small ({width}x{height}, at least {MIN_SIDE} pixels a side are needed)"
                )
            if width * height > MAX_PIXELS:
                raise UnusablePicture(f"too large ({width}x{height})")
            sideways = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            # A JPEG may be decoded at a half, quarter or eighth; twice the wanted size leaves the filter its
            # work.
            part = max(width, height) if fit == "pad" else min(width, height)
            picture.draft(None, (max(1, 2 * size * width // part), max(1, 2 * size * height // part)))
            shrink = max(1, round(width / picture.size[0]))
            upright = ImageOps.exif_transpose(picture)
            rgb = _to_rgb(upright, picture.format == "PNG")
            if sideways:
                width, height = height, width
            return _to_square(rgb, (width, height), size, fit, shrink), (width, height)
    except UnusablePicture:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePicture("too large (decompression bomb)") from error
    except Image.UnidentifiedImageError as error:
        raise UnusablePicture("not an image, or of a kind that Pillow does not read") from error
    # Broken files make decoders raise almost anything; whatever it was, this one file is at fault.
    except Exception as error:
        raise UnusablePicture(f"broken ({type(error).__name__}: {error})") from error


def square_array(image: npt.NDArray[np.uint8], size: int, fit: Fit = "crop") -> Picture:
    """The same for a decoded picture: (H, W) grey or (H, W, 3) RGB uint8."""
    from PIL import Image

    original = (int(image.shape[1]), int(image.shape[0]))
    return _to_square(Image.fromarray(image).convert("RGB"), original, size, fit, 1), original


def _to_rgb(picture: Image.Image, png: bool) -> Image.Image:
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = Image.fromarray(_to_eight_bits(np.asarray(picture), picture.mode, png))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, (255, 255, 255, 255)), over).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _to_eight_bits(values: npt.NDArray[np.generic], mode: str, png: bool) -> npt.NDArray[np.uint8]:
    wide = values.astype(np.float64)
    low, high = float(np.nanmin(wide)), float(np.nanmax(wide))
    if mode.startswith("I;16") or (mode == "I" and png):
        wide = wide / 257
    elif mode == "F" and 0 <= low and high <= 1:
        wide = wide * 255
    elif low < 0 or high > 255:
        wide = (wide - low) * (255 / max(high - low, 1e-30))
    return np.clip(np.rint(np.nan_to_num(wide)), 0, 255).astype(np.uint8)


def _to_square(
    rgb: Image.Image, original: tuple[int, int], size: int, fit: Fit, shrink: int
) -> npt.NDArray[np.uint8]:
    from PIL import Image

    box = fit_boxes([original], fit)[0] / shrink
    if fit == "pad" and rgb.width != rgb.height:
        pixels = np.asarray(rgb)
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        side = int(np.ceil(box[2] - box[0]))
        canvas = Image.new("RGB", (side, side), tuple(int(value) for value in np.rint(rim.mean(axis=0))))
        start = (int(np.rint(-box[0])), int(np.rint(-box[1])))
        canvas.paste(rgb, start)
        rgb, box = canvas, box + np.array([*start, *start])
    box = np.clip(box, 0, [rgb.width, rgb.height, rgb.width, rgb.height])
    kernel = Image.Resampling.BICUBIC if box[2] - box[0] < size else Image.Resampling.LANCZOS
    left, top, right, bottom = box.tolist()
    if (left, top, right, bottom) == (0, 0, size, size) and rgb.size == (size, size):
        return np.array(rgb)
    return np.array(rgb.resize((size, size), kernel, box=(left, top, right, bottom), reducing_gap=3.0))
