"""Gradients against central differences of a NumPy formula: independent of both our backward and our forward."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

STEP = 1e-5


def assert_directional_derivative(
    formula: Callable[..., float], inputs: list[Tensor], gradients: list[Tensor], seed: int
) -> None:
    """``<gradient, v>`` equals ``(formula(x + h v) - formula(x - h v)) / 2 h`` for a random direction v.

    Infinite inputs stay where they are.
    """
    rng = np.random.default_rng(seed)
    x = [t.detach().numpy() for t in inputs]
    v = [np.where(np.isfinite(a), rng.standard_normal(a.shape), 0.0) for a in x]
    ahead = formula(*(a + STEP * b for a, b in zip(x, v, strict=True)))
    behind = formula(*(a - STEP * b for a, b in zip(x, v, strict=True)))
    slope = (ahead - behind) / (2 * STEP)
    found = sum(float((g.detach().numpy() * b).sum()) for g, b in zip(gradients, v, strict=True))
    assert abs(found - slope) <= 1e-6 * max(1.0, abs(slope)), f"{found} against {slope}"


def weights_like(array: np.ndarray) -> np.ndarray:
    """Weights of a scalar that depends on every element of a result."""
    return np.cos(np.linspace(0.2, 1.0, array.size)).reshape(array.shape)


def weighted(results: tuple[Tensor, ...]) -> Tensor:
    """The same scalar of tensors."""
    return sum((r * torch.from_numpy(weights_like(r.detach().numpy()))).sum() for r in results)  # type: ignore[return-value]
