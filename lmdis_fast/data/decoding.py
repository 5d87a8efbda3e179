"""From the bytes of one picture to a square uint8 RGB image."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lmdis_fast.data.frame import Fit, fit_boxes

if TYPE_CHECKING:
    from PIL import Image

Picture = tuple[npt.NDArray[np.uint8], tuple[int, int]]
"""((H, W, 3) image, (width, height) of the upright original)."""

MIN_SIDE = 16
"""Pictures with a shorter side than this many pixels hold nothing to learn from."""
MAX_PIXELS = 178_956_970
"""Pictures with more pixels than this (Pillow's own limit against decompression bombs) are refused."""

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


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

    def wanted(width: int, height: int) -> tuple[int, int]:
        # Twice the wanted size leaves work to the filter.
        part = max(width, height) if fit == "pad" else min(width, height)
        return max(1, 2 * size * width // part), max(1, 2 * size * height // part)

    return _decode(
        encoded, wanted, lambda rgb, original, shrink: _to_square(rgb, original, size, fit, shrink)
    )


def decode_upright(encoded: bytes, limit: int) -> Picture:
    """Decode, turn upright and make RGB like ``decode_picture``, but keep the whole picture, to be looked at.

    Args:
        encoded: the file's bytes.
        limit: pictures with a longer side are scaled down to it.

    Returns:
        ((H, W, 3) uint8, (width, height) of the upright picture before scaling).

    Raises:
        UnusablePicture: as ``decode_picture``.
    """

    def scaled(rgb: Image.Image, original: tuple[int, int], shrink: int) -> npt.NDArray[np.uint8]:
        factor = min(1.0, limit / max(original))
        width, height = (max(1, round(factor * side)) for side in original)
        return np.array(rgb if rgb.size == (width, height) else rgb.resize((width, height), reducing_gap=3.0))

    def wanted(width: int, height: int) -> tuple[int, int]:
        factor = min(1.0, limit / max(width, height))
        return max(1, round(factor * width)), max(1, round(factor * height))

    return _decode(encoded, wanted, scaled)


def _decode(
    encoded: bytes,
    wanted: Callable[[int, int], tuple[int, int]],
    finish: Callable[[Image.Image, tuple[int, int], int], npt.NDArray[np.uint8]],
) -> Picture:
    """What ``finish`` makes of the upright RGB picture, its original size, and the factor by which it has been decoded
    smaller; ``wanted`` says from the stored size how large it has to be at least."""
    from PIL import Image, UnidentifiedImageError

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
            turn = _orientation(picture)
            # A JPEG may be decoded at a half, quarter or eighth.
            picture.draft(None, wanted(width, height))
            shrink = max(1, round(width / picture.size[0]))
            rgb = _to_rgb(picture, picture.format == "PNG")
            if turn in _TURNS:
                rgb = rgb.transpose(Image.Transpose[_TURNS[turn]])
            if turn >= 5:
                width, height = height, width
            return finish(rgb, (width, height), shrink), (width, height)
    except UnusablePicture:
        raise
    except Image.DecompressionBombError as error:
        raise UnusablePicture("too large (decompression bomb)") from error
    except UnidentifiedImageError as error:
        raise UnusablePicture("not an image, or of a kind that Pillow does not read") from error
    # Broken files make decoders raise almost anything; whatever it was, this one file is at fault.
    except Exception as error:
        raise UnusablePicture(f"broken ({type(error).__name__}: {error})") from error


def square_array(image: npt.NDArray[np.uint8], size: int, fit: Fit = "crop") -> Picture:
    """The same for a decoded picture: (H, W) grey or (H, W, 3) RGB uint8."""
    from PIL import Image

    original = (int(image.shape[1]), int(image.shape[0]))
    return _to_square(Image.fromarray(image).convert("RGB"), original, size, fit, 1), original


def _orientation(picture: Image.Image) -> int:
    """The camera's rotation flag, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    try:
        flag = picture.getexif().get(_ORIENTATION_TAG, 1)
    # A damaged EXIF block is no reason to lose the picture.
    except Exception:
        return 1
    return flag if isinstance(flag, int) and 1 <= flag <= 8 else 1


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
    elif mode == "F" and low >= 0 and high <= 1:
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
