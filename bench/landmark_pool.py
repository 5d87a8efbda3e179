"""Feature pooling under softmax maps against softmax and a batched product."""

from __future__ import annotations

import torch
from torch import Tensor

from lmdis_fast.ops import landmark_pool

from .harness import Contender, Timing, compare


def product(features: Tensor, logits: Tensor) -> Tensor:
    """Softmax, batched product, division by the mass."""
    q = torch.softmax(logits, 1).flatten(2)
    return torch.bmm(q, features.flatten(2).transpose(1, 2)) / q.sum(-1, keepdim=True)


def run() -> list[Timing]:
    """All cases."""
    timings = []
    for landmarks, size, channels in ((10, 32, 16), (10, 96, 64), (30, 96, 64)):
        features = torch.randn(16, channels, size, size).requires_grad_()
        logits = torch.randn(16, landmarks + 1, size, size).requires_grad_()
        contenders = [Contender("softmax + bmm", product), Contender("lmdis_fast", landmark_pool)]
        timings += compare(f"16x{landmarks + 1}x{size}x{size}, S={channels}", contenders, [features, logits])
    return timings
