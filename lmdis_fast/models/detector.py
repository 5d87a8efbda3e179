"""Landmark detector: image -> hourglass -> K+1 logit maps -> softmax -> coordinates (Zhang et al. 2018, eqs. 2-4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops import heatmap_moments
from .config import DetectorConfig
from .hourglass import Hourglass, conv_block


class Detection(NamedTuple):
    """Landmarks of N images, in the un-padded image's frame.

    coords: (N, K, 2) float32, (x, y) in [-1, 1]; may lie outside where the detector fired in the padding.
    variance: (N, K, 2) float32, of each landmark's heatmap along x and y, in units of (half the side)^2.
    mass: (N, K) float32, share of the heatmap's pixels that the landmark holds, in [0, 1].
    """

    coords: Tensor
    variance: Tensor
    mass: Tensor


class Stem(nn.Module):
    """The convolution before an hourglass, which may halve the resolution."""

    def __init__(self, kind: str, width: int, *, linear: bool) -> None:
        super().__init__()
        self.block = conv_block(
            3, width, stride=2 if kind == "stride" else 1, norm=not linear, activation=not linear
        )
        self.pool = kind == "pool"

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.block(images, pool=True).pooled if self.pool else self.block(images)
        return x


def make_stem(config: DetectorConfig) -> tuple[nn.Module, int]:
    """The stem that detector and feature network each have, and its number of channels."""
    if config.stem == "none":
        return nn.Identity(), 3
    return Stem(config.stem, config.stem_width, linear=config.stem_linear), config.stem_width


class Detector(nn.Module):
    """Padded images (N, 3, P, P) to logits (N, K+1, H, W), background last."""

    def __init__(self, config: DetectorConfig, landmarks: int) -> None:
        super().__init__()
        self.config = config
        self.stem, width = make_stem(config)
        channels = landmarks + 1
        output = None if config.pointwise_head else channels
        self.hourglass = Hourglass(width, config.hourglass, output=output, output_norm=config.logits_norm)
        self.head = (
            conv_block(
                self.hourglass.out_channels, channels, kernel=1, norm=config.logits_norm, activation=False
            )
            if config.pointwise_head
            else nn.Identity()
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hourglass(self.stem(images)))
        return logits

    def locate(self, logits: Tensor, padding_ratio: float = 1.0) -> Detection:
        """Coordinates, variances and masses of the logits' landmarks, scaled to the un-padded frame."""
        moments = heatmap_moments(logits, over=self.config.over, temperature=self.config.temperature)
        pixels = logits.shape[-1] * logits.shape[-2]
        mass = moments.mass / pixels if self.config.over == "channels" else moments.mass
        return Detection(moments.coords * padding_ratio, moments.variance * padding_ratio**2, mass)


def isotropic_sigma(variance: Tensor, kind: str) -> Tensor:
    """(..., 2) variances to one width, in the variances' unit: mean of the standard deviations (code), or root of the
    mean variance (paper). The 1e-12 keeps the gradient finite where a heatmap has collapsed onto one pixel."""
    if kind == "mean_of_stds":
        return torch.sqrt(variance + 1e-12).mean(-1)
    return torch.sqrt(variance.mean(-1) + 1e-12)
