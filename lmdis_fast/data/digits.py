"""5,000 real handwritten digits that come with the package (see DIGITS.md for their origin and licence)."""

from __future__ import annotations

import lzma
from importlib.resources import files

import numpy as np
import numpy.typing as npt

COUNT = 5000


def load_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The digits as they are stored: white on black.

    Returns:
        (images (5000, 28, 28) uint8, labels (5000,) uint8 in 0 to 9, test (5000,) bool: 100 test images of
        each digit).
    """
    packed = lzma.decompress(files("lmdis_fast.data").joinpath("digits.xz").read_bytes())
    table = np.frombuffer(packed, np.uint8).reshape(COUNT, 28 * 28 + 2)
    return table[:, :-2].reshape(COUNT, 28, 28).copy(), table[:, -2].copy(), table[:, -1].astype(np.bool_)
