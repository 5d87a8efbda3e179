"""Health of the landmarks, from the moments that training computes anyway: failures named in plain sentences.

Four things go wrong in this family of methods, and each has a usual cure: landmarks lie on one another, sit at the image's
centre, do not move with the object, or lose their heatmap to the background.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..models import LandmarkAutoencoder
from ..models.detector import isotropic_sigma
from ..pairs import Pair

Array = npt.NDArray[np.float64]

TOGETHER = 0.02
"""Two landmarks whose median distance is below this fraction of the side lie on one another."""
CENTRE = 0.04
"""A landmark whose median distance from the centre is below this fraction of the side, and that hardly varies, sits there."""
FOLLOW = 0.5
"""A landmark that follows less than this share of a warp's displacement does not move with the object."""
FAITHFUL = 0.8
"""One that follows at least this share is at the centre because the object's part is there."""
PIXELS = 0.5
"""A landmark whose heatmap holds less than this many pixels has lost it to the background."""


CURES = {
    "background": "lost their heatmap to the background: lower --losses.concentration or use fewer --landmarks",
    "together": "lie on one another: raise --losses.separation or its bandwidth, or use fewer --landmarks",
    "centre": (
        "sit at the image's centre whatever the image shows, their heatmaps being flat: lower "
        "--model.detector.temperature or train longer (--images)"
    ),
    "still": "do not move with the object: train longer (--images) or raise --losses.equivariance",
}
"""What is wrong, in words, with the option that usually cures it."""


@dataclass(frozen=True)
class LandmarkHealth:
    """Measurements of one landmark over held-out images; lengths are fractions of the image's side."""

    landmark: int
    mass: float
    """Pixels that its heatmap holds (at the heatmap's resolution)."""
    spread: float
    """Width of its heatmap."""
    follow: float
    """Share of a warp's displacement that it follows: 1 is perfect, 0 is standing still."""
    error: float
    """Mean distance from its warped twin sent back."""
    variation: float
    """Standard deviation of its position over images."""
    nearest: int
    """The landmark nearest to it (its own number where there is no other)."""
    distance: float
    """Median distance from that one."""
    faults: tuple[str, ...] = ()
    """Keys of `CURES`; empty where nothing is wrong."""


@dataclass(frozen=True)
class HealthCheck:
    """All landmarks' health."""

    landmarks: tuple[LandmarkHealth, ...] = ()
    images: int = 0
    """Images measured."""

    @property
    def messages(self) -> list[str]:
        """One plain sentence for each kind of fault found."""
        sentences = []
        for fault, words in CURES.items():
            found = [str(h.landmark) for h in self.landmarks if fault in h.faults]
            if found:
                sentences.append(
                    f"Landmarks {', '.join(found)} {words}." if len(found) > 1 else singular(found[0], words)
                )
        return sentences

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "messages": self.messages}


def singular(landmark: str, words: str) -> str:
    """A sentence of `CURES` about one landmark."""
    for plural, single in (
        ("lost their heatmap", "lost its heatmap"),
        ("lie on one another", "lies on another"),
        ("sit at", "sits at"),
        ("their heatmaps being", "its heatmap being"),
        ("do not move", "does not move"),
    ):
        words = words.replace(plural, single)
    return f"Landmark {landmark} {words}."


def check_health(coords: Array, mapped: Array, still: Array, sigma: Array, mass: Array) -> HealthCheck:
    """Judge K landmarks over M images.

    Args:
        coords: (M, K, 2) landmarks of the originals in [-1, 1].
        mapped: (M, K, 2) landmarks of the warped twins, sent back to the originals.
        still: (M, K, 2) where `mapped` would be for landmarks that had not moved.
        sigma: (M, K) widths in half sides.
        mass: (M, K) pixels held.
    """
    count, landmarks = coords.shape[:2]
    half = coords / 2
    error = np.linalg.norm(mapped - coords, axis=-1).mean(0) / 2
    displacement = np.linalg.norm(still - coords, axis=-1).mean(0) / 2
    follow = 1 - error / np.maximum(displacement, 1e-9)
    variation = np.sqrt(half.var(0).sum(-1))
    off_centre = np.median(np.linalg.norm(half, axis=-1), axis=0)
    distance = np.median(np.linalg.norm(half[:, :, None] - half[:, None], axis=-1), axis=0)
    distance[np.arange(landmarks), np.arange(landmarks)] = np.inf
    pixels, spread = mass.mean(0), sigma.mean(0) / 2
    judged = []
    for k in range(landmarks):
        nearest = int(distance[k].argmin()) if landmarks > 1 else k
        near = float(distance[k, nearest]) if landmarks > 1 else 0.0
        wrong = {
            "background": pixels[k] < PIXELS,
            "together": landmarks > 1 and near < TOGETHER,
            "centre": off_centre[k] < CENTRE and variation[k] < CENTRE and follow[k] < FAITHFUL,
            "still": follow[k] < FOLLOW,
        }
        judged.append(
            LandmarkHealth(
                landmark=k,
                mass=float(pixels[k]),
                spread=float(spread[k]),
                follow=float(follow[k]),
                error=float(error[k]),
                variation=float(variation[k]),
                nearest=nearest,
                distance=near,
                faults=tuple(fault for fault, is_wrong in wrong.items() if is_wrong),
            )
        )
    return HealthCheck(tuple(judged), count)


@torch.no_grad()
def measure_health(model: LandmarkAutoencoder, pairs: Iterable[Pair]) -> HealthCheck:
    """Run the detector over pairs of held-out images and judge its landmarks. The model must be in evaluation mode."""
    ratio = model.config.padding_ratio
    collected: list[list[Array]] = []
    for pair in pairs:
        with model.autocast():
            logits = model.detector(pair.padded)
            detection = model.detector.locate(logits, ratio)
        count = len(pair.images)
        coords, twins = detection.coords[:count], detection.coords[count:]
        sigma = isotropic_sigma(detection.variance[:count], model.config.detector.sigma)
        pixels = logits.shape[-1] * logits.shape[-2]
        mass = detection.mass[:count] * (pixels if model.config.detector.over == "channels" else 1.0)
        rows = (
            coords,
            pair.spline.transform(twins / ratio) * ratio,
            pair.spline.transform(coords / ratio) * ratio,
            sigma,
            mass,
        )
        collected.append([np.asarray(t.double().cpu()) for t in rows])
    return check_health(*(np.concatenate(parts) for parts in zip(*collected, strict=True)))
