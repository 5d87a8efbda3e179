"""Every error of tps_warp, ThinPlateSpline and similarity."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lmdis_fast.ops import ThinPlateSpline, similarity, tps_warp

IMAGE, SPLINE = torch.zeros(2, 3, 5, 6), ThinPlateSpline.identity(2)
C, W, A = (
    torch.rand(4, 2, generator=torch.Generator().manual_seed(0)),
    torch.zeros(2, 4, 2),
    torch.zeros(2, 2, 3),
)
LINE = torch.linspace(-1, 1, 4)[:, None].expand(4, 2)
NAN = float("nan")
fit, random, grid = ThinPlateSpline.fit, ThinPlateSpline.random, ThinPlateSpline.from_displacements

Call = Callable[[], Any]
CASES: list[tuple[Call, type[Exception], str]] = [
    (
        lambda: tps_warp(IMAGE[0], SPLINE),
        ValueError,
        "tps_warp: image must be (N, C, H, W) floating, got (3, 5, 6)",
    ),
    (
        lambda: tps_warp(IMAGE.byte(), SPLINE),
        TypeError,
        "image must be (N, C, H, W) floating, got (2, 3, 5, 6) torch.uint8",
    ),
    (
        lambda: tps_warp(IMAGE[:, :0], SPLINE),
        ValueError,
        "with at least one channel and one pixel, got (2, 0, 5, 6)",
    ),
    (lambda: tps_warp(IMAGE, A), TypeError, "spline must be a ThinPlateSpline, got (2, 2, 3) torch.float32"),  # type: ignore[arg-type]
    (
        lambda: tps_warp(IMAGE, ThinPlateSpline.identity(3)),
        ValueError,
        "spline must have batch size 1 or 2, got 3",
    ),
    (
        lambda: tps_warp(IMAGE.to("meta"), SPLINE),
        ValueError,
        "tensors must be on one device, got image on meta, spline on cpu",
    ),
    (
        lambda: tps_warp(IMAGE, SPLINE, (0, 4)),
        ValueError,
        "size must be (H, W) in whole pixels, at least 1 each, got (0, 4)",
    ),
    (lambda: tps_warp(IMAGE, SPLINE, 4), ValueError, "size must be (H, W), got 4"),  # type: ignore[arg-type]
    (
        lambda: tps_warp(IMAGE, SPLINE, padding_mode="reflection"),
        ValueError,
        "padding_mode must be one of 'border', 'zeros', got 'reflection'",
    ),  # type: ignore[arg-type]
    (
        lambda: ThinPlateSpline(C[0], W, A),
        ValueError,
        "ThinPlateSpline: centers must be (P, 2) or (N, P, 2) floating, got (2,)",
    ),
    (lambda: ThinPlateSpline(C, W[0], A), ValueError, "weights must be (N, P, 2) floating, got (4, 2)"),
    (lambda: ThinPlateSpline(C, W, A[0]), ValueError, "affine must be (N, 2, 3) floating, got (2, 3)"),
    (
        lambda: ThinPlateSpline(C, W, A[..., :2]),
        ValueError,
        "affine must be (N, 2, 3) floating, got (2, 2, 2)",
    ),
    (lambda: ThinPlateSpline(C[:3], W, A), ValueError, "centers, weights and affine must agree in N and P"),
    (lambda: ThinPlateSpline(C, W, A[:1]), ValueError, "centers, weights and affine must agree in N and P"),
    (
        lambda: ThinPlateSpline(C, W, A, A[:1]),
        ValueError,
        "same batch size N, got before (1, 2, 3), weights (2, 4, 2)",
    ),
    (lambda: ThinPlateSpline(C, W, A.to("meta")), ValueError, "tensors must be on one device"),
    (
        lambda: ThinPlateSpline(C, W.half(), A),
        TypeError,
        "tensors must be float32 or float64, got weights (2, 4, 2) torch.float16",
    ),
    (lambda: ThinPlateSpline(C, W, A, kernel_gain=NAN), ValueError, "kernel_gain must be finite, got nan"),
    (
        lambda: fit(C[0], W),
        ValueError,
        "ThinPlateSpline.fit: source must be (N, P, 2) or (P, 2) floating, got (2,)",
    ),
    (lambda: fit(C, W[0]), ValueError, "target must be (N, P, 2) floating, got (4, 2)"),
    (
        lambda: fit(C[:3], W),
        ValueError,
        "source must be (N, P, 2) or (P, 2) for target (2, 4, 2), got (3, 2)",
    ),
    (
        lambda: fit(C.int(), W),
        TypeError,
        "source must be (N, P, 2) or (P, 2) floating, got (4, 2) torch.int32",
    ),
    (lambda: fit(C.to("meta"), W), ValueError, "tensors must be on one device"),
    (lambda: fit(C[:2], W[:, :2]), ValueError, "source must have at least 3 points, got (2, 2)"),
    (lambda: fit(C * NAN, W), ValueError, "source must be finite, got NaN or infinity in (4, 2)"),
    (lambda: fit(C, W + float("inf")), ValueError, "target must be finite, got NaN or infinity in (2, 4, 2)"),
    (lambda: fit(LINE, W), ValueError, "source must not lie on one line, got (4, 2)"),
    (lambda: fit(LINE, W, 0.1), ValueError, "source must not lie on one line, got (4, 2)"),
    (
        lambda: fit(C[[0, 0, 1, 2]], W),
        ValueError,
        "source must not have coincident points without alpha, got (4, 2)",
    ),
    (lambda: fit(C * 0, W), ValueError, "source must not lie on one line"),
    (lambda: fit(C, W, -0.1), ValueError, "alpha must be at least 0, got -0.1"),
    (lambda: fit(C, W, NAN), ValueError, "alpha must be finite, got nan"),
    (lambda: fit(C, W, "0"), TypeError, "alpha must be a number, got str"),  # type: ignore[arg-type]
    (
        lambda: grid(W, 3),
        ValueError,
        "ThinPlateSpline.from_displacements: displacements must be (N, 9, 2) for grid 3",
    ),
    (lambda: grid(W, 1), ValueError, "grid must be a whole number of at least 2 cells, got 1"),
    (
        lambda: random(2, grid=1),
        ValueError,
        "ThinPlateSpline.random: grid must be a whole number of at least 2 cells",
    ),
    (lambda: random(-1), ValueError, "n must be a whole number, at least 0, got -1"),
    (lambda: random(2, std=-0.1), ValueError, "std must be at least 0, got -0.1"),
    (lambda: random(2, std=NAN), ValueError, "std must be finite, got nan"),
    (
        lambda: random(2, dtype=torch.bfloat16),
        TypeError,
        "dtype must be torch.float32 or torch.float64, got torch.bfloat16",
    ),
    (
        lambda: ThinPlateSpline.identity(2, dtype=torch.half),
        TypeError,
        "ThinPlateSpline.identity: dtype must be",
    ),
    (
        lambda: SPLINE.transform(W[0, 0]),
        ValueError,
        "ThinPlateSpline.transform: points must be (N, M, 2) or (M, 2) floating",
    ),
    (
        lambda: SPLINE.transform(W[:1]),
        ValueError,
        "points must be (M, 2) or (2, M, 2) floating, got (1, 4, 2)",
    ),
    (lambda: SPLINE.transform(A), ValueError, "points must be (M, 2) or (2, M, 2) floating, got (2, 2, 3)"),
    (
        lambda: SPLINE.transform_vjp(W)[1](W[:1]),
        ValueError,
        "ThinPlateSpline.transform_vjp: grad must be (2, 4, 2) as the result is, got (1, 4, 2)",
    ),
    (lambda: SPLINE.transform(W.to("meta")), ValueError, "tensors must be on one device"),
    (lambda: SPLINE.grid((4,)), ValueError, "ThinPlateSpline.grid: size must be (H, W), got (4,)"),
    (
        lambda: SPLINE.compose_affine(before=A[:, :1]),
        ValueError,
        "before must be (2, 3) or (N, 2, 3) floating, got (2, 1, 3)",
    ),
    (
        lambda: SPLINE.compose_affine(after=A[:1]),
        ValueError,
        "after must be (2, 3) or (2, 2, 3), got (1, 2, 3)",
    ),
    (lambda: SPLINE.compose_affine(after=A.to("meta")), ValueError, "tensors must be on one device"),
    (
        lambda: similarity(0.0, 1.0, C[0]),
        ValueError,
        "similarity: translation must be (N, 2) floating, got (2,)",
    ),
    (lambda: similarity(0.0, 1.0, A[0]), ValueError, "similarity: translation must be (N, 2) floating"),
    (lambda: similarity(0.0, 1.0, C, aspect=0.0), ValueError, "similarity: aspect must be positive, got 0.0"),
]


@pytest.mark.parametrize(("call", "error", "text"), CASES)
def test_error(call: Call, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_coincident_points_fit_with_alpha() -> None:
    spline = ThinPlateSpline.fit(C[[0, 0, 1, 2]], W, alpha=0.1)
    assert spline.weights.isfinite().all()


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_empty_batch_is_no_error(padding: str) -> None:
    image = IMAGE[:0].clone().requires_grad_()
    for spline in (ThinPlateSpline.random(0), ThinPlateSpline(C.expand(0, 4, 2), W[:0], A[:0], A[:0])):
        assert spline.transform(C).shape == (0, 4, 2)
        assert spline.grid((3, 4)).shape == (0, 3, 4, 2)
        out = tps_warp(image, spline, (3, 4), padding_mode=padding)  # type: ignore[arg-type]
        assert out.shape == (0, 3, 3, 4)
        out.sum().backward()
    assert ThinPlateSpline.fit(C, W[:0]).weights.shape == (0, 4, 2)
