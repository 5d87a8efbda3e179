"""One latent descriptor per landmark and one for the background (Zhang et al. 2018, eqs. 6, 9, 10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import gaussian_pool, landmark_pool
from .config import DetectorConfig, FeatureConfig
from .detector import Detection, isotropic_sigma, make_stem
from .hourglass import Hourglass


class GroupLinear(nn.Module):
    """A linear map of its own for each landmark: (N, K+1, inputs) to (N, K+1, outputs), with one bias for all or none."""

    def __init__(self, groups: int, inputs: int, outputs: int, *, shared_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, inputs, outputs))
        bound = (6 / (inputs + outputs)) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(outputs)) if shared_bias else None

    def forward(self, x: Tensor) -> Tensor:
        # einsum records a dozen views around the same product
        y = torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1)
        return y if self.bias is None else y + self.bias


class LandmarkFeatures(nn.Module):
    """Padded images (N, 3, P, P) and the detector's logits to descriptors (N, K+1, C), the background's last."""

    def __init__(self, config: FeatureConfig, detector: DetectorConfig, landmarks: int) -> None:
        super().__init__()
        self.config, self.detector_config = config, detector
        self.stem, width = make_stem(detector)
        self.hourglass = Hourglass(width, config.hourglass)
        self.reduce = GroupLinear(
            landmarks + 1, self.hourglass.out_channels, config.descriptor, shared_bias=config.shared_bias
        )

    def forward(self, images: Tensor, logits: Tensor, detection: Detection, padding_ratio: float) -> Tensor:
        maps = self.hourglass(self.stem(images)).float()
        over = "pixels" if self.detector_config.over == "marginals" else self.detector_config.over
        pooled = landmark_pool(maps, logits, over=over, temperature=self.detector_config.temperature)
        if self.config.mask == "gaussian":
            coords = detection.coords / padding_ratio
            sigma = isotropic_sigma(detection.variance, self.detector_config.sigma) / padding_ratio
            pooled = torch.cat([gaussian_pool(maps, coords, sigma), pooled[:, -1:]], dim=1)
        descriptors: Tensor = self.reduce(pooled)
        return descriptors
