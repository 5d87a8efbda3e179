"""Whether one backend computes what the definition says, on drawn inputs: every dtype, layout, size and odd value.

The definition is the plain PyTorch backend in float64, run on the very numbers that the other backend was given; the
same plain PyTorch in the inputs' own dtype says how much rounding is usual (tests/tolerances.py).
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lmdis_fast import backends

from . import strategies as draw
from .cases import Case, Shape
from .tolerances import assert_gradient_near, assert_near

#: One pixel, one row, one column; tails of vectors; rows cut into pieces; several bands whose sums are merged.
SIZES = [(1, 1), (1, 7), (6, 1), (5, 4), (33, 17), (9, 130), (67, 130)]
LAYOUTS = [*draw.LAYOUTS, "broadcast", "channels_last_sliced", "at_the_end"]
#: What may be in the tensors; not every role has every kind (see :func:`_filled`).
KINDS = ["normal", "ties", "large", "equal", "masked", "nan"]


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """How the tensors of a case look: the first one's dtype and layout, the others', and the upstream gradients'."""

    shape: Shape
    dtypes: tuple[torch.dtype, torch.dtype]
    layouts: tuple[str, str, str]
    kinds: tuple[str, str]
    seed: int

    def tensors(self, case: Case) -> list[Tensor]:
        """The case's inputs, without gradients."""
        sized = at(case, self.shape)
        found = []
        for i, (role, tensor) in enumerate(zip(sized.roles, sized.inputs(self.seed), strict=True)):
            j = min(i, 1)
            values = _filled(role, self.kinds[j], tensor, self.seed + i).to(self.dtypes[j])
            found.append(arranged(values, self.layouts[j]))
        return found

    def upstream(self, results: tuple[Tensor, ...]) -> list[Tensor]:
        """A gradient for each result, exact in every dtype, so that every dtype receives the same."""
        weights = [draw.uniform(tuple(r.shape), self.seed + 77).bfloat16() for r in results]
        return [arranged(w.to(r.dtype), self.layouts[2]) for w, r in zip(weights, results, strict=True)]


def at(case: Case, shape: Shape) -> Case:
    """The case in another shape."""
    assert case.at is not None
    return case.at(shape)


@st.composite
def arrangements(pick: st.DrawFn) -> Arrangement:
    """Any arrangement. Maps of many pixels have few samples."""
    height, width = pick(st.sampled_from(SIZES))
    shape = Shape(
        pick(st.sampled_from([0, 1, 2])),
        pick(st.sampled_from([2, 3, 5, 18, 35])),
        pick(st.sampled_from([1, 2, 3, 9, 16, 17, 32])),
        height,
        width,
    )
    first = pick(draw.dtypes)
    dtypes = first, pick(st.one_of(st.just(first), draw.dtypes))
    layout = st.sampled_from(LAYOUTS)
    kind = st.sampled_from(KINDS)
    return Arrangement(
        shape, dtypes, (pick(layout), pick(layout), pick(layout)), (pick(kind), pick(kind)), pick(draw.seeds)
    )


def _filled(role: str, kind: str, usual: Tensor, seed: int) -> Tensor:
    """Other values of the same shape; those of splines and widths stay usual."""
    if role == "logits" and kind != "nan":
        return draw.logits_of(kind, tuple(usual.shape), seed)
    if kind == "large" and role in ("features", "points"):
        return usual * (1e3 if role == "features" else 20.0)
    if kind == "equal" and role in ("features", "points"):
        return torch.full_like(usual, 0.25)
    if kind == "nan" and role in ("logits", "features", "points") and usual.numel():
        usual.view(-1)[seed % usual.numel()] = math.nan
    return usual


def arranged(dense: Tensor, layout: str) -> Tensor:
    """:func:`strategies.in_layout` for tensors of any rank, with three layouts more.

    ``broadcast`` has stride 0 along every dimension but the first and last, ``channels_last_sliced`` every second
    channel of a wider channels_last tensor, and ``at_the_end`` ends where its allocation ends.
    """
    if layout == "broadcast" and dense.dim() >= 3 and dense.numel():
        middle = (slice(None), *(slice(0, 1),) * (dense.dim() - 2))
        return dense[middle].expand_as(dense)
    if layout == "channels_last_sliced" and dense.dim() == 4:
        wide = dense.new_full((dense.shape[0], 2 * dense.shape[1] + 3, *dense.shape[2:]), math.nan)
        view = wide.contiguous(memory_format=torch.channels_last)[:, 2:-1:2]
        return view.copy_(dense)
    if layout == "at_the_end":
        store = dense.new_empty(dense.numel() + 5)
        return store[5:].view(dense.shape).copy_(dense)
    if dense.dim() == 4:
        return draw.in_layout(dense, layout)
    if layout in ("sliced", "channels_last_sliced"):
        wide = dense.new_full((*dense.shape[:-1], 2 * dense.shape[-1] + 1), math.nan)
        return wide[..., 1::2].copy_(dense)
    if layout == "expanded" and len(dense):
        return dense[:1].expand_as(dense)
    if layout in ("channels_last", "channels_outermost", "transposed") and dense.dim() >= 2:
        return dense.transpose(0, 1).contiguous().transpose(0, 1)
    return dense.contiguous()


def computed(
    case: Case, arrangement: Arrangement, tensors: list[Tensor], backend: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients on one backend."""
    sized = at(case, arrangement.shape)
    with backends.use_backend(backend):
        leaves = [t.detach().requires_grad_() for t in tensors]
        results = sized.results(*leaves)
        gradients = torch.autograd.grad(results, leaves, arrangement.upstream(results))
    return [r.detach() for r in results], list(gradients)


def check_agreement(case: Case, arrangement: Arrangement, backend: str = "cpu") -> None:
    """Results and gradients of ``backend`` are near the definition's, of the same dtypes and shapes.

    Results have the fake kernel's strides, gradients the definition's.
    """
    tensors = arrangement.tensors(case)
    exact = computed(case, arrangement, [t.double() for t in tensors], "reference")
    eager = computed(case, arrangement, tensors, "reference")
    found = computed(case, arrangement, tensors, backend)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = at(case, arrangement.shape).results(*(mode.from_tensor(t) for t in tensors))
    for out, other, want, fake in zip(found[0], eager[0], exact[0], fakes, strict=True):
        assert (out.dtype, out.shape) == (fake.dtype, fake.shape)
        assert out.stride() == fake.stride() or out.numel() == 0
        assert_near(out, want, other)
    reach = max(
        [1.0, *(t.double().nan_to_num(0.0, 0.0, 0.0).abs().max().item() for t in tensors if t.numel())]
    )
    for role, out, other, want, tensor in zip(case.roles, found[1], eager[1], exact[1], tensors, strict=True):
        assert (out.dtype, out.shape) == (tensor.dtype, tensor.shape)
        assert out.stride() == other.stride() or out.numel() == 0
        if (
            role == "spline"
        ):  # sums over an image's differences, which are taken in its own arithmetic, per pixel
            single = any(t.dtype != torch.float64 for t in tensors)
            out, other = (t.float() if single and t.dtype == torch.float64 else t for t in (out, other))
        pixels = max(arrangement.shape.size) if role == "spline" else 1
        assert_gradient_near(out, want, other, reach=reach * pixels)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_threads(case: Case, layout: str, dtype: torch.dtype, backend: str = "cpu") -> None:
    """The same bits from 1, 2 and 3 threads, where there are several tasks to share."""
    shape = Shape(2, 7, 5, 67, 130)
    arrangement = Arrangement(shape, (dtype, dtype), (layout,) * 3, ("normal", "normal"), 3)
    tensors = arrangement.tensors(case)
    bits = []
    for count in (1, 2, 3):
        with threads(count):
            results, gradients = computed(case, arrangement, tensors, backend)
        bits.append([*results, *gradients])
    for other in bits[1:]:
        assert all(torch.equal(a, b) for a, b in zip(bits[0], other, strict=True))
