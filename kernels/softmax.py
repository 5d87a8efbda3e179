"""Softmax terms that several rooms share, in powers of two: logits come multiplied by ``log2(e) / temperature``.

Channels are the first axis of a tile, whatever the others are.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def finite_peak(peak):
    """What to take away before ``exp2``: 0 in place of the ``-inf`` of terms that are all masked."""
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def inverse_total(total):
    """``1 / total``, 0 where all terms are masked. NaN stays."""
    return tl.where(total == 0.0, 0.0, 1.0 / tl.where(total == 0.0, 1.0, total))


@triton.jit
def across_channels(z):
    """Softmax of a tile at each pixel; zero where all channels are masked."""
    weights = tl.exp2(z - tl.expand_dims(finite_peak(tl.max(z, 0)), 0))
    return weights * tl.expand_dims(inverse_total(tl.sum(weights, 0)), 0)


@triton.jit
def running(peak, total, z):
    """Peak and total at each pixel with one more chunk of channels, and the factor for older sums."""
    higher = tl.maximum(peak, tl.max(z, 0))
    safe = finite_peak(higher)
    fade = tl.exp2(peak - safe)
    return higher, total * fade + tl.sum(tl.exp2(z - tl.expand_dims(safe, 0)), 0), fade
