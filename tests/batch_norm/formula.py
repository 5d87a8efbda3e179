"""The formula of batch_norm_leaky_relu in NumPy, one channel at a time."""

import math

import numpy as np

from ..heatmap_moments.formula import Array


def batch_norm_leaky_relu(
    x: Array, weight: Array, bias: Array, eps: float, slope: float
) -> tuple[Array, Array, Array]:
    """out (N, C, H, W), mean (C,) and unbiased variance (C,)."""
    out, mean, variance = np.zeros_like(x), np.zeros(x.shape[1]), np.full(x.shape[1], np.nan)
    for c in range(x.shape[1]):
        values = [float(v) for v in x[:, c].ravel()]
        mean[c] = math.fsum(values) / len(values)
        squares = math.fsum((v - mean[c]) ** 2 for v in values)
        if len(values) > 1:
            variance[c] = squares / (len(values) - 1)
        z = (x[:, c] - mean[c]) / math.sqrt(squares / len(values) + eps) * weight[c] + bias[c]
        out[:, c] = np.where(z > 0, z, slope * z)
    return out, mean, variance
