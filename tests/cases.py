"""Every operator as it is called by a user, with small inputs: what the gradient, opcheck, compile and backend tests
of all rooms walk through."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmdis_fast.ops import (
    ThinPlateSpline,
    gaussian_pool,
    heatmap_moments,
    landmark_pool,
    render_gaussians,
    splat_landmarks,
    tps_warp,
)

from .strategies import uniform

#: A map around which splines fold nothing and no position falls on a pixel's edge.
UNIT = torch.tensor([[1.0, 0.03, 0.011], [-0.02, 1.0, 0.017]], dtype=torch.float64)

SHARED = uniform((4, 2), 1)


@dataclasses.dataclass(frozen=True)
class Case:
    """``call`` takes the tensors that ``inputs(seed)`` makes in float64, and returns a tensor or several."""

    room: str
    name: str
    operator: str
    call: Callable[..., Any]
    inputs: Callable[[int], tuple[Tensor, ...]]

    def __str__(self) -> str:
        return self.name

    def tensors(self, dtype: torch.dtype = torch.float64, grad: bool = True, seed: int = 0) -> list[Tensor]:
        """Leaves in a dtype (splines stay in float32 at least)."""
        return [t.to(dtype).clone().requires_grad_(grad) for t in self.inputs(seed)]

    def results(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the call returns, as a tuple."""
        out = self.call(*tensors)
        return (out,) if isinstance(out, Tensor) else tuple(out)


def _spline_case(name: str, shared: bool, before: bool, **options: Any) -> Case:
    def inputs(seed: int) -> tuple[Tensor, ...]:
        points = uniform((4, 2) if shared else (2, 4, 2), seed + 1)
        maps = UNIT + uniform((2, 2, 3), seed + 3, 0.02)
        tensors = (uniform((2, 2, 4, 5), seed), points, uniform((2, 4, 2), seed + 2, 0.1), maps)
        return (*tensors, maps + uniform((2, 2, 3), seed + 4, 0.02)) if before else tensors

    def call(image: Tensor, *spline: Tensor) -> Tensor:
        tensors = [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in spline]
        return tps_warp(image, ThinPlateSpline(*tensors), (3, 4), **options)

    return Case("tps_warp", name, "tps_warp", call, inputs)


def _constant_centers(image: Tensor, weights: Tensor, affine: Tensor) -> Tensor:
    weights, affine = (
        t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (weights, affine)
    )
    return tps_warp(image, ThinPlateSpline(SHARED.to(weights.dtype), weights, affine))


def _moments(name: str, channels: int = 3, **options: Any) -> Case:
    return Case(
        "heatmap_moments",
        name,
        "heatmap_moments",
        lambda z: heatmap_moments(z, **options),
        lambda seed: (uniform((2, channels, 3, 4), seed, 2.0),),
    )


def _pool(name: str, **options: Any) -> Case:
    return Case(
        "landmark_pool",
        name,
        "landmark_pool",
        lambda f, z: landmark_pool(f, z, **options),
        lambda seed: (uniform((2, 2, 3, 4), seed), uniform((2, 3, 3, 4), seed + 1, 2.0)),
    )


def _gaussian(name: str, **options: Any) -> Case:
    return Case(
        "landmark_pool",
        name,
        "gaussian_pool",
        lambda f, c, s: gaussian_pool(f, c, s, **options),
        lambda seed: (
            uniform((2, 2, 3, 4), seed),
            uniform((2, 3, 2), seed + 1),
            uniform((2, 3), seed, 0.2) + 0.7,
        ),
    )


def _render(name: str, **options: Any) -> Case:
    return Case(
        "gaussian_splat",
        name,
        "render_gaussians",
        lambda c: render_gaussians(c, (3, 4), sigma=(0.4, 0.8), gain=(1.5, 0.5), **options),
        lambda seed: (uniform((2, 3, 2), seed),),
    )


CASES = [
    _moments("channels"),
    _moments("channels-covariance", covariance=True, temperature=0.7, eps=0.2),
    _moments("channels-no-background", background=False, align_corners=True, covariance=True),
    _moments("pixels", over="pixels", covariance=True, temperature=1.3),
    _moments("marginals", over="marginals", covariance=True, background=False, temperature=0.6),
    _pool("channels", temperature=0.7, eps=0.2),
    _pool("pixels", over="pixels"),
    _gaussian("gaussian"),
    _gaussian("gaussian-corners", align_corners=True),
    _render("peak"),
    _render("sum", normalize="sum", align_corners=True),
    _render("normalized", normalize="channels", background=(0.4, 1.0)),
    Case(
        "gaussian_splat",
        "splat",
        "splat_landmarks",
        lambda c, f: splat_landmarks(c, f, (3, 4), sigma=(0.4, 0.8), gain=(1.5, 0.5), background=0.4),
        lambda seed: (uniform((2, 3, 2), seed), uniform((2, 4, 2), seed + 1)),
    ),
    Case(
        "tps_warp",
        "constant-basis",
        "tps_warp",
        _constant_centers,
        lambda seed: (
            uniform((2, 2, 4, 5), seed),
            uniform((2, 4, 2), seed + 2, 0.1),
            UNIT + uniform((2, 2, 3), seed, 0.02),
        ),
    ),
    _spline_case("shared-centers", True, False),
    _spline_case("own-centers-zeros", False, False, padding_mode="zeros"),
    _spline_case("before-corners", False, True, align_corners=True),
    _spline_case("before-shared", True, True, padding_mode="zeros"),
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
