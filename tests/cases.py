"""Every operator as it is called by a user, with small inputs: what the gradient, opcheck, compile and backend tests
of all rooms walk through."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmdis_fast.ops import (
    ThinPlateSpline,
    batch_norm_leaky_relu,
    gaussian_pool,
    heatmap_moments,
    landmark_pool,
    max_pool_2x2,
    render_gaussians,
    splat_landmarks,
    tps_warp,
    upsample_add,
)

from .strategies import uniform

#: A map around which splines fold nothing and no position falls on a pixel's edge.
UNIT = torch.tensor([[1.0, 0.03, 0.011], [-0.02, 1.0, 0.017]], dtype=torch.float64)

SHARED = uniform((4, 2), 1)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a case's tensors. The image that a spline warps is a pixel higher and wider than the result."""

    batch: int = 2
    landmarks: int = 3
    features: int = 2
    height: int = 3
    width: int = 4

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.height, self.width


@dataclasses.dataclass(frozen=True)
class Case:
    """``call`` takes the tensors that ``inputs(seed)`` makes in float64, and returns a tensor or several.

    ``roles`` says what each of them is: logits, features, points, widths, scales, or spline.
    """

    room: str
    name: str
    operator: str
    roles: tuple[str, ...]
    call: Callable[..., Any]
    inputs: Callable[[int], tuple[Tensor, ...]]
    at: Callable[[Shape], "Case"] | None = None

    def __str__(self) -> str:
        return self.name

    def tensors(self, dtype: torch.dtype = torch.float64, grad: bool = True, seed: int = 0) -> list[Tensor]:
        """Leaves in a dtype (splines stay in float32 at least)."""
        return [t.to(dtype).clone().requires_grad_(grad) for t in self.inputs(seed)]

    def results(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the call returns, as a tuple."""
        out = self.call(*tensors)
        return (out,) if isinstance(out, Tensor) else tuple(out)


def _widened(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """A spline's tensors, which are float32 at least."""
    return [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]


def _spline(name: str, shape: Shape, shared: bool, before: bool, **options: Any) -> Case:
    batch, points = shape.batch, shape.landmarks + 1

    def inputs(seed: int) -> tuple[Tensor, ...]:
        centers = uniform((points, 2) if shared else (batch, points, 2), seed + 1)
        maps = UNIT + uniform((batch, 2, 3), seed + 3, 0.02)
        image = uniform((batch, shape.features, shape.height + 1, shape.width + 1), seed)
        tensors = (image, centers, uniform((batch, points, 2), seed + 2, 0.1), maps)
        return (*tensors, maps + uniform((batch, 2, 3), seed + 4, 0.02)) if before else tensors

    def call(image: Tensor, *spline: Tensor) -> Tensor:
        return tps_warp(image, ThinPlateSpline(*_widened(spline)), shape.size, **options)

    roles = ("features", *["spline"] * (4 if before else 3))
    return Case("tps_warp", name, "tps_warp", roles, call, inputs)


def _constant_centers(name: str, shape: Shape) -> Case:
    def call(image: Tensor, *spline: Tensor) -> Tensor:
        weights, affine = _widened(spline)
        return tps_warp(image, ThinPlateSpline(SHARED.to(weights.dtype), weights, affine))

    def inputs(seed: int) -> tuple[Tensor, ...]:
        batch = shape.batch
        return (
            uniform((batch, shape.features, shape.height + 1, shape.width + 1), seed),
            uniform((batch, 4, 2), seed + 2, 0.1),
            UNIT + uniform((batch, 2, 3), seed, 0.02),
        )

    return Case("tps_warp", name, "tps_warp", ("features", "spline", "spline"), call, inputs)


def _moments(name: str, shape: Shape, **options: Any) -> Case:
    return Case(
        "heatmap_moments",
        name,
        "heatmap_moments",
        ("logits",),
        lambda z: heatmap_moments(z, **options),
        lambda seed: (uniform((shape.batch, shape.landmarks, *shape.size), seed, 2.0),),
    )


def _pool(name: str, shape: Shape, **options: Any) -> Case:
    return Case(
        "landmark_pool",
        name,
        "landmark_pool",
        ("features", "logits"),
        lambda f, z: landmark_pool(f, z, **options),
        lambda seed: (
            uniform((shape.batch, shape.features, *shape.size), seed),
            uniform((shape.batch, shape.landmarks, *shape.size), seed + 1, 2.0),
        ),
    )


def _gaussian(name: str, shape: Shape, **options: Any) -> Case:
    return Case(
        "landmark_pool",
        name,
        "gaussian_pool",
        ("features", "points", "widths"),
        lambda f, c, s: gaussian_pool(f, c, s, **options),
        lambda seed: (
            uniform((shape.batch, shape.features, *shape.size), seed),
            uniform((shape.batch, shape.landmarks, 2), seed + 1),
            uniform((shape.batch, shape.landmarks), seed, 0.2) + 0.7,
        ),
    )


def _render(name: str, shape: Shape, **options: Any) -> Case:
    return Case(
        "gaussian_splat",
        name,
        "render_gaussians",
        ("points",),
        lambda c: render_gaussians(c, shape.size, sigma=(0.4, 0.8), gain=(1.5, 0.5), **options),
        lambda seed: (uniform((shape.batch, shape.landmarks, 2), seed),),
    )


def _splat(name: str, shape: Shape) -> Case:
    return Case(
        "gaussian_splat",
        name,
        "splat_landmarks",
        ("points", "features"),
        lambda c, f: splat_landmarks(c, f, shape.size, sigma=(0.4, 0.8), gain=(1.5, 0.5), background=0.4),
        lambda seed: (
            uniform((shape.batch, shape.landmarks, 2), seed),
            uniform((shape.batch, shape.landmarks + 1, shape.features), seed + 1),
        ),
    )


def _norm(name: str, shape: Shape, **options: Any) -> Case:
    return Case(
        "batch_norm",
        name,
        "batch_norm_leaky_relu",
        ("features", "scales", "scales"),
        lambda x, w, b: batch_norm_leaky_relu(x, w, b, **options).out,
        lambda seed: (
            uniform((shape.batch, shape.features, *shape.size), seed) + 0.5,
            uniform((shape.features,), seed + 1) + 1.2,
            uniform((shape.features,), seed + 2),
        ),
    )


def _norm_in_windows(name: str, shape: Shape, low: bool, pool: bool) -> Case:
    """Sides are twice the shape's."""

    def results(x: Tensor, w: Tensor, b: Tensor, lower: Tensor | None = None) -> tuple[Tensor, ...]:
        lower = None if lower is None else lower.to(x.dtype)
        found = batch_norm_leaky_relu(x, w, b, eps=1e-2, slope=0.2, low=lower, pool=pool)
        return (found.out,) if found.pooled is None else (found.out, found.pooled)

    return Case(
        "batch_norm",
        name,
        "batch_norm_leaky_relu",
        ("features", "scales", "scales", *(("features",) if low else ())),
        results,
        lambda seed: (
            uniform((shape.batch, shape.features, 2 * shape.height, 2 * shape.width), seed) + 0.5,
            uniform((shape.features,), seed + 1) + 1.2,
            uniform((shape.features,), seed + 2),
            *((uniform((shape.batch, shape.features, *shape.size), seed + 3),) if low else ()),
        ),
    )


def _max_pool(name: str, shape: Shape) -> Case:
    """Sides are a pixel longer than the shape's, even and odd."""
    return Case(
        "resampling",
        name,
        "max_pool_2x2",
        ("features",),
        max_pool_2x2,
        lambda seed: (uniform((shape.batch, shape.features, shape.height + 1, shape.width + 1), seed),),
    )


def _upsample(name: str, shape: Shape) -> Case:
    return Case(
        "resampling",
        name,
        "upsample_add",
        ("features", "features"),
        lambda x, skip: upsample_add(x, skip.to(x.dtype)),
        lambda seed: (
            uniform((shape.batch, shape.features, *shape.size), seed),
            uniform((shape.batch, shape.features, 2 * shape.height, 2 * shape.width), seed + 1),
        ),
    )


def _case(make: Callable[..., Case], name: str, **options: Any) -> Case:
    """The case in its usual small shape; ``at`` makes it in another."""
    at = functools.partial(make, name, **options)
    return dataclasses.replace(at(Shape()), at=at)


CASES = [
    _case(_norm, "leaky", eps=1e-2, slope=0.2),
    _case(_norm, "norm-alone", eps=1e-2, slope=1.0),
    _case(_norm, "leaky-upsampled", eps=1e-2, slope=0.2, upsample=True),
    _case(_norm_in_windows, "leaky-low", low=True, pool=False),
    _case(_norm_in_windows, "leaky-pooled", low=False, pool=True),
    _case(_norm_in_windows, "leaky-low-pooled", low=True, pool=True),
    _case(_max_pool, "max-pool"),
    _case(_upsample, "upsample"),
    _case(_moments, "channels"),
    _case(_moments, "channels-covariance", covariance=True, temperature=0.7, eps=0.2),
    _case(_moments, "channels-no-background", background=False, align_corners=True, covariance=True),
    _case(_moments, "pixels", over="pixels", covariance=True, temperature=1.3),
    _case(_moments, "marginals", over="marginals", covariance=True, background=False, temperature=0.6),
    _case(_pool, "channels", temperature=0.7, eps=0.2),
    _case(_pool, "pixels", over="pixels"),
    _case(_gaussian, "gaussian"),
    _case(_gaussian, "gaussian-corners", align_corners=True),
    _case(_render, "peak"),
    _case(_render, "sum", normalize="sum", align_corners=True),
    _case(_render, "normalized", normalize="channels", background=(0.4, 1.0)),
    _case(_splat, "splat"),
    _case(_constant_centers, "constant-basis"),
    _case(_spline, "shared-centers", shared=True, before=False),
    _case(_spline, "own-centers-zeros", shared=False, before=False, padding_mode="zeros"),
    _case(_spline, "before-corners", shared=False, before=True, align_corners=True),
    _case(_spline, "before-shared", shared=True, before=True, padding_mode="zeros"),
]


def cases_of(room: str) -> list[Case]:
    """The cases of one room."""
    return [case for case in CASES if case.room == room]


class RecordedCalls(TorchDispatchMode):
    """The operators of this package that run inside the context, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "lmdis_fast":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))
