"""The model's configuration and its presets.

A field whose docstring names a row stands for a place where the published paper and the released code differ, or where
the release has a defect; its default is the recommended choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from .hourglass import HourglassConfig, LevelConfig

Preset = Literal["small-64", "paper-80", "paper-128"]


@dataclass(frozen=True)
class DetectorConfig:
    """Image to K landmark heatmaps and one background heatmap."""

    stem: Literal["none", "stride", "pool"] = "stride"
    """First convolution: none; 3x3 with stride 2; or 3x3 followed by a 2x2 max-pool (halves the heatmap's resolution)."""
    stem_width: int = 16
    """Channels of the stem."""
    stem_linear: bool = False
    """Row 29: the released 128-pixel stem has neither batch norm nor activation, an accident of its scope."""
    hourglass: HourglassConfig = field(
        default_factory=lambda: HourglassConfig(
            levels=(
                LevelConfig(encoder=(24, 24), skip=1, decoder=(24,)),
                LevelConfig(encoder=(48, 48), skip=1, decoder=(48, 24)),
                LevelConfig(encoder=(64, 64), skip=1, decoder=(64, 48)),
            ),
            bottleneck=(64, 64),
        )
    )
    """Body of the network."""
    pointwise_head: bool = False
    """Logits from a 1x1 convolution instead of a 3x3 one (the 128-pixel networks)."""
    logits_norm: bool = True
    """Row 15: batch norm on the logits. It bounds them and strongly affects training."""
    temperature: float = 1 / 3
    """Divides the logits before the softmax. Batch norm ties the logits' scale to the learning rate, so short runs need
    less than the published 1."""
    over: Literal["channels", "pixels", "marginals"] = "channels"
    """Axis of the softmax: across the K+1 channels at each pixel, as published, or over space."""
    sigma: Literal["mean_of_stds", "mean_of_variances"] = "mean_of_stds"
    """Row 1: isotropic width of a landmark: mean of the two standard deviations (code) or root of the mean of the two
    variances (paper)."""


@dataclass(frozen=True)
class FeatureConfig:
    """Image to one latent descriptor per landmark and one for the background."""

    hourglass: HourglassConfig = field(
        default_factory=lambda: HourglassConfig(
            levels=(
                LevelConfig(encoder=(16, 16), skip=1, decoder=(16, 16)),
                LevelConfig(encoder=(32, 32), skip=1, decoder=(32, 16)),
            ),
            bottleneck=(48, 32),
        )
    )
    """Body of the network; its last width is the number of pooled channels S."""
    descriptor: int = 8
    """Length C of a landmark's descriptor; 0 codes the shape alone."""
    mask: Literal["softmax", "gaussian"] = "softmax"
    """Row 3: pool under the raw softmax map (code) or under its Gaussian approximation (paper)."""
    shared_bias: bool = True
    """Row 5: one bias shared by all landmarks' linear maps (code) or none (paper)."""


@dataclass(frozen=True)
class DecoderConfig:
    """Landmarks and descriptors to an image."""

    resolution: int = 32
    """Side at which the Gaussians are rendered and the hourglass runs."""
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Widths of the rendered Gaussians as fractions of the image's side."""
    gain: Literal["code", "paper"] = "code"
    """Row 6: weight of a landmark's peak against the background of 1: 1/(2 pi sigma^4 H W) as in the code or
    1/(2 pi sigma^2) as in the paper (sigma as a fraction of the side)."""
    gain_pixels: int = 80 * 80
    """H W in the code's gain. Fixed, so that the balance does not change with the resolution."""
    features: int = 32
    """Channels S' of each landmark's splatted vector."""
    activation: bool = False
    """Row 4: leaky ReLU after a landmark's linear map (paper) or nothing (code)."""
    shared_bias: bool = True
    """Row 5, on the decoder's side."""
    hourglass: HourglassConfig = field(
        default_factory=lambda: HourglassConfig(
            levels=(
                LevelConfig(encoder=(32, 32), skip=1, decoder=(32,)),
                LevelConfig(encoder=(48,), skip=1, decoder=(32,)),
                LevelConfig(encoder=(64,), skip=1, decoder=(48,)),
            ),
            bottleneck=(96, 64),
        )
    )
    """Body of the network; its first convolution reads the rendered maps."""
    fold_first: bool = True
    """Fold splatting into the first convolution: the same function with several times fewer multiplications."""
    upsample: Literal["none", "nearest", "transposed"] = "nearest"
    """From the rendering resolution to the image: nothing; nearest x2; or a 3x3 transposed convolution of stride 2."""
    upsample_width: int = 16
    """Channels of the convolution that follows the up-sampling."""
    output_norm: bool = True
    """Row 15: batch norm before the sigmoid."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the network's parameters and its arithmetic."""

    image_size: int = 64
    """Side of the square input and output image in pixels."""
    landmarks: int = 10
    """Number K of landmarks."""
    padding: int = 0
    """Pixels added on every side before detector and feature network see the image (80 -> 96 as published). Landmarks
    are reported in the un-padded frame and may lie outside it (row 31)."""
    padding_value: Literal["mean_edge", "edge"] = "mean_edge"
    """Fill: the mean of the image's four border lines (published), or the nearest border pixel."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def padded_size(self) -> int:
        """Side of the padded image in pixels."""
        return self.image_size + 2 * self.padding

    @property
    def padding_ratio(self) -> float:
        """Padded over un-padded side: a landmark's un-padded coordinate is its padded one times this."""
        return self.padded_size / self.image_size


def all_widths(hourglass: HourglassConfig) -> list[int]:
    """Every number of channels and of skip convolutions in an hourglass."""
    levels = [w for level in hourglass.levels for w in (*level.encoder, *level.decoder, level.skip)]
    return [*levels, *hourglass.bottleneck]


def check_model_config(config: ModelConfig) -> None:
    """Raise ValueError, naming the field, where sizes cannot work."""
    stem = 1 if config.detector.stem == "none" else 2
    widths = [
        *(
            (f"{n}.hourglass", w)
            for n in ("detector", "features", "decoder")
            for w in all_widths(getattr(config, n).hourglass)
        ),
        ("detector.stem_width", config.detector.stem_width),
        ("decoder.upsample_width", config.decoder.upsample_width),
        ("decoder.features", config.decoder.features),
        ("decoder.gain_pixels", config.decoder.gain_pixels),
    ]
    for name, number in [("image_size", config.image_size), ("landmarks", config.landmarks), *widths]:
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"model.{name} must be whole numbers of at least 1, got {number}")
    for name in ("detector", "features", "decoder"):
        hourglass = getattr(config, name).hourglass
        if (
            not hourglass.bottleneck
            or not hourglass.levels
            or not all(level.encoder for level in hourglass.levels)
        ):
            raise ValueError(f"model.{name}.hourglass must have levels with encoders, and a bottleneck")
    if config.padding < 0:
        raise ValueError(f"model.padding must be at least 0, got {config.padding}")
    if not config.detector.temperature > 0:
        raise ValueError(f"model.detector.temperature must be positive, got {config.detector.temperature}")
    if config.features.descriptor < 0:
        raise ValueError(f"model.features.descriptor must be at least 0, got {config.features.descriptor}")
    if not config.decoder.sigmas or min(config.decoder.sigmas) <= 0:
        raise ValueError(f"model.decoder.sigmas must be positive numbers, got {config.decoder.sigmas}")
    for name, hourglass in (("detector", config.detector.hourglass), ("features", config.features.hourglass)):
        unit = stem * hourglass.reduction
        if config.padded_size % unit:
            raise ValueError(
                f"model.image_size plus twice model.padding must be divisible by {unit} (model.{name}), "
                f"got {config.image_size} + 2*{config.padding} = {config.padded_size}"
            )
    if config.decoder.resolution % config.decoder.hourglass.reduction:
        raise ValueError(
            f"model.decoder.resolution must be divisible by {config.decoder.hourglass.reduction}, "
            f"got {config.decoder.resolution}"
        )
    factor = 1 if config.decoder.upsample == "none" else 2
    if config.decoder.resolution * factor != config.image_size:
        raise ValueError(
            f"model.decoder.resolution times {factor} must equal model.image_size, "
            f"got {config.decoder.resolution} and {config.image_size}"
        )


def _level(encoder: tuple[int, ...], skip: int, decoder: tuple[int, ...]) -> LevelConfig:
    return LevelConfig(encoder=encoder, skip=skip, decoder=decoder)


def _paper_80(landmarks: int) -> ModelConfig:
    return ModelConfig(
        image_size=80,
        landmarks=landmarks,
        padding=8,
        detector=DetectorConfig(
            stem="none",
            temperature=1.0,
            hourglass=HourglassConfig(
                levels=(
                    _level((32, 32), 3, (32,)),
                    _level((64, 64), 3, (64, 32)),
                    _level((64, 64), 3, (64, 64)),
                ),
                bottleneck=(64, 64, 64, 64),
            ),
        ),
        features=FeatureConfig(
            hourglass=HourglassConfig(
                levels=(
                    _level((32, 64), 2, (64, 64)),
                    _level((128,), 2, (64,)),
                    _level((256,), 2, (128,)),
                ),
                bottleneck=(512, 256),
            ),
        ),
        decoder=DecoderConfig(
            resolution=80,
            sigmas=tuple(0.125 * math.sqrt(2) ** m for m in range(5)),
            features=64,
            hourglass=HourglassConfig(
                levels=(
                    _level((64, 64), 2, (32,)),
                    _level((128,), 2, (64,)),
                    _level((256,), 2, (128,)),
                    _level((512,), 2, (256,)),
                ),
                bottleneck=(512, 512),
            ),
            upsample="none",
        ),
    )


def _paper_128(landmarks: int) -> ModelConfig:
    widths = (64, 128, 256, 512)
    decoder_input = 5 * (landmarks + 1) + 320

    def body(finest: int) -> HourglassConfig:
        mirrored = (finest, *widths[:-1])
        return HourglassConfig(
            levels=tuple(_level((w,), 2, (m,)) for w, m in zip(widths, mirrored, strict=True)),
            bottleneck=(512, 512),
        )

    return ModelConfig(
        image_size=128,
        landmarks=landmarks,
        padding=32,
        detector=DetectorConfig(
            stem="pool", stem_width=32, hourglass=body(32), pointwise_head=True, temperature=1.0
        ),
        features=FeatureConfig(hourglass=body(32)),
        decoder=DecoderConfig(
            resolution=64,
            sigmas=tuple(0.125 * math.sqrt(2) ** m for m in range(5)),
            gain_pixels=64 * 64,
            features=64,
            hourglass=body(decoder_input),
            upsample="transposed",
            upsample_width=32,
        ),
    )


def model_preset(name: Preset, *, landmarks: int = 10, image_size: int | None = None) -> ModelConfig:
    """The configuration of a preset.

    Args:
        name: "small-64" (0.8 M parameters, for a laptop), "paper-80" (19.8 M) or "paper-128" (42.9 M): the published
            networks for 80- and 128-pixel images.
        landmarks: number K of landmarks.
        image_size: another side than the preset's own, in pixels; the decoder's resolution follows.
    """
    builders = {
        "small-64": lambda: ModelConfig(landmarks=landmarks),
        "paper-80": lambda: _paper_80(landmarks),
        "paper-128": lambda: _paper_128(landmarks),
    }
    if name not in builders:
        raise ValueError(f"preset must be one of {', '.join(builders)}, got {name!r}")
    config = builders[name]()
    if image_size is not None and image_size != config.image_size:
        factor = 1 if config.decoder.upsample == "none" else 2
        config = replace(
            config,
            image_size=image_size,
            decoder=replace(config.decoder, resolution=image_size // factor),
        )
    check_model_config(config)
    return config
