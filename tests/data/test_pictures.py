"""Every kind of picture becomes the square RGB image that a viewer would show; unusable ones say why."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmdis_fast.data.decoding import UnusablePicture, decode_picture
from lmdis_fast.data.frame import Frame


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def two_colours(width: int = 64, height: int = 64) -> Image.Image:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 2] = 200
    return Image.fromarray(pixels)


def corner_colours(image: np.ndarray) -> list[list[int]]:
    return [image[4, 4].tolist(), image[4, -5].tolist()]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("JPEG", {"quality": 95}),
        ("GIF", {}),
        ("PPM", {}),
    ],
)
def test_formats(kind: str, options: dict[str, Any]) -> None:
    image, size = decode_picture(encoded(two_colours(), kind, **options), 32)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8 and size == (64, 64)
    np.testing.assert_allclose(corner_colours(image), [[200, 0, 0], [0, 0, 200]], atol=6)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "RGB"])
def test_modes(mode: str) -> None:
    image, _ = decode_picture(encoded(two_colours().convert(mode)), 32)
    expected = np.asarray(two_colours().convert(mode).convert("RGB").resize((32, 32)))
    np.testing.assert_allclose(corner_colours(image), corner_colours(expected), atol=60 if mode == "1" else 3)


def test_cmyk_jpeg() -> None:
    image, _ = decode_picture(encoded(two_colours().convert("CMYK"), "JPEG", quality=95), 32)
    np.testing.assert_allclose(corner_colours(image), [[200, 0, 0], [0, 0, 200]], atol=12)


def test_transparent_pixels_lie_over_white() -> None:
    picture = two_colours().convert("RGBA")
    picture.putalpha(Image.fromarray(np.repeat(np.uint8([[0] * 32 + [255] * 32]), 64, axis=0)))
    image, _ = decode_picture(encoded(picture), 32)
    assert corner_colours(image) == [[255, 255, 255], [0, 0, 200]]
    palette = two_colours().quantize(2)
    image, _ = decode_picture(encoded(palette, transparency=palette.getpixel((4, 4))), 32)
    assert corner_colours(image)[0] == [255, 255, 255]


def test_sixteen_bit_is_scaled_by_its_range() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    for kind in ("PNG", "TIFF"):
        image, _ = decode_picture(encoded(Image.fromarray(ramp), kind), 64)
        np.testing.assert_allclose(image[3, :, 1], np.rint(ramp[0] / 257), atol=1)


def test_float_and_wide_integers() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    image, _ = decode_picture(encoded(Image.fromarray(ramp), "TIFF"), 64)
    np.testing.assert_allclose(image[0, :, 0], np.rint(ramp[0] * 255), atol=1)
    image, _ = decode_picture(encoded(Image.fromarray((ramp * 1e6).astype(np.int32)), "TIFF"), 64)
    np.testing.assert_allclose(image[0, :, 0], np.rint(ramp[0] * 255), atol=1)


@pytest.mark.parametrize("flag", range(1, 9))
def test_camera_rotation(flag: int) -> None:
    """The picture is stored turned, flagged, and must come back upright with its upright size."""
    upright = np.zeros((48, 96, 3), np.uint8)
    upright[:24, :48, 0] = upright[:24, 48:, 1] = upright[24:, :48, 2] = 220
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    undo |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = Image.fromarray(upright)
    if flag in undo:
        stored = stored.transpose(Image.Transpose[undo[flag]])
    exif = Image.Exif()
    exif[0x0112] = flag
    image, size = decode_picture(encoded(stored, "JPEG", quality=95, exif=exif), 32, "squeeze")
    assert size == (96, 48)
    colours = [image[4, 4], image[4, -5], image[-5, 4], image[-5, -5]]
    np.testing.assert_allclose(colours, [[220, 0, 0], [0, 220, 0], [0, 0, 220], [0, 0, 0]], atol=12)


def test_first_frame_of_an_animation() -> None:
    frames = [two_colours(), Image.new("RGB", (64, 64), (0, 255, 0))]
    image, _ = decode_picture(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 32)
    np.testing.assert_allclose(corner_colours(image), [[200, 0, 0], [0, 0, 200]], atol=6)


def test_large_jpeg_is_averaged_and_in_place() -> None:
    """Decoding at a fraction of the size must not move anything: odd sizes, a smooth ramp."""
    x = np.linspace(0, 255, 1001)
    pixels = np.repeat(np.tile(x, (777, 1))[:, :, None], 3, axis=2).astype(np.uint8)
    small, size = decode_picture(encoded(Image.fromarray(pixels), "JPEG", quality=98), 48)
    assert size == (1001, 777)
    frame = Frame(1001, 777, "crop", 48)
    centres = frame.to_pixels(np.stack([(2 * np.arange(48) + 1) / 48 - 1, np.zeros(48)], 1))[:, 0]
    np.testing.assert_allclose(small[20, :, 0], centres / 1000 * 255, atol=1.5)


def test_no_aliasing() -> None:
    stripes = np.tile(np.uint8([0, 255]), (128, 64))
    image, _ = decode_picture(encoded(Image.fromarray(stripes)), 32)
    np.testing.assert_allclose(image[:, 4:-4], 127, atol=3)


def test_fits() -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :20], wide[:, 60:] = [255, 0, 0], [0, 0, 255]
    wide[:, 20:60] = [0, 255, 0]
    data = encoded(Image.fromarray(wide))
    assert (decode_picture(data, 40, "crop")[0] == [0, 255, 0]).all()
    squeezed = decode_picture(data, 40, "squeeze")[0]
    assert squeezed[20, 3].tolist() == [255, 0, 0] and squeezed[20, 36].tolist() == [0, 0, 255]
    padded = decode_picture(data, 40, "pad")[0]
    assert padded[20, 3].tolist() == [255, 0, 0] and padded[20, 36].tolist() == [0, 0, 255]
    rim = padded[2, 20]
    assert (padded[:6] == rim).all() and (padded[-6:] == rim).all() and 0 < rim.max() < 255


def test_same_size_is_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_picture(encoded(Image.fromarray(pixels)), 32)[0], pixels)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"this is text, not a picture", "not an image"),
        (encoded(two_colours())[:-30], "broken"),
        (encoded(two_colours(400, 400), "JPEG")[:1200], "broken"),
        (encoded(two_colours(), "JPEG")[:40], "not an image|broken"),
        (encoded(two_colours(15, 200)), r"too small \(15x200"),
    ],
)
def test_unusable(content: bytes, reason: str) -> None:
    with pytest.raises(UnusablePicture, match=reason):
        decode_picture(content, 32)


def test_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmdis_fast.data.decoding.MAX_PIXELS", 1000)
    with pytest.raises(UnusablePicture, match=r"too large \(64x64\)"):
        decode_picture(encoded(two_colours()), 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnusablePicture, match="too large"):
        decode_picture(encoded(two_colours()), 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encoded(two_colours(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert decode_picture(data, 32)[1] == (64, 64)


@pytest.mark.parametrize("fit", ["crop", "squeeze", "pad"])
@pytest.mark.parametrize("size", [(101, 60), (60, 101), (64, 64)])
def test_frame_and_pixels_agree(fit: Any, size: tuple[int, int]) -> None:
    """A bright spot is found where the frame says it is, and the way back is exact."""
    frame = Frame(*size, fit, 50)
    spot = np.array([size[0] // 2 + 7, size[1] // 2 - 6])
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[spot[1] - 1 : spot[1] + 2, spot[0] - 1 : spot[0] + 2] = 255
    image, _ = decode_picture(encoded(Image.fromarray(pixels)), 50, fit)
    weight = np.maximum(image[:, :, 0].astype(float) - 30, 0)
    centre = (
        np.array([(weight * np.arange(50)).sum(), (weight * np.arange(50)[:, None]).sum()]) / weight.sum()
    )
    found = (2 * centre + 1) / 50 - 1
    np.testing.assert_allclose(found, frame.from_pixels(spot), atol=0.015)
    np.testing.assert_allclose(frame.to_pixels(frame.from_pixels(spot)), spot, atol=1e-9)
    assert frame.from_pixels(np.zeros((4, 5, 2))).shape == (4, 5, 2)


def test_frame_corners_and_errors() -> None:
    frame = Frame(30, 20, "squeeze", 10)
    np.testing.assert_allclose(frame.from_pixels([-0.5, -0.5]), [-1, -1])
    np.testing.assert_allclose(frame.from_pixels([29.5, 19.5]), [1, 1])
    assert Frame(30, 20, "crop", 10).box == (5, 0, 25, 20) and Frame(30, 20, "pad", 10).box == (0, -5, 30, 25)
    with pytest.raises(ValueError, match="fit must be one of crop, squeeze, pad, got 'stretch'"):
        Frame(30, 20, "stretch", 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        Frame(0, 20, "crop", 10)
    with pytest.raises(ValueError, match=r"points must have shape \(\.\.\., 2\), got \(3,\)"):
        frame.to_pixels([1, 2, 3])
