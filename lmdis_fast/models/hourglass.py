"""Hourglass: the convolutional body shared by detector, landmark features and decoder (Newell et al. 2016; Zhang et al.
2018, section 3).

One level of it, at one resolution:

    x -> encoder convolutions -> (skip) -> max-pool 2x2 -> ... deeper levels ... -> nearest x2 -> + skip -> decoder convolutions

Every convolution is 3x3, stride 1, zero padding, with bias, batch norm (eps 1e-3) and leaky ReLU (slope 0.2). The published
code calls its decoder convolutions "deconvolutions": with stride 1 they are ordinary convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .batch_norm import NORM_EPS, ConvBlock, ConvChain

LEAKY_SLOPE = 0.2


@dataclass(frozen=True)
class LevelConfig:
    """Widths at one resolution of an hourglass."""

    encoder: tuple[int, ...]
    """Widths of the convolutions before the pooling; the last one feeds the skip branch."""
    skip: int
    """Number of convolutions on the skip branch."""
    decoder: tuple[int, ...]
    """Widths of the convolutions after the up-sampled and the skip tensor have been added."""


@dataclass(frozen=True)
class HourglassConfig:
    """An hourglass, from its finest level to its bottleneck."""

    levels: tuple[LevelConfig, ...]
    """Resolutions from fine to coarse, each half of the one before."""
    bottleneck: tuple[int, ...]
    """Widths of the convolutions at the coarsest resolution."""

    @property
    def reduction(self) -> int:
        """The input's sides must be divisible by this number."""
        return int(2 ** len(self.levels))


def xavier_(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Xavier-uniform weights and zero bias, as published."""
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def before_norm(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Leave the bias of a convolution before a batch norm at what it is.

    The norm takes it away again, so that its gradient is nothing but rounding, of which Adam would make steps as large as
    any.
    """
    if conv.bias is not None:
        conv.bias.requires_grad_(False)


def conv_block(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, norm: bool = True, activation: bool = True
) -> nn.Sequential:
    """Convolution, batch norm, leaky ReLU, in that order; norm and activation can be left out."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    xavier_(conv)
    layers: list[nn.Module] = [conv]
    if norm:
        before_norm(conv)
        layers.append(nn.BatchNorm2d(outputs, eps=NORM_EPS))
    if activation:
        layers.append(nn.LeakyReLU(LEAKY_SLOPE, inplace=True))
    return ConvBlock(*layers)


def conv_chain(inputs: int, widths: Sequence[int]) -> ConvChain:
    """`conv_block`s one after the other."""
    widths = list(widths)
    return ConvChain(*(conv_block(i, o) for i, o in zip([inputs, *widths], widths, strict=False)))


class Hourglass(nn.Module):
    """Encoder, bottleneck and decoder with additive skips.

    Input (N, inputs, H, W) with H and W divisible by `config.reduction`; output (N, `out_channels`, H, W).
    With `output` given, one more convolution maps the finest decoder tensor to that many channels without an
    activation; `output_norm` says whether batch norm follows it (as published) or not.
    """

    def __init__(
        self, inputs: int, config: HourglassConfig, *, output: int | None = None, output_norm: bool = True
    ) -> None:
        super().__init__()
        width = inputs
        encoders, skip_widths = [], []
        for level in config.levels:
            encoders.append(conv_chain(width, level.encoder))
            width = level.encoder[-1]
            skip_widths.append(width)
        bottleneck = conv_chain(width, config.bottleneck)
        width = config.bottleneck[-1]
        skips, decoders = [], []
        for level, skip_width in zip(reversed(config.levels), reversed(skip_widths), strict=True):
            skips.append(conv_chain(skip_width, [max(skip_width, width)] * (level.skip - 1) + [width]))
            decoders.append(conv_chain(width, level.decoder))
            width = level.decoder[-1] if level.decoder else width
        self.encoders = nn.ModuleList(encoders)
        self.bottleneck = bottleneck
        self.skips = nn.ModuleList(skips)  # coarse to fine, in the order of use
        self.decoders = nn.ModuleList(decoders)
        self.output = conv_block(width, output, norm=output_norm, activation=False) if output else None
        self.out_channels = output or width

    def forward(self, x: Tensor, upsample: bool = False) -> Tensor:
        """With ``upsample`` each pixel of what the finest level gives is doubled along both axes."""
        encoded = []
        for encoder in self.encoders:
            whole, x = encoder(x, pool=True)
            encoded.append(whole)
        x = self.bottleneck(x, upsample=upsample and not encoded)
        for skip, decoder in zip(self.skips, self.decoders, strict=True):
            joint = skip(encoded.pop(), low=x)
            x = decoder(joint, upsample=upsample and not encoded)
        return x if self.output is None else self.output(x)
