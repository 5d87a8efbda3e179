"""The smallest network that has every part, for tests that run it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lmdis_fast.models import DecoderConfig, DetectorConfig, FeatureConfig, LandmarkAutoencoder, ModelConfig
from lmdis_fast.models.hourglass import HourglassConfig, LevelConfig


def body(width: int, levels: int = 1) -> HourglassConfig:
    """An hourglass of `levels` levels, all of one width."""
    level = LevelConfig(encoder=(width,), skip=1, decoder=(width,))
    return HourglassConfig(levels=(level,) * levels, bottleneck=(width + 1,))


MICRO = ModelConfig(
    image_size=16,
    landmarks=3,
    detector=DetectorConfig(stem="none", hourglass=body(6)),
    features=FeatureConfig(hourglass=body(5), descriptor=4),
    decoder=DecoderConfig(resolution=8, features=6, hourglass=body(7), upsample_width=5),
)


def micro(
    *, detector: object = None, features: object = None, decoder: object = None, **changes: object
) -> ModelConfig:
    """`MICRO` with fields of its parts changed: `micro(detector={"over": "pixels"}, padding=2)`."""
    parts = {"detector": detector, "features": features, "decoder": decoder}
    for name, fields in parts.items():
        if isinstance(fields, dict):
            changes[name] = replace(getattr(MICRO, name), **fields)
    return replace(MICRO, **changes)  # type: ignore[arg-type]


def build(config: ModelConfig = MICRO, seed: int = 0) -> LandmarkAutoencoder:
    """A network with repeatable weights."""
    torch.manual_seed(seed)
    return LandmarkAutoencoder(config)


def images(count: int = 2, size: int = 16, seed: int = 1) -> Tensor:
    """(count, 3, size, size) in [0, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
