r"""Thin-plate splines and the image warp they drive.

``g(p) = A (q, 1) + sum_i w_i U(|q - c_i|^2)`` with ``q = B (p, 1)`` (or ``p``), ``U(r2) = r2 log(r2) / 2`` and
``U(0) = 0``: the kernel ``r^2 log r`` (Bookstein 1989). Points, centres ``c`` and affine maps ``A``, ``B`` (2 x 3) are
in the frame, (x, y) in ``[-1, 1]``.

Fitting targets ``t_i`` at sources ``c_i`` solves ``[[U + alpha I, P], [P^T, 0]] [w; a] = [t - c; 0]`` for the
displacement, ``P`` being the rows ``(x, y, 1)``; the identity is added afterwards, so that it is exact.

The warp reads ``out(p) = image(g(p))``. The sampler's position in pixels is written as the output pixel's own place
plus the displacement, ``position = base(p) + (g(p) - p) W / 2``, and not as a rounded frame coordinate: where the
spline moves nothing, positions are whole numbers and the image comes back bit for bit. Bilinear blending, over
``[0, W - 1]`` with the edge repeated (``border``) or zeros outside (``zeros``).

With the centres shared by the batch and no ``B``, ``g(p) - p`` on the lattice is one matrix product with a constant
basis, which is cached. The product is done in float64 (where the device has it): a reduced-precision matrix product,
allowed globally for the sake of networks, must not reach the grid.

Backward. From ``dg = W / 2 sum_c g_c d(image_c)/d(position)``: ``dw_i = sum_p U_i dg``, ``dA = sum_p dg (q, 1)^T``,
and with ``e_i = (log r2_i + 1) (w_i . dg)``, ``dc_i = -sum_p e_i (q - c_i)``, ``dq = sum_i e_i (q - c_i) + A^T dg``,
``dB = sum_p dq (p, 1)^T``; the image receives the blend's adjoint.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .lattice import arithmetic_dtype, in_layout_of, pixel_centres

_CACHED_BASES = 16
_CACHED_VALUES = 2**18
_bases: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor]] = OrderedDict()
_bases_lock = threading.Lock()


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def thin_plate(r2: Tensor) -> Tensor:
    """``r2 log(r2) / 2``, 0 with gradient 0 at 0."""
    return 0.5 * r2 * _safe_log(r2)


def _safe_log(r2: Tensor) -> Tensor:
    return r2.clamp_min(torch.finfo(r2.dtype).tiny).log()


def lattice(size: Sequence[int], align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Pixel centres ``(2, H W)``, x first."""
    x = pixel_centres(size[1], align_corners, dtype, device)
    y = pixel_centres(size[0], align_corners, dtype, device)
    return torch.stack((x.repeat(size[0]), y.repeat_interleave(size[1])))


def solve(source: Tensor, displacement: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Kernel weights ``(..., P, 2)`` and affine map ``(..., 2, 3)`` of the spline that moves ``source`` points
    ``(..., P, 2)`` by ``displacement``, by one dense solve in the given dtype."""
    count = source.shape[-2]
    offsets = source.unsqueeze(-2) - source.unsqueeze(-3)
    kernel = thin_plate(offsets.square().sum(-1))
    kernel = kernel + alpha * torch.eye(count, dtype=source.dtype, device=source.device)
    plane = torch.cat((source, torch.ones_like(source[..., :1])), -1)
    corner = source.new_zeros((*source.shape[:-2], 3, 3))
    system = torch.cat((torch.cat((kernel, plane), -1), torch.cat((plane.transpose(-1, -2), corner), -1)), -2)
    right = torch.cat((displacement, displacement.new_zeros((*displacement.shape[:-2], 3, 2))), -2)
    if system.dim() == 2 and right.dim() == 3:  # one factorisation serves the whole batch
        flat = torch.linalg.solve(system, right.transpose(0, 1).flatten(1))
        answer = torch.unflatten(flat, 1, (right.shape[0], 2)).transpose(0, 1)
    else:
        answer = torch.linalg.solve(system, right)
    unit = torch.eye(2, 3, dtype=source.dtype, device=source.device)
    return answer[..., :count, :], answer[..., count:, :].transpose(-1, -2) + unit


def affine_points(affine: Tensor, points: Tensor) -> Tensor:
    """``(N, 2, 3)`` maps applied to coordinate rows ``(2, M)`` or ``(N, 2, M)``."""
    x, y = _rows(points)
    return affine[..., 0:1] * x + affine[..., 1:2] * y + affine[..., 2:3]


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The affine map ``p -> outer(inner(p))``, ``(..., 2, 3)``, without a matrix product's reduced precision."""
    linear = (outer[..., :2].unsqueeze(-1) * inner.unsqueeze(-3)).sum(-2)
    return linear + torch.nn.functional.pad(outer[..., 2:], (2, 0))


def displacement_at(
    points: Tensor, centers: Tensor, weights: Tensor, affine: Tensor, before: Tensor | None
) -> Tensor:
    """``g(p) - p`` as ``(N, 2, M)`` at coordinate rows ``(2, M)`` or ``(N, 2, M)``."""
    return displacement_vjp(points, centers, weights, affine, before)[0]


def displacement_vjp(
    points: Tensor, centers: Tensor, weights: Tensor, affine: Tensor, before: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """:func:`displacement_at`, and what takes a gradient by ``g(p)``, ``(N, 2, M)``, to that by the points: ``dq``
    above."""
    moved = points if before is None else affine_points(before, points)
    linear = affine if before is None else compose(affine, before)
    shift = affine_points(linear - torch.eye(2, 3, dtype=affine.dtype, device=affine.device), points)
    across, down, r2 = _offsets(moved, centers)
    log = _safe_log(r2)
    kernel = 0.5 * r2 * log

    def pull_back(grad: Tensor) -> Tensor:
        x, y = _rows(grad)
        bent = (log + 1) * (weights[..., 0, None] * x + weights[..., 1, None] * y)
        gathered = torch.stack([(bent * across).sum(-2), (bent * down).sum(-2)], -2)
        gathered = gathered + _transposed(affine, grad)
        return gathered if before is None else _transposed(before, gathered)

    by_kernel = torch.stack([(kernel * w.unsqueeze(-1)).sum(-2) for w in weights.unbind(-1)], -2)
    return shift + by_kernel, pull_back


def _rows(points: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinate rows ``(..., 2, M)`` as ``(..., 1, M)``, x and y."""
    return points[..., None, 0, :], points[..., None, 1, :]


def _transposed(affine: Tensor, grad: Tensor) -> Tensor:
    """The gradient by points that an affine map ``(N, 2, 3)`` took to where it is ``(N, 2, M)``."""
    x, y = _rows(grad)
    return affine[..., 0, :2, None] * x + affine[..., 1, :2, None] * y


def _offsets(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(..., P, M)`` along x and y, from centres ``(..., P, 2)`` to coordinate rows ``(..., 2, M)``, and their squared
    lengths."""
    x, y = _rows(points)
    across, down = x - centers[..., 0, None], y - centers[..., 1, None]
    return across, down, across.square().add_(down.square())


def _lattice_basis(centers: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """``(P + 3, H W)`` rows ``U_i, x, y, 1`` on the lattice, kept for the next call with the same centres."""
    size = tuple(size)
    key: tuple[object, ...] | None = None
    capturing = centers.is_cuda and torch.cuda.is_current_stream_capturing()
    if type(centers) is Tensor and not centers.is_inference() and not capturing:
        # The entry keeps the centres alive, so an address cannot come to mean other points; a write in place shows
        # in the version. Comparing contents instead would make a GPU wait.
        place = (centers.data_ptr(), centers.stride(), centers.shape, centers._version)
        key = (*place, centers.dtype, centers.device, size, align_corners)
        with _bases_lock:
            if key in _bases:
                _bases.move_to_end(key)
                return _bases[key][1]
    dtype = exact_dtype(centers.device)
    points = lattice(size, align_corners, dtype, centers.device)
    kernel = thin_plate(_offsets(points, centers.to(dtype))[2])
    basis = torch.cat((kernel, points, torch.ones_like(points[:1])))
    if key is not None and type(basis) is Tensor:  # a tracer's stand-ins are not kept
        with _bases_lock:
            _bases[key] = (centers, basis)
            while len(_bases) > _CACHED_BASES:
                _bases.popitem(last=False)
    return basis


def _has_constant_basis(centers: Tensor, before: Tensor | None) -> bool:
    return centers.dim() == 2 and before is None and not centers.requires_grad


def lattice_displacement(
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    size: Sequence[int],
    align_corners: bool,
) -> Tensor:
    """``g(p) - p`` at the pixel centres, ``(N, 2, H W)``, computed in the weights' dtype or better."""
    dtype = arithmetic_dtype(weights, centers)
    if _has_constant_basis(centers, before):
        basis = _lattice_basis(centers, size, align_corners)
        linear = affine.to(basis.dtype) - torch.eye(2, 3, dtype=basis.dtype, device=basis.device)
        rows = torch.cat((weights.to(basis.dtype).transpose(1, 2), linear), 2)
        return torch.unflatten(torch.mm(rows.flatten(0, 1), basis), 0, (weights.shape[0], 2)).to(dtype)
    points = lattice(size, align_corners, dtype, weights.device)
    return torch.cat(
        [displacement_at(points, *part) for part in _parts(points, dtype, centers, weights, affine, before)]
    )


def _parts(
    points: Tensor,
    dtype: torch.dtype,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """The spline in parts of the batch whose kernel values stay in a processor's cache (three times as fast)."""
    batch, count = weights.shape[:2]
    share = batch if points.device.type != "cpu" else max(1, _CACHED_VALUES // (count * points.shape[1]))
    for first in range(0, max(batch, 1), max(share, 1)):
        part = slice(first, first + share)
        yield (
            (centers if centers.dim() == 2 else centers[part]).to(dtype),
            weights[part].to(dtype),
            affine[part].to(dtype),
            None if before is None else before[part].to(dtype),
        )


class _Bilinear:
    """Positions in pixels along one axis: the two neighbours, the fraction between them, and who counts."""

    def __init__(self, position: Tensor, count: int, padding_mode: str) -> None:
        self.slope: Tensor | float = 1.0
        if padding_mode == "border":
            self.slope = ((position >= 0) & (position <= count - 1)).to(position.dtype)
            position = position.clamp(0, count - 1)
        lower = position.detach().floor()
        self.fraction = position - lower
        self.counts = [torch.ones_like(lower), torch.ones_like(lower)]
        if padding_mode == "zeros":
            self.counts = [((i >= 0) & (i <= count - 1)).to(position.dtype) for i in (lower, lower + 1)]
        # clamped before and after the conversion: a NaN or huge position must not become a wild address
        index = lower.clamp(-1, count).long()
        self.indices = [index.clamp(0, count - 1), (index + 1).clamp(0, count - 1)]

    def weights(self) -> list[Tensor]:
        return [(1 - self.fraction) * self.counts[0], self.fraction * self.counts[1]]


def _axes(
    displacement: Tensor, image: Tensor, size: Sequence[int], padding_mode: str, align_corners: bool
) -> tuple[_Bilinear, _Bilinear, tuple[float, float]]:
    """Both axes' neighbours at ``(N, H' W')`` positions, and pixels per unit of the frame."""
    axes = []
    inset = 1 if align_corners else 0
    places = (image.shape[3], size[1]), (image.shape[2], size[0])
    for axis, (source, count) in enumerate(places):
        index = torch.arange(count, dtype=displacement.dtype, device=displacement.device)
        if count != source and align_corners:
            index = index * ((source - 1) / (count - 1)) if count > 1 else index + (source - 1) / 2
        elif count != source:
            index = ((2 * index + 1) * source / count - 1) / 2
        base = index.repeat(size[0]) if axis == 0 else index.repeat_interleave(size[1])
        position = base + displacement[:, axis] * ((source - inset) / 2)
        axes.append(_Bilinear(position, source, padding_mode))
    return axes[0], axes[1], ((places[0][0] - inset) / 2, (places[1][0] - inset) / 2)


def _corner(image: Tensor, x: _Bilinear, y: _Bilinear, i: int, j: int) -> Tensor:
    """Values ``(N, C, M)`` of the neighbour ``i`` along x and ``j`` along y; ``image`` is ``(N, C, H, W)``."""
    index = torch.add(x.indices[i], y.indices[j], alpha=image.shape[3]).unsqueeze(1)
    return image.flatten(2).gather(2, index.expand(-1, image.shape[1], -1))


def tps_warp(
    image: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    size: Sequence[int],
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """``(N, C, H', W')`` in the image's dtype; channels_last for a channels_last image."""
    displacement = lattice_displacement(centers, weights, affine, before, size, align_corners)
    displacement = displacement.to(arithmetic_dtype(image, centers))
    x, y, _ = _axes(displacement, image, size, padding_mode, align_corners)
    values = image.to(displacement.dtype)
    out = None
    for i, weight_x in enumerate(x.weights()):
        for j, weight_y in enumerate(y.weights()):
            part = _corner(values, x, y, i, j) * (weight_x * weight_y).unsqueeze(1)
            out = part if out is None else out.add_(part)
    assert out is not None
    return (
        torch.unflatten(out, 2, tuple(size)).to(image.dtype).contiguous(memory_format=memory_format_of(image))
    )


def memory_format_of(image: Tensor) -> torch.memory_format:
    """channels_last for an image laid out so and not also contiguous, otherwise contiguous."""
    if not image.is_contiguous() and image.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def tps_warp_backward(
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
    """Gradients of image, centres, weights, affine and before, each in its tensor's dtype; ``(0,)`` if not asked for.

    ``need_spline`` asks for those of weights, affine and before.
    """
    size = tuple(grad.shape[2:])
    dtype = arithmetic_dtype(image, centers)
    displacement = lattice_displacement(centers, weights, affine, before, size, align_corners).to(dtype)
    x, y, pixels = _axes(displacement, image, size, padding_mode, align_corners)
    grad = grad.to(dtype).flatten(2)
    answer = [tensor.new_empty((0,)) for tensor in (image, centers, weights, affine, affine)]
    if need_image:
        answer[0] = _blend_adjoint(grad, image, x, y)
    if need_spline or need_centers:
        values = image.to(dtype)
        toward = [
            [(grad * _corner(values, x, y, i, j)).sum(1) * (x.counts[i] * y.counts[j]) for j in (0, 1)]
            for i in (0, 1)
        ]
        across = torch.lerp(toward[1][0] - toward[0][0], toward[1][1] - toward[0][1], y.fraction)
        down = torch.lerp(toward[0][1] - toward[0][0], toward[1][1] - toward[1][0], x.fraction)
        of_g = torch.stack((across * x.slope * pixels[0], down * y.slope * pixels[1]), 1)
        found = _spline_adjoint(of_g, centers, weights, affine, before, size, align_corners, need_centers)
        if need_centers:
            answer[1] = found[0].to(centers.dtype)
        if need_spline:
            answer[2], answer[3] = found[1].to(weights.dtype), found[2].to(affine.dtype)
            answer[4] = answer[4] if before is None else found[3].to(before.dtype)
    return answer[0], answer[1], answer[2], answer[3], answer[4]


def _blend_adjoint(grad: Tensor, image: Tensor, x: _Bilinear, y: _Bilinear) -> Tensor:
    """Gradient of the image: each output pixel's share goes to its four neighbours, in a fixed order."""
    batch, channels, height, width = image.shape
    first = torch.arange(batch, device=image.device).unsqueeze(1) * (height * width)
    indices, parts = [], []
    for i, weight_x in enumerate(x.weights()):
        for j, weight_y in enumerate(y.weights()):
            indices.append((first + y.indices[j] * width + x.indices[i]).flatten())
            parts.append((grad * (weight_x * weight_y).unsqueeze(1)).transpose(1, 2).flatten(0, 1))
    total = grad.new_zeros((batch * height * width, channels))
    # index_put sorts on a GPU, where a scatter would add in any order
    total = total.index_put((torch.cat(indices),), torch.cat(parts), accumulate=True)
    of_image = torch.unflatten(total, 0, (batch, height, width)).permute(0, 3, 1, 2).to(image.dtype)
    return in_layout_of(of_image, image)


def _spline_adjoint(
    of_g: Tensor,
    centers: Tensor,
    weights: Tensor,
    affine: Tensor,
    before: Tensor | None,
    size: Sequence[int],
    align_corners: bool,
    need_centers: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of centres, weights, affine and before from that of ``g`` on the lattice, ``(N, 2, H' W')``."""
    of_g = of_g.to(arithmetic_dtype(of_g, weights))
    nothing = of_g.new_empty((0,))
    if _has_constant_basis(centers, before) and not need_centers:
        basis = _lattice_basis(centers, size, align_corners)
        rows = torch.unflatten(torch.mm(of_g.to(basis.dtype).flatten(0, 1), basis.t()), 0, (of_g.shape[0], 2))
        count = centers.shape[0]
        return (
            nothing,
            rows[..., :count].transpose(1, 2).contiguous(),
            rows[..., count:].contiguous(),
            nothing,
        )
    points = lattice(size, align_corners, of_g.dtype, of_g.device)
    parts = list(_parts(points, of_g.dtype, centers, weights, affine, before))
    pieces = [
        _part_adjoint(grad, points, *part)
        for grad, part in zip(torch.split(of_g, [len(part[1]) for part in parts]), parts, strict=True)
    ]
    of_centers, of_weights, of_affine, of_before = (torch.cat(found) for found in zip(*pieces, strict=True))
    return of_centers.sum(0) if centers.dim() == 2 else of_centers, of_weights, of_affine, of_before


def _part_adjoint(
    of_g: Tensor, points: Tensor, centers: Tensor, weights: Tensor, affine: Tensor, before: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each sample's gradients of centres, weights, affine and before (empty without one)."""
    moved = points.expand_as(of_g) if before is None else affine_points(before, points)
    across, down, r2 = _offsets(moved, centers)
    log = _safe_log(r2)
    kernel = 0.5 * r2 * log
    of_weights = torch.stack([(kernel * of_g[:, None, axis]).sum(-1) for axis in (0, 1)], -1)
    of_affine = _outer_with_points(of_g, moved)
    pulled = weights[..., 0, None] * of_g[:, None, 0] + weights[..., 1, None] * of_g[:, None, 1]
    pulled = pulled * (log + 1)
    legs = [pulled * across, pulled * down]
    of_centers = -torch.stack([leg.sum(-1) for leg in legs], -1)
    if before is None:
        return of_centers, of_weights, of_affine, of_g.new_empty((0,))
    of_moved = torch.stack([leg.sum(1) for leg in legs], 1) + _transposed(affine, of_g)
    return of_centers, of_weights, of_affine, _outer_with_points(of_moved, points.expand_as(of_g))


def _outer_with_points(of_points: Tensor, points: Tensor) -> Tensor:
    """``sum_p of_points (points, 1)^T``, ``(N, 2, 3)``."""
    linear = [(of_points * points[:, axis : axis + 1]).sum(-1) for axis in (0, 1)]
    return torch.stack((*linear, of_points.sum(-1)), -1)
