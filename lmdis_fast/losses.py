"""The training losses (Zhang et al. 2018, eqs. 1, 5, 7, 8; weights and constants as in the released code).

Points are (x, y) in [-1, 1] of the un-padded image and widths are in half sides, as the models return them. Every loss is
summed over landmarks or pixels and averaged over images, so that the published weights apply. Contents are not looked at (that would wait for a GPU): NaN gives
NaN, which training names and stops at.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ops import ThinPlateSpline


def _check(name: str, argument: str, tensor: Tensor, shape: str, ndim: int, last: int | None = None) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: {argument} must be a torch.Tensor, got {type(tensor).__name__}")
    fits = tensor.dim() == ndim and (last is None or tensor.shape[-1] == last) and len(tensor) > 0
    if not fits or not tensor.is_floating_point():
        raise ValueError(
            f"{name}: {argument} must be {shape} floating with N at least 1, got {tuple(tensor.shape)} {tensor.dtype}"
        )


def _check_pair(name: str, first: str, one: Tensor, second: str, other: Tensor) -> None:
    if not isinstance(other, Tensor):
        raise TypeError(f"{name}: {second} must be a torch.Tensor, got {type(other).__name__}")
    if one.shape != other.shape or not other.is_floating_point() or one.device != other.device:
        raise ValueError(
            f"{name}: {second} must be like {first}, {tuple(one.shape)} floating on {one.device}, "
            f"got {tuple(other.shape)} {other.dtype} on {other.device}"
        )


def _check_positive(name: str, argument: str, number: float) -> None:
    if not isinstance(number, (int, float)):
        raise TypeError(f"{name}: {argument} must be a number, got {type(number).__name__}")
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: {argument} must be positive and finite, got {number}")


def reconstruction_loss(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Half the squared error, summed over pixels and channels, averaged over images (row 7: the code's unit-variance
    Gaussian likelihood without its constant).

    Args:
        reconstruction, image: (N, C, H, W) in [0, 1].
    """
    _check("reconstruction_loss", "reconstruction", reconstruction, "(N, C, H, W)", 4)
    _check_pair("reconstruction_loss", "reconstruction", reconstruction, "image", image)
    # one pass over the pixels forward and one backward
    return F.mse_loss(reconstruction, image, reduction="sum") * (0.5 / len(image))


def concentration_loss(sigma: Tensor, form: str = "code") -> Tensor:
    """Spread of the heatmaps: sum over landmarks of 2 pi e sigma^2, the exponential of a Gaussian's entropy (row 2).

    Args:
        sigma: (N, K) isotropic widths in half sides; the formula's sigma is a fraction of the side.
        form: "code", or "paper": 2 pi e (sigma_u^2 + sigma_v^2)^2 as printed, for equal sigma_u and sigma_v.
    """
    _check("concentration_loss", "sigma", sigma, "(N, K)", 2)
    if form not in ("code", "paper"):
        raise ValueError(f"concentration_loss: form must be 'code' or 'paper', got {form!r}")
    variance = (sigma / 2).square()
    spread = variance if form == "code" else (2 * variance).square()
    return 2 * math.pi * math.e * spread.sum(-1).mean()


def separation_loss(coords: Tensor, bandwidth: float) -> Tensor:
    """Repulsion of landmarks: sum over ordered pairs of exp(-d^2 / (2 b^2)).

    Args:
        coords: (N, K, 2) points in [-1, 1].
        bandwidth: b as a fraction of the side (0.04 to 0.08 published).
    """
    _check("separation_loss", "coords", coords, "(N, K, 2)", 3, 2)
    _check_positive("separation_loss", "bandwidth", bandwidth)
    halves = coords / 2
    distance = (halves[:, :, None] - halves[:, None]).square().sum(-1)
    affinity = torch.exp(distance * (-0.5 / bandwidth**2))
    return (affinity.sum((1, 2)) - coords.shape[1]).mean()


def equivariance_loss(coords: Tensor, mapped: Tensor, inside: Tensor | None = None) -> Tensor:
    """Squared distance of landmarks from their warped twins' landmarks sent back through the warp.

    Args:
        coords: (N, K, 2) landmarks of the originals.
        mapped: (N, K, 2) landmarks of the warped images, mapped by the warp into the originals' frame.
        inside: (N, K) bool; landmarks where it is False do not count (row 13).
    """
    _check("equivariance_loss", "coords", coords, "(N, K, 2)", 3, 2)
    _check_pair("equivariance_loss", "coords", coords, "mapped", mapped)
    if inside is not None and (inside.shape != coords.shape[:2] or inside.dtype != torch.bool):
        raise ValueError(
            f"equivariance_loss: inside must be {tuple(coords.shape[:2])} bool, got {tuple(inside.shape)} {inside.dtype}"
        )
    squared = (mapped - coords).square().sum(-1)
    if inside is not None:
        squared = squared * inside
    return squared.sum(-1).mean()


class PairLosses(NamedTuple):
    """What :func:`pair_losses` returns: scalars, and the twins' landmarks sent back, (N, K, 2), without a gradient."""

    separation: Tensor
    equivariance: Tensor
    mapped: Tensor


def pair_losses(
    coords: Tensor, spline: ThinPlateSpline, *, ratio: float, bandwidth: float, in_frame: bool
) -> PairLosses:
    """:func:`separation_loss` and :func:`equivariance_loss` of a training pair, with their gradients in closed form.

    Autograd's record of the two is some seventy operations on a few hundred numbers; this is one. Differentiable once, by
    coords alone.

    Args:
        coords: (2N, K, 2) landmarks of N originals, then of their twins, in [-1, 1] of the un-padded image.
        spline: the N warps; they take points of a twin to its original, in the padded frame.
        ratio: side of the padded frame, in sides of the image.
        bandwidth: of the separation.
        in_frame: leave out landmarks that are sent back outside [-1, 1] (row 13).

    Returns:
        :class:`PairLosses`, in float32 or in float64 for coords in that.

    Raises:
        TypeError, ValueError: coords that are no such tensor, a spline that is none, not of N warps, or one that requires
            a gradient, a ratio or bandwidth that is not positive and finite.
    """
    op = "pair_losses"
    _check(op, "coords", coords, "(2N, K, 2)", 3, 2)
    if not isinstance(spline, ThinPlateSpline):
        raise TypeError(f"{op}: spline must be a ThinPlateSpline, got {type(spline).__name__}")
    if len(coords) != 2 * spline.batch_size:
        raise ValueError(
            f"{op}: coords must be (2N, K, 2) with N = {spline.batch_size} as the spline has, got {tuple(coords.shape)}"
        )
    parts = (spline.centers, spline.weights, spline.affine, spline.before)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts):
        raise ValueError(f"{op}: spline must not require a gradient: none reaches it")
    _check_positive(op, "ratio", ratio)
    _check_positive(op, "bandwidth", bandwidth)
    coords = coords if coords.dtype == torch.float64 else coords.float()
    return PairLosses(*_PairLosses.apply(coords, spline, ratio, bandwidth, in_frame))


class _PairLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, coords: Tensor, spline: ThinPlateSpline, ratio: float, bandwidth: float, in_frame: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        halves = coords / 2
        apart = halves[:, :, None] - halves[:, None]
        affinity = torch.exp(apart.square().sum(-1) * (-0.5 / bandwidth**2))
        separation = (affinity.sum((1, 2)) - coords.shape[1]).mean()
        by_separation = (affinity[..., None] * apart).sum(2) * (-1 / (bandwidth**2 * len(coords)))

        originals, twins = coords.chunk(2)
        mapped, pull_back = spline.transform_vjp(twins / ratio)
        mapped = mapped * ratio
        error = mapped - originals
        if in_frame:
            error = error * (mapped.abs() <= 1).all(-1, keepdim=True)
        equivariance = error.square().sum((1, 2)).mean()
        of_mapped = error * (2 / len(originals))
        by_equivariance = torch.cat([-of_mapped, pull_back(of_mapped)])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(by_separation, by_equivariance)
        ctx.mark_non_differentiable(mapped)
        return separation, equivariance, mapped

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, separation: Tensor | None, equivariance: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        upstream = zip(ctx.saved_tensors, (separation, equivariance), strict=True)
        parts = [gradient * of_loss for gradient, of_loss in upstream if of_loss is not None]
        return sum(parts[1:], parts[0]) if parts else None, None, None, None, None
