"""Triton's kernels in its interpreter: every buffer between guard bands, many tiles and one, what was launched.

The interpreter costs milliseconds a program and lets stores out of bounds pass, so maps are small here and each tensor
that a kernel is given lies alone in memory full of a pattern, which has to be there afterwards.
"""

import contextlib
import importlib
import math
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from lmdis_fast import backends

from . import strategies as draw
from .agreement import LAYOUTS, Arrangement, at, check_agreement
from .cases import Case, Shape
from .checks import check_autocast, check_compiled, check_deterministic, check_registrations

#: Bytes of the guard bands: NaN as a float of any size, and far from 0 as an integer.
PATTERN = 0xFF
BAND = 256
SIZES = [(1, 1), (1, 7), (6, 1), (5, 4), (33, 17), (18, 32)]
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
#: Interpreted programs take milliseconds each: fewer examples than for compiled code.
few = settings(max_examples=max(settings.default.max_examples // 3, 4))


def skip_without_triton(operator: str) -> None:
    """Skip, and say why, where Triton cannot run."""
    for name in (operator, operator + "_backward"):
        reason = backends.why_not("triton", name)
        if reason is not None:
            pytest.skip(f"{name}: backend triton: {reason}")


@st.composite
def arrangements(pick: st.DrawFn) -> Arrangement:
    """Small maps of up to 64 landmarks, in any layout, dtype and kind."""
    height, width = pick(st.sampled_from(SIZES))
    few_pixels = height * width < 100
    landmarks = pick(st.sampled_from([2, 3, 11, 35, 66] if few_pixels else [2, 3, 11]))
    shape = Shape(
        pick(st.sampled_from([0, 1, 2])), landmarks, pick(st.sampled_from([1, 3, 17])), height, width
    )
    first = pick(DTYPES)
    kind = st.sampled_from(["normal", "ties", "large", "equal", "masked", "nan"])
    layout = st.sampled_from(LAYOUTS)
    return Arrangement(
        shape,
        (first, pick(st.one_of(st.just(first), DTYPES))),
        (pick(layout), pick(layout), pick(layout)),
        (pick(kind), pick(kind)),
        pick(draw.seeds),
    )


def _guarded_copy(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tensor alone in a buffer, the buffer's bytes, and which of them are nobody's."""
    size = tensor.element_size()
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    span = 1 + sum((n - 1) * s for n, s in pairs) if tensor.numel() else 0
    data = torch.full((span * size + 2 * BAND,), PATTERN, dtype=torch.uint8)
    free = torch.ones(span, dtype=torch.bool)
    free.as_strided(tensor.shape, tensor.stride()).zero_()
    of_bytes = torch.ones_like(data, dtype=torch.bool)
    of_bytes[BAND : len(data) - BAND] = free.repeat_interleave(size)
    middle = data[BAND : len(data) - BAND].view(tensor.dtype)
    copy = middle.as_strided(tensor.shape, tensor.stride())
    if tensor.numel():
        copy.copy_(tensor) if not _overlaps(tensor) else _distinct(copy).copy_(_distinct(tensor))
    return copy, data, of_bytes


def _overlaps(tensor: Tensor) -> bool:
    return any(s == 0 and n > 1 for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _distinct(tensor: Tensor) -> Tensor:
    """The part of an expanded tensor that has memory of its own."""
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within the context every launch works on copies between guard bands, which it must not touch."""
    from lmdis_fast.kernels.launch import Launch

    original = Launch.__call__

    def call(self: Launch, *tensors: Tensor | None) -> None:
        held = [None if t is None else _guarded_copy(t) for t in tensors]
        original(self, *(None if h is None else h[0] for h in held))
        for place, (tensor, parts) in enumerate(zip(tensors, held, strict=True)):
            if tensor is None or parts is None:
                continue
            copy, data, free = parts
            touched = int((data[free] != PATTERN).sum())
            assert not touched, (
                f"{self.kernel.__name__}: argument {place}: {touched} bytes outside were written"
            )
            if tensor.numel() and not _overlaps(tensor):
                tensor.copy_(copy)

    with mock.patch.object(Launch, "__call__", call):
        yield


@contextlib.contextmanager
def tiles_of(room: str, pixels: int) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Within the context the room's kernels have tiles of so many pixels, twice where they step; yields launches."""
    from lmdis_fast.kernels import launch_table
    from lmdis_fast.kernels.launch import recorded

    module = importlib.import_module(f"lmdis_fast.kernels.{room}")
    with contextlib.ExitStack() as stack:
        for kernel, entries in launch_table.TABLE.items():
            if hasattr(module, kernel) and "TILE" in entries[0]:
                usual = launch_table.configuration(kernel, "cpu", 1, 1, 2)
                steps = {"STEPS": 2} if "STEPS" in usual else {}
                stack.enter_context(launch_table.overridden(kernel, **{**usual, "TILE": pixels, **steps}))
        yield stack.enter_context(recorded())


def check_interpreted(case: Case, arrangement: Arrangement) -> None:
    """Agreement with the definition, with guards around everything."""
    skip_without_triton(case.operator)
    with guarded():
        check_agreement(case, arrangement, "triton")


def check_stages(case: Case) -> None:
    """One tile an image and many give the definition's numbers, by at most two launches each way."""
    skip_without_triton(case.operator)
    shape = Shape(2, 3, 5, 18, 32)
    arrangement = Arrangement(shape, (torch.float32,) * 2, ("contiguous",) * 3, ("normal",) * 2, 5)
    programs = {}
    for pixels in (1024, 32):
        with tiles_of(case.room, pixels) as launches, guarded():
            check_agreement(case, arrangement, "triton")
            launches.clear()
            leaves = [t.requires_grad_() for t in arrangement.tensors(case)]
            with backends.use_backend("triton"):
                results = at(case, shape).results(*leaves)
                forward = list(launches)
                torch.autograd.grad(results, leaves, arrangement.upstream(results))
            backward = launches[len(forward) :]
        for way in (forward, backward):
            assert 1 <= len(way) <= 2, way
        programs[pixels] = [max(math.prod(grid) for _, grid in way) for way in (forward, backward)]
    tiles = math.prod(shape.size) // 64
    for many, one in zip(programs[32], programs[1024], strict=True):
        assert many >= tiles * shape.batch and many > one, programs


def check_poison(case: Case) -> None:
    """Nothing uninitialised comes out: fresh memory is full of NaN."""
    skip_without_triton(case.operator)
    torch.use_deterministic_algorithms(True)
    try:
        with backends.use_backend("triton"), guarded():
            check_deterministic(case)
    finally:
        torch.use_deterministic_algorithms(False)


def check_registered(case: Case) -> None:
    """Autocast, opcheck, and one graph under torch.compile."""
    skip_without_triton(case.operator)
    with backends.use_backend("triton"):
        check_autocast(case)
        check_registrations(case)
        check_compiled(case, "aot_eager")


def one_of_each_operator(cases: list[Case]) -> list[Case]:
    """The first case of each operator, for what does not depend on its options."""
    return list({case.operator: case for case in reversed(cases)}.values())
