"""Decoder: landmarks and descriptors -> Gaussian maps -> hourglass -> image (Zhang et al. 2018, eqs. 11-13)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import render_gaussians, splat_landmarks
from .batch_norm import NORM_EPS, normalise_activate
from .config import DecoderConfig
from .hourglass import LEAKY_SLOPE, Hourglass, before_norm, conv_block, xavier_
from .landmark_features import GroupLinear


class SplatConv(nn.Module):
    """The decoder's first convolution, over the rendered maps and the landmarks' vectors spread with them.

    Splatting is linear in the vectors, so convolving the splatted maps equals convolving the heatmaps alone with weights
    of each sample's own: W_heat + W_feat h_k. `fold` chooses that way; both give the same result.
    """

    def __init__(self, channels: int, widths: int, features: int, outputs: int) -> None:
        super().__init__()
        self.channels, self.widths, self.features = channels, widths, features
        self.conv = nn.Conv2d(widths * (channels + features), outputs, 3, 1, 1)
        xavier_(self.conv)

    def spread(
        self, coords: Tensor, vectors: Tensor, size: int, sigmas: list[float], gains: list[float]
    ) -> Tensor:
        """The convolution of the splatted maps, (N, outputs, size, size)."""
        maps = splat_landmarks(coords, vectors, (size, size), sigma=sigmas, gain=gains, background=1.0)
        out: Tensor = self.conv(maps.contiguous(memory_format=torch.channels_last))
        return out

    def fold(self, heatmaps: Tensor, vectors: Tensor | None) -> Tensor:
        """The same from heatmaps (N, L, K+1, H, W) alone; `vectors` (N, K+1, S) or None for a code of shape only."""
        n, levels, channels, height, width = heatmaps.shape
        split = levels * channels
        weight = self.conv.weight[:, :split]
        if vectors is None:
            return F.conv2d(heatmaps.flatten(1, 2), weight, self.conv.bias, padding=1)
        outputs = len(weight)
        spread = self.conv.weight[:, split:].view(outputs, levels, self.features, 9)
        own = torch.einsum("olst,nks->nolkt", spread, vectors).reshape(n, outputs, split, 3, 3)
        weights = (weight + own).reshape(n * outputs, split, 3, 3)
        bias = None if self.conv.bias is None else self.conv.bias.repeat(n)
        out = F.conv2d(heatmaps.reshape(1, n * split, height, width), weights, bias, padding=1, groups=n)
        return out.view(n, outputs, height, width)


class Decoder(nn.Module):
    """Coordinates (N, K, 2) and descriptors (N, K+1, C) to images (N, 3, S, S) in [0, 1]."""

    def __init__(self, config: DecoderConfig, landmarks: int, descriptor: int) -> None:
        super().__init__()
        self.config = config
        channels, levels = landmarks + 1, len(config.sigmas)
        features = config.features if descriptor else 0
        self.expand = (
            GroupLinear(channels, descriptor, features, shared_bias=config.shared_bias)
            if descriptor
            else None
        )
        inputs = levels * (channels + features)
        body = Hourglass(
            inputs,
            config.hourglass,
            output=3 if config.upsample == "none" else None,
            output_norm=config.output_norm,
        )
        # The hourglass's first convolution becomes the splatting one; its norm and activation stay where they are.
        encoder = body.encoders[0]
        assert isinstance(encoder, nn.Sequential)
        first = encoder[0]
        assert isinstance(first, nn.Sequential)
        self.first = SplatConv(channels, levels, features, config.hourglass.levels[0].encoder[0])
        before_norm(self.first.conv)
        first[0] = nn.Identity()
        self.hourglass = body
        self.upsample: nn.Module = nn.Identity()
        if config.upsample == "nearest":
            self.upsample = nn.Sequential(
                nn.Identity(),  # the hourglass doubles its result itself; parameters keep their names
                conv_block(body.out_channels, config.upsample_width),
            )
        elif config.upsample == "transposed":
            self.upsample = DoublingBlock(body.out_channels, config.upsample_width)
        self.output = (
            nn.Identity()
            if config.upsample == "none"
            else conv_block(config.upsample_width, 3, norm=config.output_norm, activation=False)
        )
        self.sigmoid = nn.Sigmoid()

    def gains(self) -> list[float]:
        """Weight of a landmark's peak against the background, one for each width (row 6)."""
        if self.config.gain == "code":
            return [1 / (2 * math.pi * s**4 * self.config.gain_pixels) for s in self.config.sigmas]
        return [1 / (2 * math.pi * s**2) for s in self.config.sigmas]

    def forward(self, coords: Tensor, descriptors: Tensor) -> Tensor:
        config = self.config
        sigmas = [2 * s for s in config.sigmas]  # the operators' unit is half the side
        vectors = None
        if self.expand is not None:
            vectors = self.expand(descriptors)
            if config.activation:
                vectors = F.leaky_relu(vectors, LEAKY_SLOPE)
        size = config.resolution
        if vectors is not None and not config.fold_first:
            x = self.first.spread(coords, vectors, size, sigmas, self.gains())
        else:
            maps = render_gaussians(
                coords, (size, size), sigma=sigmas, gain=self.gains(), background=1.0, normalize="channels"
            )
            x = self.first.fold(maps, vectors)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.hourglass(x, upsample=config.upsample == "nearest")
        images: Tensor = self.sigmoid(self.output(self.upsample(x)).float())
        return images


class DoublingBlock(nn.Module):
    """3x3 transposed convolution of stride 2 (output index = 2 i + kernel index, the last row and column dropped), batch
    norm, leaky ReLU: the released 128-pixel networks' way from 64 to 128 pixels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, 2)
        xavier_(self.conv)
        before_norm(self.conv)
        self.norm = nn.BatchNorm2d(outputs, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        doubled = self.conv(x)[..., : 2 * height, : 2 * width]
        doubled = doubled.contiguous(memory_format=torch.channels_last)
        return normalise_activate(self.norm, doubled, LEAKY_SLOPE).out
