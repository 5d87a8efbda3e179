"""The emulated kernels as backend ``cuda``: the operators themselves run them, as tests of any backend do."""

import contextlib
import functools
import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from hypothesis import strategies as st

from lmdis_fast import backends
from lmdis_fast.ops.registration import SCHEMAS

from .. import strategies as draw
from ..agreement import LAYOUTS, Arrangement, at, check_agreement, computed
from ..cases import Case, Shape
from . import emulated

#: One pixel, one row, one column; tiles with tails; several tiles across and down.
SIZES = [(1, 1), (1, 7), (6, 1), (5, 4), (33, 17), (18, 32), (9, 130), (40, 24)]
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
KINDS = st.sampled_from(["normal", "ties", "large", "equal", "masked", "nan"])


@st.composite
def arrangements(pick: st.DrawFn) -> Arrangement:
    """Maps of up to 65 landmarks, in any layout, dtype and kind; large ones have few channels."""
    height, width = pick(st.sampled_from(SIZES))
    landmarks = [2, 3, 11, 18, 35, 66] if height * width < 700 else [2, 3, 11, 18]
    features = [1, 3, 17, 70] if height * width < 700 else [1, 3, 17]
    shape = Shape(
        pick(st.sampled_from([0, 1, 2])),
        pick(st.sampled_from(landmarks)),
        pick(st.sampled_from(features)),
        height,
        width,
    )
    first, layout = pick(DTYPES), st.sampled_from(LAYOUTS)
    return Arrangement(
        shape,
        (first, pick(st.one_of(st.just(first), DTYPES))),
        (pick(layout), pick(layout), pick(layout)),
        (pick(KINDS), pick(KINDS)),
        pick(draw.seeds),
    )


def _refuses(op: str, args: Sequence[Any]) -> str | None:
    return backends.not_for_cuda(op, args, "cpu")


@contextlib.contextmanager
def emulated_cuda(room: str) -> Iterator[None]:
    """Within the context backend ``cuda`` takes CPU tensors and runs the room's kernels in the emulator."""
    emulated.kernels(room)
    module = importlib.import_module(f".{room}", __package__)
    found = {
        op: (getattr(module, op), functools.partial(_refuses, op)) for op in SCHEMAS if hasattr(module, op)
    }
    with (
        mock.patch.dict(backends.UNAVAILABLE, {"cuda": None}),
        mock.patch.dict(backends._kernels["cuda"], found),
    ):
        yield


def check_emulated(case: Case, arrangement: Arrangement) -> None:
    """Agreement with the definition, in one of the orders of threads and blocks."""
    with emulated_cuda(case.room), emulated.order(*emulated.ORDERS[arrangement.seed % 3]):
        check_agreement(case, arrangement, "cuda")
        for op in (case.operator, case.operator + "_backward"):
            assert backends.last_backend(op) == "cuda"


def check_orders(case: Case, dtype: torch.dtype, layout: str) -> None:
    """The same bits in every order of threads and blocks, with several tiles an image."""
    arrangement = Arrangement(Shape(2, 3, 5, 33, 24), (dtype, dtype), (layout,) * 3, ("normal", "normal"), 3)
    tensors = arrangement.tensors(case)

    def run() -> tuple[emulated.Array, ...]:
        results, gradients = computed(case, arrangement, tensors, "cuda")
        return tuple(emulated.as_array(t) for t in (*results, *gradients))

    with emulated_cuda(case.room):
        emulated.in_every_order(run)


def check_stages(case: Case) -> None:
    """An image of one tile and one of many: at most two launches each way, and results that agree in both."""
    blocks = []
    for size in ((7, 7), (60, 60)):
        shape = Shape(2, 3, 5, *size)
        arrangement = Arrangement(shape, (torch.float32,) * 2, ("contiguous",) * 3, ("normal",) * 2, 5)
        with emulated_cuda(case.room), backends.use_backend("cuda"):
            check_agreement(case, arrangement, "cuda")
            leaves = [t.requires_grad_() for t in arrangement.tensors(case)]
            with emulated.launches(case.room) as forward:
                results = at(case, shape).results(*leaves)
            with emulated.launches(case.room) as backward:
                torch.autograd.grad(results, leaves, arrangement.upstream(results))
        for way in (forward, backward):
            assert 1 <= len(way) <= 2, way
        blocks.append([max(math.prod(grid) for _, grid in way) for way in (forward, backward)])
    for one, many in zip(*blocks, strict=True):
        assert many >= 2 * one, blocks


def check_extremes(case: Case, most: int) -> None:
    """As many landmarks as the kernels take and each number that cuts blocks otherwise; maps of few columns or rows."""
    counts = sorted({n for n in (64, 65, 128, 129, most) if n <= most})
    shapes = [Shape(1, n, 5, 4, 9) for n in counts]
    shapes += [Shape(1, 3, 5, *size) for size in ((150, 1), (90, 3), (70, 7), (1, 300))]
    for shape in (*shapes, Shape(1, counts[-1], 5, 40, 2)):
        pair = (torch.float32, torch.float32)
        check_emulated(case, Arrangement(shape, pair, ("contiguous",) * 3, ("normal",) * 2, 3))
