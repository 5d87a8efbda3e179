"""What tests of emulated kernels share: modules, tensors as arrays, every order of threads and blocks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from . import build

Array = np.ndarray
#: Three ways to run threads and blocks; a kernel without floating-point atomics gives the same bits in each.
ORDERS = [("forward", 0), ("reverse", 0), ("random", 1)]
_modules: list[ModuleType] = []


class EmulationError(Exception):
    """A mistake of a kernel; ``kind`` names what sort, as README.md lists them."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def kernels(name: str) -> ModuleType:
    """The module bound by ``<name>.cpp`` in this folder; skips the test where it cannot be built."""
    try:
        module = build.module(Path(__file__).parent / f"{name}.cpp")
    except build.CannotBuild as reason:
        pytest.skip(f"kernels cannot be emulated: {reason}")
    if module not in _modules:
        module.raise_as(EmulationError)
        _modules.append(module)
    return module


@contextmanager
def order(mode: str, seed: int = 0) -> Iterator[None]:
    """Threads and blocks ``forward``, in ``reverse`` or at ``random``, in all modules."""
    for module in _modules:
        module.set_order(mode, seed)
    try:
        yield
    finally:
        for module in _modules:
            module.set_order("forward", 0)


@contextmanager
def launches(name: str) -> Iterator[list[tuple[str, tuple[int, int, int]]]]:
    """Kernels of a module and their grids, in a list that is filled when the context ends."""
    module = kernels(name)
    module.take_launches()
    found: list[tuple[str, tuple[int, int, int]]] = []
    yield found
    found.extend(module.take_launches())


def in_every_order(run: Callable[[], tuple[Array, ...]]) -> tuple[Array, ...]:
    """The arrays that ``run`` makes, required to be equal bit by bit in every order of threads and blocks."""
    results = []
    for mode, seed in ORDERS:
        with order(mode, seed):
            results.append(run())
    for (mode, _), other in zip(ORDERS[1:], results[1:], strict=True):
        for number, (a, b) in enumerate(zip(results[0], other, strict=True)):
            same = a.tobytes() == b.tobytes()
            assert same, (
                f"result {number} depends on the order of threads and blocks: forward and {mode} differ"
            )
    return results[0]


def dtype_name(tensor: Tensor) -> str:
    """The dtype as bindings name it."""
    return str(tensor.dtype).removeprefix("torch.")


def as_array(tensor: Tensor) -> Array:
    """The tensor's memory as an array of the same strides; bfloat16 as its bits."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_tensor(array: Array, dtype: torch.dtype) -> Tensor:
    """The array's memory as a tensor: as_array the other way round."""
    return torch.from_numpy(array).view(dtype)


def arrays(*tensors: Tensor | None) -> list[Array | None]:
    """Each tensor's memory as an array; None stays."""
    return [None if tensor is None else as_array(tensor) for tensor in tensors]
