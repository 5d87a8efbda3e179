"""From a batch of images to what the model trains on: jittered originals followed by their warped twins.

Everything drawn is a pure function of (seed, epoch, sample, step).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .config import TrainConfig
from .data import Batch, random_colour, random_warp
from .data.augment import moves_landmarks
from .models import LandmarkAutoencoder
from .ops import ThinPlateSpline, tps_warp


class Pair(NamedTuple):
    """One step's input.

    images: (N, 3, S, S) jittered originals in [0, 1]: the reconstruction's target.
    padded: (2N, 3, P, P) the padded originals, then their warped twins.
    spline: the N warps; they take points of a twin to its original, in the padded frame.
    """

    images: Tensor
    padded: Tensor
    spline: ThinPlateSpline

    def half(self, which: str) -> Tensor:
        """(N, 3, S, S) un-padded originals or warped twins."""
        if which == "original":
            return self.images
        pad = (self.padded.shape[-1] - self.images.shape[-1]) // 2
        size = self.images.shape[-1]
        return self.padded[len(self.images) :, :, pad : pad + size, pad : pad + size]


def jitter_colour(images: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """contrast (N,) about each image's mean colour, plus brightness (N,), clipped to [0, 1]."""
    mean = images.mean((2, 3), keepdim=True)
    contrast, brightness = (t.to(images.device)[:, None, None, None] for t in (contrast, brightness))
    return torch.addcmul(mean * (1 - contrast) + brightness, images, contrast).clamp_(0, 1)


def make_pair(model: LandmarkAutoencoder, batch: Batch, config: TrainConfig, step: int) -> Pair:
    """Jitter, pad and warp one batch."""
    device = model.device
    images = batch.images.to(device, non_blocking=True) / 255  # bytes become float32 in the same pass
    draws = (config.seed, batch.epochs, batch.samples, step)
    colour = random_colour(*draws, config.colour)
    images = jitter_colour(images, torch.from_numpy(colour.contrast), torch.from_numpy(colour.brightness))
    padded = model.pad(images)
    spline = draw_splines(model, padded, batch, config, step)
    twins = tps_warp(padded, spline, padding_mode=config.padding_mode)
    if config.colour.twins:
        colour = random_colour(*draws, config.colour, image=1)
        twins = jitter_colour(twins, torch.from_numpy(colour.contrast), torch.from_numpy(colour.brightness))
    both = torch.cat([padded, twins]).contiguous(memory_format=torch.channels_last)
    return Pair(images, both, spline)


def draw_splines(
    model: LandmarkAutoencoder, padded: Tensor, batch: Batch, config: TrainConfig, step: int
) -> ThinPlateSpline:
    """The warps of one step: splines that move a grid or, in some steps, the detected landmarks; and affine maps."""
    warp = random_warp(config.seed, batch.epochs, batch.samples, step, config.warp)
    displacements = torch.from_numpy(warp.displacements).to(padded.device)
    affine = torch.from_numpy(warp.affine).to(padded.device)
    if moves_landmarks(config.seed, step, config.warp):
        with torch.no_grad(), model.autocast():
            coords = model.detector.locate(model.detector(padded)).coords
        moves = displacements[:, : config.model.landmarks] * (config.warp.landmark_std / config.warp.std)
        # Landmarks may lie on one another: the ridge keeps such splines defined.
        spline = ThinPlateSpline.fit(coords, coords + moves, alpha=1e-2)
    else:
        spline = ThinPlateSpline.from_displacements(
            displacements, grid=config.warp.grid, kernel_gain=config.warp.kernel_gain
        )
    if config.warp.order == "affine_after":
        return spline.compose_affine(after=affine)
    return spline.compose_affine(before=affine)
