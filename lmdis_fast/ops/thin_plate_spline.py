"""Thin-plate splines: smooth maps of the plane that move given points, and the affine maps around them.

``g(p) = A (q, 1) + kernel_gain sum_i w_i U(|q - c_i|^2)`` with ``q = B (p, 1)`` and ``U(r2) = r2 log(r2) / 2``. The
formulas are in :mod:`lmdis_fast.reference.tps_warp`; :func:`lmdis_fast.ops.tps_warp` warps images by them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference import tps_warp as reference
from ..reference.lattice import arithmetic_dtype
from .checks import (
    check_points,
    check_same_batch,
    check_same_device,
    check_tensor,
    checked_number,
    checked_size,
    described,
)

#: Control points nearer than this part of their extent count as coincident, or as lying on one line.
DEGENERATE = 1e-6
#: What a spline may be in.
EXACT = (torch.float32, torch.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class ThinPlateSpline:
    """A batch of N maps of the plane, ``g(p) = affine(q) + kernel_gain sum_i weights_i U(|q - centers_i|^2)``.

    ``q = before(p)``, or p itself; ``U(r2) = r2 log(r2) / 2`` with ``U(0) = 0``. Points are (x, y) in [-1, 1]. All
    tensors are float32 or float64 and may require gradients. The centers' dtype is the dtype of results; weights and
    affine may be float64 beside float32 centers, because weights of near control points are large and cancel.

    Attributes:
        centers: (P, 2) control points shared by the batch, or (N, P, 2).
        weights: (N, P, 2).
        affine: (N, 2, 3), ``p -> affine[:, :2] p + affine[:, 2]``.
        before: (N, 2, 3) affine map applied first, or None.
        kernel_gain: 0.5 makes the published program's map, which does not pass through its control points.
    """

    centers: Tensor
    weights: Tensor
    affine: Tensor
    before: Tensor | None = None
    kernel_gain: float = 1.0

    def __post_init__(self) -> None:
        if not self._is_plainly_right():
            self._check()

    def _is_plainly_right(self) -> bool:
        """Whether this is what nearly all splines are: a tenth of the time that :meth:`_check` takes to find it out."""
        centers, weights, affine, gain = self.centers, self.weights, self.affine, self.kernel_gain
        if self.before is not None or not (type(centers) is type(weights) is type(affine) is Tensor):
            return False
        shape, device = weights.shape, weights.device
        return (
            len(shape) == 3
            and shape[1] >= 1
            and shape[2] == 2
            and centers.shape in (shape[1:], shape)
            and affine.shape == (shape[0], 2, 3)
            and centers.dtype in EXACT
            and weights.dtype in EXACT
            and affine.dtype in EXACT
            and centers.device == device
            and affine.device == device
            and type(gain) is float
            and 0.0 <= gain < math.inf
        )

    def _check(self) -> None:
        op = "ThinPlateSpline"
        check_points(op, "centers", self.centers, "(P, 2) or (N, P, 2)", (2, 3))
        check_points(op, "weights", self.weights, "(N, P, 2)")
        check_affine(op, "affine", self.affine, 3)
        centers, weights, affine, before = self.centers, self.weights, self.affine, self.before
        batch, count, _ = weights.shape
        if centers.shape not in ((count, 2), (batch, count, 2)) or affine.shape[0] != batch:
            got = ", ".join(f"{n} {tuple(getattr(self, n).shape)}" for n in ("centers", "weights", "affine"))
            raise ValueError(f"{op}: centers, weights and affine must agree in N and P, got {got}")
        if before is not None:
            check_affine(op, "before", before, 3)
            check_same_batch(op, before=before, weights=weights)
        check_same_device(op, centers=centers, weights=weights, affine=affine, before=before)
        for tensor in (centers, weights, affine, before):
            if tensor is not None and tensor.dtype not in EXACT:
                raise TypeError(f"{op}: tensors must be float32 or float64, got weights {described(weights)}")
        checked_number(op, "kernel_gain", self.kernel_gain, zero=True)

    @property
    def batch_size(self) -> int:
        """N."""
        return self.weights.shape[0]

    @classmethod
    def fit(cls, source: Tensor, target: Tensor, alpha: float = 0.0) -> ThinPlateSpline:
        """The spline with ``g(source_i) = target_i``: of all such maps the one that bends least.

        Args:
            source: (N, P, 2), or (P, 2) shared by the batch, floating; at least three points.
            target: (N, P, 2) floating.
            alpha: added to the kernel matrix' diagonal: 0 interpolates, larger values bend less and pass by the
                targets. The same number as ``smoothing`` of scipy's ``RBFInterpolator(kernel="thin_plate_spline")``.

        Returns:
            A spline whose results are float32, or float64 if source or target is. Weights and affine stay in the
            float64 that they were solved in, so that float32 results meet the targets to their last digits however
            near the control points are. Differentiable in both inputs.

        Raises:
            TypeError: an input that is no floating tensor, an alpha that is no number.
            ValueError: wrong or different shapes or devices, fewer than three points, points that are not finite, all
                on one line, or (with alpha 0) coincident; an alpha that is negative or not finite. Contents are
                looked at here, so on a GPU this waits.
        """
        op = "ThinPlateSpline.fit"
        check_points(op, "source", source, "(N, P, 2) or (P, 2)", (2, 3))
        check_points(op, "target", target, "(N, P, 2)")
        check_same_device(op, source=source, target=target)
        if source.shape not in (target.shape, target.shape[1:]):
            raise ValueError(
                f"{op}: source must be (N, P, 2) or (P, 2) for target {tuple(target.shape)}, got {described(source)}"
            )
        alpha = checked_number(op, "alpha", alpha, zero=True)
        _check_control_points(op, source.detach(), target.detach(), alpha)
        dtype = arithmetic_dtype(source, target)
        exact = reference.exact_dtype(source.device)
        points = source.to(exact)
        weights, affine = reference.solve(points, target.to(exact) - points, alpha)
        return cls(source.to(dtype), weights, affine)

    @classmethod
    def from_displacements(
        cls, displacements: Tensor, grid: int = 7, *, kernel_gain: float = 1.0
    ) -> ThinPlateSpline:
        """The spline that moves the centres of ``grid`` x ``grid`` cells of the frame by given displacements.

        Args:
            displacements: (N, grid * grid, 2) floating, (x, y), row-major with x fastest, in units of the frame.
            grid: cells along each side, at least 2; centres ``-1 + (2 i + 1) / grid``.
            kernel_gain: see the class; with 1 the spline passes through the moved centres.

        Returns:
            A spline in float32 (meeting its targets to 3e-6), or float64 for float64 displacements. The solve is one product with a matrix that is
            computed once for each grid and device. Differentiable in the displacements.

        Raises:
            TypeError, ValueError: a grid below 2 or displacements that do not fit it.
        """
        op = "ThinPlateSpline.from_displacements"
        _check_grid(op, grid)
        check_points(op, "displacements", displacements, "(N, grid * grid, 2)")
        if displacements.shape[1] != grid * grid:
            raise ValueError(
                f"{op}: displacements must be (N, {grid * grid}, 2) for grid {grid}, got {described(displacements)}"
            )
        dtype = arithmetic_dtype(displacements)
        solver = _grid_solver(grid, displacements.device)
        answer = torch.matmul(solver, displacements.to(solver.dtype))
        unit = torch.eye(2, 3, dtype=solver.dtype, device=solver.device)
        affine = answer[:, grid * grid :].transpose(1, 2) + unit
        centers = _cell_centres(grid, dtype, displacements.device)
        return cls(centers, answer[:, : grid * grid].to(dtype), affine.to(dtype), kernel_gain=kernel_gain)

    @classmethod
    def random(
        cls,
        n: int,
        *,
        grid: int = 7,
        std: float = 0.05,
        kernel_gain: float = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> ThinPlateSpline:
        """N random warps: independent normal displacements at the centres of ``grid`` x ``grid`` cells.

        Args:
            n: batch size.
            grid: cells along each side.
            std: of each coordinate, in units of the frame (0.05 is 2.5 % of a side). The published program has
                ``std=0.1, kernel_gain=0.5``.
            kernel_gain: see the class.
            generator: draws on its own device, and alone decides the result; None takes the device's default one.
            dtype, device: of the spline; numbers are drawn in this dtype.

        Raises:
            TypeError, ValueError: an n below 0, a grid below 2, a std that is negative or not finite, another dtype
                than float32 and float64.
        """
        op = "ThinPlateSpline.random"
        _check_grid(op, grid)
        std = checked_number(op, "std", std, zero=True)
        _check_batch(op, n, dtype)
        source = torch.device(device) if generator is None else generator.device
        draws = torch.randn((n, grid * grid, 2), generator=generator, dtype=dtype, device=source) * std
        return cls.from_displacements(draws.to(device), grid, kernel_gain=kernel_gain)

    @classmethod
    def identity(
        cls, n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> ThinPlateSpline:
        """N maps ``g(p) = p``, exactly."""
        _check_batch("ThinPlateSpline.identity", n, dtype)
        centers = _cell_centres(1, dtype, torch.device(device))
        affine = torch.eye(2, 3, dtype=dtype, device=device).repeat(n, 1, 1)
        return cls(centers, affine.new_zeros((n, 1, 2)), affine)

    def transform(self, points: Tensor) -> Tensor:
        """``g`` at points.

        Args:
            points: (N, M, 2), or (M, 2) for the same points in each of the batch; floating, (x, y) in [-1, 1].

        Returns:
            (N, M, 2) in float32, or float64 if points or centers are; evaluated in float64. Differentiable in points
            and spline.

        Raises:
            TypeError, ValueError: points that are no such tensor, or on another device.
        """
        return self._transformed("ThinPlateSpline.transform", points)[0]

    def transform_vjp(self, points: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """:meth:`transform`, and the function that takes a gradient by its result to that by the points.

        In closed form, for those who need the one gradient and not autograd's record of some thirty small operations.

        Args:
            points: as for :meth:`transform`.

        Returns:
            (N, M, 2), and a function from (N, M, 2) floating to (N, M, 2) in the result's dtype; where the points are
            the same for each of the batch, each has a gradient of its own.

        Raises:
            TypeError, ValueError: as :meth:`transform`; in the function, a gradient of another shape or device.
        """
        return self._transformed("ThinPlateSpline.transform_vjp", points)

    def _transformed(self, op: str, points: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        check_tensor(op, "points", points, "(N, M, 2) or (M, 2)", (2, 3))
        if points.shape[-1] != 2 or (points.dim() == 3 and points.shape[0] != self.batch_size):
            raise ValueError(
                f"{op}: points must be (M, 2) or ({self.batch_size}, M, 2) floating, got {described(points)}"
            )
        check_same_device(op, points=points, weights=self.weights)
        exact = reference.exact_dtype(points.device)
        start = None if self.before is None else self.before.to(exact)
        rows = points.to(exact).transpose(-1, -2)
        tensors = (self.centers.to(exact), self.scaled_weights().to(exact), self.affine.to(exact))
        displacement, pull_back = reference.displacement_vjp(rows, *tensors, start)
        dtype = arithmetic_dtype(points, self.centers)

        def by_points(grad: Tensor) -> Tensor:
            check_tensor(op, "grad", grad, "(N, M, 2)", 3)
            if grad.shape != (self.batch_size, points.shape[-2], 2):
                shape = (self.batch_size, points.shape[-2], 2)
                raise ValueError(f"{op}: grad must be {shape} as the result is, got {described(grad)}")
            check_same_device(op, grad=grad, weights=self.weights)
            return pull_back(grad.to(exact).transpose(-1, -2)).transpose(-1, -2).to(dtype)

        return (rows + displacement).transpose(-1, -2).to(dtype), by_points

    def grid(self, size: Sequence[int], align_corners: bool = False) -> Tensor:
        """``g`` at the pixel centres of an (H, W) lattice: (N, H, W, 2), ready for ``grid_sample`` with the same
        ``align_corners``; in the centers' dtype, differentiable in the spline."""
        pixels = checked_size("ThinPlateSpline.grid", size)
        dtype = arithmetic_dtype(self.centers)
        rows = reference.lattice(pixels, align_corners, dtype, self.weights.device)
        tensors = (self.centers, self.scaled_weights(), self.affine, self.before)
        moved = rows + reference.lattice_displacement(*tensors, pixels, align_corners).to(dtype)
        return torch.unflatten(moved, 2, pixels).permute(0, 2, 3, 1)

    def compose_affine(self, before: Tensor | None = None, after: Tensor | None = None) -> ThinPlateSpline:
        """The spline ``p -> after(g(before(p)))``.

        Args:
            before, after: (2, 3) or (N, 2, 3) floating affine maps in the frame, see :func:`similarity`. ``after``
                goes into weights and affine; ``before`` is kept, which costs the constant lattice basis.

        Raises:
            TypeError, ValueError: maps that are no such tensors, or on another device.
        """
        op = "ThinPlateSpline.compose_affine"
        weights, affine, start = self.weights, self.affine, self.before
        if after is not None:
            outer = self._batched(op, "after", after)
            weights = (outer[:, None, :, :2] * weights.unsqueeze(2)).sum(-1)
            affine = reference.compose(outer, affine)
        if before is not None:
            inner = self._batched(op, "before", before)
            start = inner if start is None else reference.compose(start, inner)
        return dataclasses.replace(self, weights=weights, affine=affine, before=start)

    def _batched(self, op: str, name: str, affine: Tensor) -> Tensor:
        check_affine(op, name, affine, (2, 3))
        check_same_device(op, **{name: affine, "weights": self.weights})
        if affine.dim() == 3 and affine.shape[0] != self.batch_size:
            raise ValueError(
                f"{op}: {name} must be (2, 3) or ({self.batch_size}, 2, 3), got {described(affine)}"
            )
        return affine.to(self.weights.dtype).expand(self.batch_size, 2, 3)

    def scaled_weights(self) -> Tensor:
        """``kernel_gain * weights``."""
        return self.weights if self.kernel_gain == 1.0 else self.weights * self.kernel_gain


def similarity(
    angle: float | Tensor, scale: float | Tensor, translation: Tensor, *, aspect: float = 1.0
) -> Tensor:
    """The affine map ``p -> scale R(angle) p + translation``.

    Args:
        angle: radians, a number or (N,); positive turns x towards y, which in an image (y down) is clockwise.
        scale: a number or (N,). In a warp, which maps output to source, a scale above 1 shrinks the content.
        translation: (N, 2) floating, in units of the frame.
        aspect: W / H; makes the rotation rigid in pixels of an image that is not square.

    Returns:
        (N, 2, 3) in the translation's dtype. Differentiable in tensors given.

    Raises:
        TypeError, ValueError: a translation that is no such tensor, an aspect that is not positive and finite.
    """
    op = "similarity"
    check_tensor(op, "translation", translation, "(N, 2)", 2)
    if translation.shape[1] != 2:
        raise ValueError(f"{op}: translation must be (N, 2) floating, got {described(translation)}")
    aspect = checked_number(op, "aspect", aspect)
    turn = torch.as_tensor(angle, dtype=translation.dtype, device=translation.device).expand(len(translation))
    size = torch.as_tensor(scale, dtype=translation.dtype, device=translation.device).expand(len(translation))
    along, across = size * turn.cos(), size * turn.sin()
    columns = torch.stack((along, across * aspect), 1), torch.stack((-across / aspect, along), 1), translation
    return torch.stack(columns, 2)


def check_affine(op: str, name: str, value: Any, rank: int | tuple[int, ...]) -> None:
    """``value`` is a floating (N, 2, 3) tensor, or (2, 3) where the rank allows."""
    form = "(N, 2, 3)" if rank == 3 else "(2, 3) or (N, 2, 3)"
    check_tensor(op, name, value, form, rank)
    if value.shape[-2:] != (2, 3):
        raise ValueError(f"{op}: {name} must be {form} floating, got {described(value)}")


def _check_grid(op: str, grid: Any) -> None:
    if isinstance(grid, bool) or not isinstance(grid, int) or grid < 2:
        raise ValueError(f"{op}: grid must be a whole number of at least 2 cells, got {grid!r}")


def _check_batch(op: str, n: Any, dtype: torch.dtype) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"{op}: n must be a whole number, at least 0, got {n!r}")
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: dtype must be torch.float32 or torch.float64, got {dtype}")


def _check_control_points(op: str, source: Tensor, target: Tensor, alpha: float) -> None:
    if source.shape[-2] < 3:
        raise ValueError(f"{op}: source must have at least 3 points, got {described(source)}")
    for name, points in (("source", source), ("target", target)):
        if not bool(points.isfinite().all()):
            raise ValueError(f"{op}: {name} must be finite, got NaN or infinity in {described(points)}")
    if source.numel() == 0:
        return
    points = source.to(reference.exact_dtype(source.device)).reshape(-1, *source.shape[-2:])
    centred = points - points.mean(1, keepdim=True)
    breadth = torch.linalg.svdvals(centred)
    if bool((breadth[:, 1] <= DEGENERATE * breadth[:, 0]).any()):
        raise ValueError(f"{op}: source must not lie on one line, got {described(source)}")
    if alpha == 0:
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        distance = distance + torch.diag_embed(torch.full_like(distance[..., 0], float("inf")))
        if bool((distance.amin((1, 2)) <= DEGENERATE * distance.nan_to_num(posinf=0.0).amax((1, 2))).any()):
            raise ValueError(
                f"{op}: source must not have coincident points without alpha, got {described(source)}"
            )


@functools.lru_cache(maxsize=32)
def _cell_centres(grid: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return reference.lattice((grid, grid), False, dtype, device).t().contiguous()


@functools.lru_cache(maxsize=32)
def _grid_solver(grid: int, device: torch.device) -> Tensor:
    """``(P + 3, P)``: displacements of the cell centres to kernel weights and affine offset."""
    with torch.inference_mode(False), torch.no_grad():
        points = _cell_centres(grid, reference.exact_dtype(device), device)
        count = points.shape[0]
        units = torch.eye(count, dtype=points.dtype, device=device).unsqueeze(-1).expand(-1, -1, 2)
        weights, affine = reference.solve(points, units, 0.0)
        offset = affine[..., 0, :] - torch.eye(2, 3, dtype=points.dtype, device=device)[0]
        return torch.cat((weights[..., 0], offset), 1).t().contiguous()
