"""The frame of a cached image, and the way back to the pixels of the picture it came from.

Points of the package are (x, y) in [-1, 1]: -1 and 1 are the outer edges of the square image, so the centre
of pixel i of ``size`` is ``(2 i + 1) / size - 1``. Pixel coordinates are (x, y) with (0, 0) in the centre of
the top-left pixel of the upright picture (after the camera's rotation flag has been applied).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Fit = Literal["crop", "squeeze", "pad"]
"""How a picture that is not square becomes square: its largest centred square; the whole picture with its
aspect ratio lost; or the whole picture with borders in the mean colour of its rim."""

FITS: tuple[str, ...] = get_args(Fit)


def check_fit(fit: str) -> None:
    """Raise ValueError unless ``fit`` is one of ``FITS``."""
    if fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")


def fit_boxes(sizes: npt.ArrayLike, fit: Fit) -> npt.NDArray[np.float64]:
    """Boxes of the original pictures that become the square images.

    Args:
        sizes: (n, 2) width and height in pixels.
        fit: see ``Fit``.

    Returns:
        (n, 4) left, top, right, bottom in pixels measured from the outer edge of the top-left pixel (so the
        whole picture is 0, 0, width, height). "pad" boxes reach outside the picture.
    """
    check_fit(fit)
    size = np.asarray(sizes, np.float64).reshape(-1, 2)
    if fit == "squeeze":
        return np.concatenate([np.zeros_like(size), size], axis=1)
    side = size.min(axis=1) if fit == "crop" else size.max(axis=1)
    start = np.floor((size - side[:, None]) / 2)
    return np.concatenate([start, start + side[:, None]], axis=1)


def pixels_to_frame(points: npt.ArrayLike, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, L, 2) pixel coordinates of the pictures to [-1, 1] of the images cut by ``boxes`` (n, 4). NaN
    stays NaN."""
    origin, extent = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return np.asarray(2 * (np.asarray(points, np.float64) + 0.5 - origin) / extent - 1)


def frame_to_pixels(points: npt.ArrayLike, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of ``pixels_to_frame``."""
    origin, extent = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return np.asarray((np.asarray(points, np.float64) + 1) / 2 * extent + origin - 0.5)


@dataclass(frozen=True)
class Frame:
    """How one picture became a square image.

    Args:
        width, height: size of the upright original picture in pixels.
        fit: see ``Fit``.
        size: side of the square image in pixels.
    """

    width: int
    height: int
    fit: Fit
    size: int

    def __post_init__(self) -> None:
        check_fit(self.fit)
        for name in ("width", "height", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Frame: {name} must be at least 1, got {getattr(self, name)}")

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in the original picture; see ``fit_boxes``."""
        left, top, right, bottom = fit_boxes([[self.width, self.height]], self.fit)[0].tolist()
        return left, top, right, bottom

    def to_pixels(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(..., 2) points in [-1, 1] of the image to pixels of the original picture."""
        return self._map(frame_to_pixels, points)

    def from_pixels(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(..., 2) pixels of the original picture to [-1, 1] of the image."""
        return self._map(pixels_to_frame, points)

    def _map(self, function: Any, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        array = np.asarray(points, np.float64)
        if array.shape[-1:] != (2,):
            raise ValueError(f"Frame: points must have shape (..., 2), got {array.shape}")
        boxes = fit_boxes([[self.width, self.height]], self.fit)
        return np.asarray(function(array.reshape(1, -1, 2), boxes)).reshape(array.shape)
