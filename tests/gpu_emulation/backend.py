"""The emulated kernels as backend ``cuda``: the operators themselves run them, as tests of any backend do."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from hypothesis import settings

from lmdis_fast import backends
from lmdis_fast.ops.registration import SCHEMAS

from ..agreement import Arrangement, check_agreement, computed
from ..cases import Case, Shape
from . import emulated

#: Emulated threads take microseconds each.
few = settings(max_examples=max(settings.default.max_examples // 3, 4))


def _refuses(args: Sequence[Any]) -> str | None:
    return backends.not_for_cuda(args, "cpu")


@contextlib.contextmanager
def emulated_cuda(room: str) -> Iterator[None]:
    """Within the context backend ``cuda`` takes CPU tensors and runs the room's kernels in the emulator."""
    emulated.kernels(room)
    module = importlib.import_module(f".{room}", __package__)
    found = {op: (getattr(module, op), _refuses) for op in SCHEMAS if hasattr(module, op)}
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
    shape = Shape(2, 3, 5, 33, 24)
    arrangement = Arrangement(shape, (dtype, dtype), (layout,) * 3, ("normal", "normal"), 3)
    tensors = arrangement.tensors(case)

    def run() -> tuple[emulated.Array, ...]:
        results, gradients = computed(case, arrangement, tensors, "cuda")
        return tuple(emulated.as_array(t) for t in (*results, *gradients))

    with emulated_cuda(case.room):
        emulated.in_every_order(run)
