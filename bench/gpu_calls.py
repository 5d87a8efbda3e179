"""Every operator called with small inputs on a device, for the checks of `gpu_check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmdis_fast import ops

from .sizes import laid_out, seeded


@dataclass(frozen=True)
class Call:
    """An operator's call: ``run(*leaves)`` returns its results; all leaves have gradients."""

    name: str
    operator: str
    run: Callable[..., tuple[Tensor, ...]]
    leaves: tuple[Tensor, ...]


def _random(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=seeded(), dtype=torch.float64)


def _splines(batch: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Centres, weights and affine map of a mild warp."""
    affine = torch.tensor([[1.0, 0.03, 0.011], [-0.02, 1.0, 0.017]], dtype=torch.float64)
    parts = _random(7, 2, scale=0.5), _random(batch, 7, 2, scale=0.05), affine.expand(batch, 2, 3).clone()
    return tuple(part.to(dtype) for part in parts)


def calls(
    device: str,
    dtype: torch.dtype,
    landmarks: int,
    size: tuple[int, int],
    channels_last: bool,
    batch: int = 2,
    features: int = 20,
) -> Iterator[Call]:
    """All operators at one size."""
    logits = laid_out(_random(batch, landmarks + 1, *size, scale=2.0), channels_last)
    maps = laid_out(_random(batch, features, *size), channels_last)
    points, codes = _random(batch, landmarks, 2, scale=0.5), _random(batch, landmarks + 1, features)
    widths = torch.rand(batch, landmarks, generator=seeded(), dtype=torch.float64) * 0.3 + 0.2
    sigma = (0.25, 0.5)

    def call(name: str, run: Callable[..., Any], *leaves: Tensor) -> Call:
        def results(*given: Tensor) -> tuple[Tensor, ...]:
            out = run(*given)
            return (out,) if isinstance(out, Tensor) else tuple(out)

        moved = (leaf.to(device, leaf.dtype if leaf.dtype == torch.float32 else dtype) for leaf in leaves)
        return Call(name, name.split()[0], results, tuple(leaf.requires_grad_() for leaf in moved))

    for over in ("channels", "pixels", "marginals"):
        yield call(
            f"heatmap_moments {over}",
            lambda z, over=over: ops.heatmap_moments(z, over=over, covariance=True),
            logits,
        )
    for over in ("channels", "pixels"):
        yield call(
            f"landmark_pool {over}", lambda f, z, over=over: ops.landmark_pool(f, z, over=over), maps, logits
        )
    yield call("gaussian_pool", ops.gaussian_pool, maps, points, widths)
    for how, background in (("peak", None), ("sum", None), ("channels", 0.4)):
        yield call(
            f"render_gaussians {how}",
            lambda c, how=how, b=background: ops.render_gaussians(
                c, size, sigma=sigma, normalize=how, background=b
            ),
            points,
        )
    yield call(
        "splat_landmarks",
        lambda c, f: ops.splat_landmarks(c, f, size, sigma=sigma, background=0.4),
        points,
        codes,
    )
    spline = _splines(batch, torch.float32)
    for padding in ("border", "zeros"):
        yield call(
            f"tps_warp {padding}",
            lambda image, *s, padding=padding: ops.tps_warp(
                image, ops.ThinPlateSpline(*s), padding_mode=padding
            ),
            maps[:, :3],
            *spline,
        )
