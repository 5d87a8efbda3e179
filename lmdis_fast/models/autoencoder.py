"""The whole system: detector, landmark features and decoder joined into one autoencoder whose code is a set of landmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig, check_model_config
from .decoder import Decoder
from .detector import Detection, Detector, isotropic_sigma
from .landmark_features import LandmarkFeatures

Precision = Literal["fp32", "bf16"]
Half = Literal["original", "warped"]
"""Of a pair."""


class LandmarkCode(NamedTuple):
    """What an image is reduced to, and all that the decoder sees.

    coords: (N, K, 2) float32 landmarks, (x, y) in [-1, 1].
    features: (N, K+1, C) float32 descriptors, the background's last.
    """

    coords: Tensor
    features: Tensor


class PairOutput(NamedTuple):
    """What a training step needs of one pass over originals and their warped twins.

    detection: of all 2N images. sigma: (2N, K) isotropic widths in half sides. images: (N, 3, S, S) reconstructions.
    """

    detection: Detection
    sigma: Tensor
    images: Tensor


class LandmarkAutoencoder(nn.Module):
    """Detector, features and decoder. Build it from a `ModelConfig`, or get a trained one from `lmdis_fast.load`.

    Images are (N, 3, S, S) with S = `config.image_size`, either uint8 or floating point in [0, 1].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_model_config(config)
        self.config = config
        self.precision: Precision = "fp32"
        self.detector = Detector(config.detector, config.landmarks)
        self.features = (
            LandmarkFeatures(config.features, config.detector, config.landmarks)
            if config.features.descriptor
            else None
        )
        self.decoder = Decoder(config.decoder, config.landmarks, config.features.descriptor)
        self.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.decoder.first.conv.weight.device

    # ---- for users -------------------------------------------------------------------------------------------------

    def detect(self, images: Tensor, *, views: int = 1) -> Detection:
        """Landmarks of images: coords (N, K, 2), variance (N, K, 2), mass (N, K); see `Detection`.

        With `views=9` the means over the images shifted by -1, 0 and 1 pixel in x and in y, sent back: pooling and strides
        make a detector's answer jitter with the pixel grid, and this takes most of it away for nine times the work.
        """
        images = self._check_images("detect", images)
        if views not in (1, 9):
            raise ValueError(f"detect: views must be 1 or 9, got {views}")
        size, bordered = images.shape[-1], F.pad(images, (1, 1, 1, 1), mode="replicate")
        found = []
        for y, x in [(0, 0)] if views == 1 else list(product((-1, 0, 1), repeat=2)):
            shifted = bordered[..., 1 + y : 1 + y + size, 1 + x : 1 + x + size]
            with self.autocast():
                detection = self._locate(self.detector(self.pad(shifted)))
            shift = detection.coords.new_tensor([x, y]) * (2 / size)
            found.append(detection._replace(coords=detection.coords + shift))
        return Detection(*(torch.stack(parts).mean(0) for parts in zip(*found, strict=True)))

    def encode(self, images: Tensor) -> LandmarkCode:
        """Landmarks (N, K, 2) and descriptors (N, K+1, C) of images."""
        padded = self.pad(self._check_images("encode", images))
        with self.autocast():
            logits = self.detector(padded)
            detection = self._locate(logits)
            return LandmarkCode(detection.coords, self._describe(padded, logits, detection))

    def decode(self, code: LandmarkCode) -> Tensor:
        """Images (N, 3, S, S) in [0, 1] of a code, whose landmarks may have been moved."""
        if not isinstance(code, tuple) or len(code) != 2 or not all(isinstance(t, Tensor) for t in code):
            raise TypeError(f"decode: code must be a LandmarkCode of two tensors, got {type(code).__name__}")
        coords, features = code
        k, c = self.config.landmarks, self.config.features.descriptor
        if coords.dim() != 3 or coords.shape[1:] != (k, 2):
            raise ValueError(f"decode: code.coords must be (N, {k}, 2), got {tuple(coords.shape)}")
        if features.shape != (len(coords), k + 1, c):
            raise ValueError(
                f"decode: code.features must be ({len(coords)}, {k + 1}, {c}), got {tuple(features.shape)}"
            )
        for name, tensor in (("coords", coords), ("features", features)):
            if not tensor.is_floating_point():
                raise TypeError(f"decode: code.{name} must be floating point, got {tensor.dtype}")
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"decode: code.{name} must be finite, got NaN or infinity")
        device = self.device
        if coords.device != device or features.device != device:
            raise ValueError(f"decode: code must be on {device}, got {coords.device} and {features.device}")
        if not len(coords):
            return coords.new_zeros(0, 3, self.config.image_size, self.config.image_size, dtype=torch.float32)
        with self.autocast():
            images: Tensor = self.decoder(coords.float(), features.float())
        return images

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images: `decode(encode(images))`."""
        return self.decode(self.encode(images))

    # ---- for training ----------------------------------------------------------------------------------------------

    def forward_pair(
        self, padded: Tensor, *, appearance_from: Half = "original", reconstruct: Half = "original"
    ) -> PairOutput:
        """One pass over N padded originals followed by their N warped twins, (2N, 3, P, P).

        Both halves go through the detector together, so that they share batch statistics. One half is reconstructed from
        its landmarks and from the descriptors of the half that lends its appearance.
        """
        count = len(padded) // 2
        halves = {"original": slice(0, count), "warped": slice(count, None)}
        with self.autocast():
            logits = self.detector(padded)
            detection = self._locate(logits)
            half = halves[appearance_from]
            features = self._describe(padded[half], logits[half], Detection(*(t[half] for t in detection)))
            images = self.decoder(detection.coords[halves[reconstruct]], features)
        sigma = isotropic_sigma(detection.variance, self.config.detector.sigma)
        return PairOutput(detection, sigma, images)

    def pad(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) to (N, 3, P, P), in channels_last order, filled as `config.padding_value` says."""
        pad, mode = self.config.padding, self.config.padding_value
        if not pad:
            return images.contiguous(memory_format=torch.channels_last)
        if mode == "edge":
            padded = F.pad(images, (pad,) * 4, mode="replicate")
        else:
            rim = images[..., 0, :] + images[..., -1, :]
            rim = rim + images[..., :, 0] + images[..., :, -1]  # sides are equal: the images are square
            mean = rim.mean(-1)[..., None, None] / 4
            padded = F.pad(images - mean, (pad,) * 4) + mean
        return padded.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        """The precision of the convolutions; landmarks are computed in float32 whatever it is."""
        device = self.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def _locate(self, logits: Tensor) -> Detection:
        return self.detector.locate(logits, self.config.padding_ratio)

    def _describe(self, padded: Tensor, logits: Tensor, detection: Detection) -> Tensor:
        if self.features is None:
            return logits.new_zeros(len(padded), self.config.landmarks + 1, 0, dtype=torch.float32)
        features: Tensor = self.features(padded, logits, detection, self.config.padding_ratio)
        return features

    def _check_images(self, name: str, images: Tensor) -> Tensor:
        size = self.config.image_size
        if not isinstance(images, Tensor):
            raise TypeError(f"{name}: images must be a torch.Tensor, got {type(images).__name__}")
        if images.dim() != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"{name}: images must be (N, 3, {size}, {size}), got {tuple(images.shape)}")
        device = self.device
        if images.device != device:
            raise ValueError(f"{name}: images must be on {device} like the model, got {images.device}")
        if images.dtype == torch.uint8:
            return images.float() / 255
        if not images.is_floating_point():
            raise TypeError(f"{name}: images must be uint8 or floating point in [0, 1], got {images.dtype}")
        if not bool(torch.isfinite(images).all()):
            raise ValueError(f"{name}: images must be finite, got NaN or infinity")
        if len(images) and not (float(images.min()) >= -0.5 and float(images.max()) <= 1.5):
            raise ValueError(
                f"{name}: floating-point images must be in [0, 1], got {float(images.min()):g} to "
                f"{float(images.max()):g} (divide by 255, or give uint8)"
            )
        return images.float()


@contextmanager
def averaging_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, every batch norm forgets its running statistics and averages those of the batches it sees, all with
    equal weight."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's spelling of a cumulative average
    model.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)


@torch.no_grad()
def reestimate_batch_statistics(model: LandmarkAutoencoder, pairs: Iterable[Tensor]) -> None:
    """Replace running statistics by exact averages over batches of padded pairs (2N, 3, P, P), as training sees them.

    Running averages lag behind the weights (row 17): do this before every evaluation.
    """
    with averaging_batch_statistics(model):
        for padded in pairs:
            model.forward_pair(padded)
