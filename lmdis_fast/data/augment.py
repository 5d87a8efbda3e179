"""Random warps and colour changes, as numbers: pure functions of (seed, epoch, sample, step).

What is drawn here is applied elsewhere (the warp by a thin-plate spline operator), so this file needs numpy
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lmdis_fast.data.order import SampleRng, sample_rng

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

WARP_STREAM = 1
"""Stream of the warps."""
COLOUR_STREAM = 2
"""Stream of the colours. Where a step needs several draws of a kind, 16 is added for each."""
LANDMARK_STREAM = 3
"""Stream of the choice between the grid and the landmarks as control points."""
BATCH_COLOUR_STREAM = 8
"""The same where one draw serves the whole batch."""


@dataclass(frozen=True)
class WarpConfig:
    """A random thin-plate spline: control points on a square grid are moved, and an affine map is composed
    with it.

    Lengths are in the frame of points, where the image reaches from -1 to 1.
    """

    grid: int = 7
    """Control points a side."""
    std: float = 0.05
    """Standard deviation of each control point's displacement, in x and in y."""
    rotation_degrees: float = 10.0
    """Standard deviation of the rotation, in degrees."""
    log_scale: float = 0.12
    """Standard deviation of the logarithm of the scale."""
    translation: float = 0.15
    """The translation is uniform between minus and plus this, in x and in y."""
    linear_jitter: float = 0.04
    """Standard deviation of what is added to each of the four entries of the linear part."""
    kernel_gain: float = 1.0
    """Factor on the spline's kernel: 1 passes through the moved control points, 0.5 bends half as much."""
    order: Literal["affine_after", "affine_before"] = "affine_after"
    """Whether the affine map acts on the spline's result or on its argument."""
    landmark_share: float = 0.0
    """Row 9: share of the steps whose splines move the detected landmarks instead of the grid (0 in the released code,
    which disables them; the paper alternates)."""
    landmark_std: float = 0.05
    """Standard deviation of each landmark's displacement in such a step."""

    def __post_init__(self) -> None:
        if self.grid < 2:
            raise ValueError(f"WarpConfig: grid must be at least 2, got {self.grid}")
        if not 0 <= self.landmark_share <= 1:
            raise ValueError(f"WarpConfig: landmark_share must be in [0, 1], got {self.landmark_share}")
        for name in ("std", "rotation_degrees", "log_scale", "translation", "linear_jitter", "landmark_std"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"WarpConfig: {name} must be finite and not negative, got {getattr(self, name)}"
                )
        if self.order not in ("affine_after", "affine_before"):
            raise ValueError(
                f"WarpConfig: order must be 'affine_after' or 'affine_before', got {self.order!r}"
            )


@dataclass(frozen=True)
class ColourConfig:
    """A random change of contrast and brightness; images are in [0, 1]."""

    contrast: float = 0.4
    """The factor is uniform in [1 - contrast, 1 + contrast]."""
    brightness: float = 0.12
    """The shift is uniform in [-brightness, brightness]."""
    per_image: bool = True
    """Draw for every image; False: one draw for the whole batch."""
    twins: bool = False
    """Draw a second change for the warped twin of each image; False: both share one, as published."""

    def __post_init__(self) -> None:
        if not 0 <= self.contrast <= 1:
            raise ValueError(f"ColourConfig: contrast must be in [0, 1], got {self.contrast}")
        if not 0 <= self.brightness <= 1:
            raise ValueError(f"ColourConfig: brightness must be in [0, 1], got {self.brightness}")


def moves_landmarks(seed: int, step: int, config: WarpConfig) -> bool:
    """Whether the splines of a step move the detected landmarks."""
    return bool(sample_rng(seed, 0, 0, step, LANDMARK_STREAM).random() < config.landmark_share)


class WarpDraws(NamedTuple):
    """Random numbers of B warps."""

    displacements: FloatArray
    """(B, grid * grid, 2) in (x, y), row by row over the grid."""
    affine: FloatArray
    """(B, 2, 3): a point p goes to affine[:, :, :2] p + affine[:, :, 2]."""


class ColourDraws(NamedTuple):
    """Random numbers of B colour changes: image -> contrast * image + brightness, around whatever centre is
    used."""

    brightness: FloatArray
    """(B,)"""
    contrast: FloatArray
    """(B,)"""


def _check_batch(function: str, epochs: IntArray, samples: IntArray) -> None:
    if epochs.ndim != 1 or epochs.shape != samples.shape:
        raise ValueError(
            f"{function}: epochs and samples must be (B,) both, got {epochs.shape} and {samples.shape}"
        )


def random_warp(
    seed: int, epochs: IntArray, samples: IntArray, step: int, config: WarpConfig, *, image: int = 0
) -> WarpDraws:
    """Draw one warp for each sample of a batch.

    Args:
        seed: of the run.
        epochs, samples: (B,) as given by ``global_batch`` or its share.
        step: of the run.
        config: the distribution.
        image: which warp of the sample, where one step needs several (0, 1, ...).
    """
    _check_batch("random_warp", epochs, samples)
    count, points = len(samples), config.grid**2
    normal = np.empty((count, 2 * points + 6))
    uniform = np.empty((count, 2))
    rngs = SampleRng()
    for i in range(count):
        rng = rngs.at(seed, int(epochs[i]), int(samples[i]), step, WARP_STREAM + 16 * image)
        rng.standard_normal(out=normal[i])
        rng.random(out=uniform[i])
    angle = np.deg2rad(config.rotation_degrees) * normal[:, -6]
    scale = np.exp(config.log_scale * normal[:, -5])
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    affine = np.empty((count, 2, 3))
    affine[:, :, :2] = np.stack([cos, -sin, sin, cos], axis=1).reshape(count, 2, 2)
    affine[:, :, :2] += config.linear_jitter * normal[:, -4:].reshape(count, 2, 2)
    affine[:, :, 2] = config.translation * (2 * uniform - 1)
    displacements = config.std * normal[:, : 2 * points].reshape(count, points, 2)
    return WarpDraws(displacements.astype(np.float32), affine.astype(np.float32))


def random_colour(
    seed: int, epochs: IntArray, samples: IntArray, step: int, config: ColourConfig, *, image: int = 0
) -> ColourDraws:
    """Draw one change of colour for each sample of a batch; arguments as for ``random_warp``.

    With ``per_image=False`` all samples, on all processes, get the same draw.
    """
    _check_batch("random_colour", epochs, samples)
    count = len(samples)
    uniform = np.empty((count, 2))
    if config.per_image:
        rngs = SampleRng()
        for i in range(count):
            rng = rngs.at(seed, int(epochs[i]), int(samples[i]), step, COLOUR_STREAM + 16 * image)
            rng.random(out=uniform[i])
    else:
        uniform[:] = sample_rng(seed, 0, 0, step, BATCH_COLOUR_STREAM + 16 * image).random(2)
    drawn = (2 * uniform - 1).astype(np.float32)
    return ColourDraws(config.brightness * drawn[:, 0], 1 + config.contrast * drawn[:, 1])
