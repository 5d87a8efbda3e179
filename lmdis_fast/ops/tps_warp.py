"""Thin-plate splines, and warping images by them.

``g(p) = A (q, 1) + kernel_gain sum_i w_i U(|q - c_i|^2)`` with ``q = B (p, 1)`` and ``U(r2) = r2 log(r2) / 2``;
``tps_warp(image, g)(p) = image(g(p))``. The formulas are in :mod:`lmdis_fast.reference.tps_warp`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..reference import tps_warp as reference
from ..reference.lattice import arithmetic_dtype
from .checks import (
    check_choice,
    check_maps,
    check_points,
    check_same_batch,
    check_same_device,
    check_tensor,
    checked_number,
    checked_size,
    described,
)
from .registration import folded, register_operator, unfolded, unfolded_all

#: Control points nearer than this part of their extent count as coincident, or as lying on one line.
DEGENERATE = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class ThinPlateSpline:
    """A batch of N maps of the plane, ``g(p) = affine(q) + kernel_gain sum_i weights_i U(|q - centers_i|^2)``.

    ``q = before(p)``, or p itself; ``U(r2) = r2 log(r2) / 2`` with ``U(0) = 0``. Points are (x, y) in [-1, 1]. All
    tensors are float32 or float64 and may require gradients.

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
        op = "ThinPlateSpline"
        check_points(op, "centers", self.centers, "(P, 2) or (N, P, 2)", (2, 3))
        check_points(op, "weights", self.weights, "(N, P, 2)")
        check_affine(op, "affine", self.affine, 3)
        batch, count = self.weights.shape[:2]
        if self.centers.shape not in ((count, 2), (batch, count, 2)) or self.affine.shape[0] != batch:
            got = ", ".join(f"{n} {tuple(getattr(self, n).shape)}" for n in ("centers", "weights", "affine"))
            raise ValueError(f"{op}: centers, weights and affine must agree in N and P, got {got}")
        if self.before is not None:
            check_affine(op, "before", self.before, 3)
            check_same_batch(op, before=self.before, weights=self.weights)
        tensors = dict(centers=self.centers, weights=self.weights, affine=self.affine, before=self.before)
        check_same_device(op, **tensors)
        if any(t is not None and t.dtype not in (torch.float32, torch.float64) for t in tensors.values()):
            raise TypeError(
                f"{op}: tensors must be float32 or float64, got weights {described(self.weights)}"
            )
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
            A spline in float32, or float64 if source or target is; solved in float64. Differentiable in both inputs.

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
        return cls(source.to(dtype), weights.to(dtype), affine.to(dtype))

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
            A spline in float32, or float64 for float64 displacements. The solve is one product with a matrix that is
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
            (N, M, 2) in float32, or float64 if points or spline are; evaluated in float64. Differentiable in points
            and spline.

        Raises:
            TypeError, ValueError: points that are no such tensor, or on another device.
        """
        op = "ThinPlateSpline.transform"
        check_tensor(op, "points", points, "(N, M, 2) or (M, 2)", (2, 3))
        if points.shape[-1] != 2 or (points.dim() == 3 and points.shape[0] != self.batch_size):
            raise ValueError(
                f"{op}: points must be (M, 2) or ({self.batch_size}, M, 2) floating, got {described(points)}"
            )
        check_same_device(op, points=points, weights=self.weights)
        exact = reference.exact_dtype(points.device)
        start = None if self.before is None else self.before.to(exact)
        rows = points.to(exact).transpose(-1, -2)
        tensors = (self.centers.to(exact), self._scaled_weights().to(exact), self.affine.to(exact))
        moved = rows + reference.displacement_at(rows, *tensors, start)
        return moved.transpose(-1, -2).to(arithmetic_dtype(points, self.weights))

    def grid(self, size: Sequence[int], align_corners: bool = False) -> Tensor:
        """``g`` at the pixel centres of an (H, W) lattice: (N, H, W, 2), ready for ``grid_sample`` with the same
        ``align_corners``; float32 at least, differentiable in the spline."""
        pixels = checked_size("ThinPlateSpline.grid", size)
        dtype = arithmetic_dtype(self.weights)
        rows = reference.lattice(pixels, align_corners, dtype, self.weights.device)
        tensors = (self.centers, self._scaled_weights(), self.affine, self.before)
        moved = rows + reference.lattice_displacement(*tensors, pixels, align_corners)
        return moved.unflatten(2, pixels).permute(0, 2, 3, 1)

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

    def _scaled_weights(self) -> Tensor:
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
        (N, 2, 3) in the translation's dtype.
    """
    check_tensor("similarity", "translation", translation, "(N, 2)", 2)
    turn = torch.as_tensor(angle, dtype=translation.dtype, device=translation.device).expand(len(translation))
    size = torch.as_tensor(scale, dtype=translation.dtype, device=translation.device).expand(len(translation))
    along, across = size * turn.cos(), size * turn.sin()
    columns = torch.stack((along, across * aspect), 1), torch.stack((-across / aspect, along), 1), translation
    return torch.stack(columns, 2)


def tps_warp(
    image: Tensor,
    spline: ThinPlateSpline,
    size: Sequence[int] | None = None,
    *,
    padding_mode: Literal["border", "zeros"] = "border",
    align_corners: bool = False,
) -> Tensor:
    """Warp images: ``out(p) = image(g(p))`` at the pixel centres p of the output, bilinear.

    Args:
        image: (N, C, H, W) floating, any strides.
        spline: of the same N, or of 1 for all.
        size: (H', W') of the output, or None for the image's.
        padding_mode: outside the image the nearest edge pixel (``"border"``) or zero (``"zeros"``).
        align_corners: the frame of lattice and sampler alike, as in ``grid_sample``.

    Returns:
        (N, C, H', W') in the image's dtype, channels_last if the image is. Positions are computed in the spline's
        dtype (float32 or float64) whatever the image's; the identity returns the image bit for bit. Gradients flow to
        the spline, and to the image where it requires one; in ``"border"`` none along an axis that was clamped.

    Raises:
        TypeError: an image that is no floating tensor, a spline that is none.
        ValueError: wrong rank, different N or devices, a bad size, an unknown ``padding_mode``. Contents are not
            looked at; a NaN position gives NaN.
    """
    op = "tps_warp"
    check_maps(op, "image", image, "(N, C, H, W)")
    if not isinstance(spline, ThinPlateSpline):
        raise TypeError(f"{op}: spline must be a ThinPlateSpline, got {described(spline)}")
    check_same_device(op, image=image, spline=spline.weights)
    batch = image.shape[0]
    if spline.batch_size not in (1, batch):
        raise ValueError(f"{op}: spline must have batch size 1 or {batch}, got {spline.batch_size}")
    pixels = [image.shape[2], image.shape[3]] if size is None else checked_size(op, size)
    check_choice(op, "padding_mode", padding_mode, ("border", "zeros"))
    centers, weights, affine, before = spline.centers, spline._scaled_weights(), spline.affine, spline.before
    if spline.batch_size != batch:
        centers = centers.expand(batch, -1, -1) if centers.dim() == 3 else centers
        weights, affine = weights.expand(batch, -1, -1), affine.expand(batch, -1, -1)
        before = None if before is None else before.expand(batch, -1, -1)
    out: Tensor = _forward(image, centers, weights, affine, before, pixels, padding_mode, bool(align_corners))
    return out


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


def _fake(
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    size: Sequence[int],
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    shape = (image.shape[0], image.shape[1], size[0], size[1])
    return torch.empty(
        shape, dtype=image.dtype, device=image.device, memory_format=reference.memory_format_of(image)
    )


def _fake_backward(
    grad: Tensor,
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    padding_mode: str,
    align_corners: bool,
    need_image: bool,
    need_spline: bool,
    need_centers: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    absent = (0,)
    return (
        torch.empty_like(image) if need_image else image.new_empty(absent),
        centers.new_empty(centers.shape if need_centers else absent),
        weights.new_empty(weights.shape if need_spline else absent),
        affine.new_empty(affine.shape if need_spline else absent),
        affine.new_empty(absent) if before is None or not need_spline else before.new_empty(before.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _size, ctx.padding_mode, ctx.align_corners = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad[:5]
    asked = (need[0], any(need[2:]), need[1])
    found = _backward(grad, *ctx.saved_tensors, ctx.padding_mode, ctx.align_corners, *asked)
    return (
        *(gradient if wanted else None for gradient, wanted in zip(found, need, strict=True)),
        None,
        None,
        None,
    )


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Fold into N, except that centres shared by everything stay shared."""
    dims, arguments, shared = list(in_dims), list(args), args[1].dim() == 2 and in_dims[1] is None
    if args[1].dim() - (in_dims[1] is not None) == 2 and not shared:
        batch = args[2].shape[0 if in_dims[2] != 0 else 1]
        arguments[1] = args[1].movedim(in_dims[1], 0).unsqueeze(1).expand(-1, batch, -1, -1)
        dims[1] = 0
    flat = [
        value if shared and i == 1 else folded(value, dim, info.batch_size)
        for i, (value, dim) in enumerate(zip(arguments, dims, strict=True))
    ]
    return unfolded_all(_forward(*flat), info.batch_size)


def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Fold into N; the gradient of centres that one sample's batch shares is summed within the sample."""
    dims, arguments = list(in_dims), list(args)
    centers = args[2] if in_dims[2] is None else args[2].movedim(in_dims[2], 0)
    dims[2] = None if in_dims[2] is None else 0
    within = centers.dim() - (in_dims[2] is not None) == 2
    if within:
        batch = args[0].shape[0 if in_dims[0] != 0 else 1]
        centers = centers.unsqueeze(-3).expand(*centers.shape[:-2], batch, *centers.shape[-2:])
    arguments[2] = centers
    flat = [folded(value, dim, info.batch_size) for value, dim in zip(arguments, dims, strict=True)]
    pairs = [unfolded(result, info.batch_size) for result in _backward(*flat)]
    if within and pairs[1][1] is not None:
        pairs[1] = pairs[1][0].sum(1), 0
    return tuple(result for result, _ in pairs), tuple(dim for _, dim in pairs)


_backward = register_operator(
    "tps_warp_backward",
    "(Tensor grad, Tensor image, Tensor centers, Tensor weights, Tensor affine, Tensor? before, str padding_mode, "
    "bool align_corners, bool need_image, bool need_spline, bool need_centers)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.tps_warp_backward,
    fake=_fake_backward,
    vmap=_vmap_backward,
)
_forward = register_operator(
    "tps_warp",
    "(Tensor image, Tensor centers, Tensor weights, Tensor affine, Tensor? before, SymInt[] size, str padding_mode, "
    "bool align_corners) -> Tensor",
    reference=reference.tps_warp,
    fake=_fake,
    setup_context=_setup_context,
    backward=_autograd,
    vmap=_vmap,
)
