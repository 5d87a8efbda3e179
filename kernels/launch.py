"""How a kernel is launched: prepared once for each kind of call, then with its tensors alone.

``kernel[grid](...)`` looks at every argument at every call, which costs more Python than a small kernel takes to run.
Here a call's grid, numbers and constants are worked out once for each set of shapes, strides, dtypes and options and
kept as a :class:`Launch`; a later call hands the tensors to the compiled kernel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensor
from triton.runtime.interpreter import InterpretedFunction

from . import launch_table

#: Tensors are promised to the compiler as aligned to so many bytes, or not: two compiled kernels.
ALIGNMENT = 16
#: Tensors that are memory and nothing else.
KINDS = (Tensor, torch.nn.Parameter)
#: Where profilers of Triton's launches put what they want to be called.
HOOKS = triton.knobs.runtime

Made = TypeVar("Made")
#: Hands out memory of a shape, strides and a dtype.
Memory = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]
#: A shape and its strides.
Places = tuple[tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Captured:
    """A launch as the compiler sees it: what to compile ahead of time."""

    kernel: Any
    grid: tuple[int, ...]
    tensors: tuple[torch.dtype | None, ...]
    numbers: tuple[Any, ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]


_recorded: list[tuple[str, tuple[int, ...]]] | None = None
_captured: list[Captured] | None = None


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1 before torch is imported)."""
    return _INTERPRETING


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Names and grids of the kernels launched within the context, in order. For tests and benchmarks."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


@contextlib.contextmanager
def captured(arch: str) -> Iterator[list[Captured]]:
    """Launches of calls within the context, which then compute nothing: on tensors of device ``meta``, as on ``arch``."""
    global _captured
    before, _captured = _captured, []
    try:
        with launch_table.architecture_of_meta(arch):
            yield _captured
    finally:
        _captured = before


def planned(make: Callable[..., Made]) -> Callable[..., Made]:
    """Keep what ``make`` returns for each set of (hashable) arguments; the oldest of 512 goes."""
    return functools.lru_cache(maxsize=512)(make)


def described(tensor: Tensor) -> tuple[Any, ...]:
    """What a plan depends on: shape, strides, dtype and device."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


class Launch:
    """One kernel with all but its tensors given.

    Args:
        kernel: its parameters are tensors, then numbers, then ``tl.constexpr``.
        grid: number of programs along one to three axes; with none, calls do nothing.
        numbers: in the order of the kernel's parameters; a tuple of float is one parameter.
        constants: the ``tl.constexpr`` parameters by name.
        options: ``num_warps`` and ``num_stages``.
    """

    __slots__ = ("_all", "_compiled", "_empty", "constants", "grid", "kernel", "numbers", "options")

    def __init__(
        self,
        kernel: Any,
        grid: Sequence[int],
        numbers: Sequence[Any],
        constants: Mapping[str, Any],
        options: Mapping[str, int],
    ) -> None:
        self.kernel = kernel
        self.grid = (*grid, 1, 1)[:3]
        self._empty = 0 in self.grid
        self.numbers = tuple(numbers)
        self.constants = dict(constants)
        self.options = dict(options)
        names = kernel.arg_names
        self._all = (*self.numbers, *(self.constants[n] for n in names[len(names) - len(self.constants) :]))
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def __call__(self, *tensors: Tensor | None) -> None:
        if self._empty:
            return
        some = tensors[0] if tensors[0] is not None else next(t for t in tensors if t is not None)
        if type(some) is FunctionalTensor:  # a compiler's, which wants to see the launch (ops.tracing)
            traced = torch.library.wrap_triton(self.kernel)
            traced[self.grid](*tensors, *self.numbers, **self.constants, **self.options)
            return
        if _captured is not None:
            dtypes = tuple(None if t is None else t.dtype for t in tensors)
            constants, options = tuple(self.constants.items()), tuple(self.options.items())
            _captured.append(Captured(self.kernel, self.grid, dtypes, self.numbers, constants, options))
            return
        if _recorded is not None:
            _recorded.append((self.kernel.__name__, self.grid))
        if _INTERPRETING:
            self.kernel[self.grid](*tensors, *self.numbers, **self.constants)
            return
        device = some.device.index
        if current_device() == device:
            self._launch(device, tensors)
        else:
            with torch.cuda.device(device):
                self._launch(device, tensors)

    def for_aligned(self, like: Tensor) -> Callable[..., None]:
        """This launch for tensors where ``like`` is, all aligned and of ever the same dtypes: it looks at none."""
        if self._empty or _INTERPRETING or like.is_meta or type(like) not in KINDS:
            return self
        index: Any = like.device.index
        x, y, z = self.grid
        run: Any = None
        function = metadata = None

        def launch(*tensors: Tensor | None) -> None:
            nonlocal run, function, metadata
            hook = HOOKS.launch_enter_hook
            if (
                run is None
                or _recorded is not None
                or _captured is not None
                or current_device() != index
                or (hook is not None and getattr(hook, "calls", True))
            ):
                self(*tensors)
                compiled = self._compiled.get(_machine_code(index, tensors))
                if compiled is not None:
                    # what the others wait for comes last: other threads may be here too
                    function, metadata, run = compiled.function, compiled.packed_metadata, compiled.run
                return
            stream, leave = current_stream(index), HOOKS.launch_exit_hook
            run(x, y, z, stream, function, metadata, None, hook, leave, *tensors, *self._all)

        return launch

    def _launch(self, device: int, tensors: tuple[Tensor | None, ...]) -> None:
        key = _machine_code(device, tensors)
        compiled = self._compiled.get(key)
        if compiled is None:
            self._compiled[key] = self.kernel[self.grid](
                *tensors, *self.numbers, **self.constants, **self.options
            )
            return
        stream = current_stream(device)
        arguments = (*tensors, *self._all)
        hook, metadata = HOOKS.launch_enter_hook, None
        if hook is not None and getattr(hook, "calls", True):  # a profiler's; without one the chain is empty
            metadata = compiled.launch_metadata(self.grid, stream, *arguments)
        compiled.run(
            *self.grid,
            stream,
            compiled.function,
            compiled.packed_metadata,
            metadata,
            hook,
            HOOKS.launch_exit_hook,
            *arguments,
        )


def _machine_code(device: int, tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Which of a launch's compiled kernels is for these."""
    return (device, *[t if t is None else (t.dtype, not t.data_ptr() % ALIGNMENT) for t in tensors])


@dataclasses.dataclass(frozen=True)
class Plan:
    """Launches of one kind of call, in their order.

    Attributes:
        first, last: a :class:`Launch`, or None.
        workspace: sizes of the float32 tensors that the first leaves for the last; None where one is not needed.
        result: the result's shape, where its inputs do not say it.
    """

    first: Any
    last: Any = None
    workspace: Sequence[tuple[int, ...] | None] = ()
    result: tuple[int, ...] = ()

    def for_aligned(self, like: Tensor) -> tuple[Any, Any, list[Places | None]]:
        """Both launches as :meth:`Launch.for_aligned`, and shapes and strides of the workspace."""
        first, last = self.first.for_aligned(like), self.last.for_aligned(like)
        return first, last, [None if size is None else laid_out(size) for size in self.workspace]

    def sums(self, like: Tensor) -> list[Tensor | None]:
        """Memory for what the first launch leaves for the last."""
        device = like.device
        return [None if s is None else floats(s, device) for s in self.workspace]


class Prepared:
    """The kernel of an operator from what prepares its calls; a decorator.

    Args:
        prepare: takes the operator's arguments and returns a function for arguments of the same kind, tensors of the
            same shapes, strides, dtypes and devices beside equal others, which may look at no more of them than
            addresses.
    """

    def __init__(self, prepare: Callable[..., Callable[..., Any]]) -> None:
        functools.update_wrapper(self, prepare)
        self.prepare = prepare

    def __call__(self, *args: Any) -> Any:
        return self.prepare(*args)(*args)


def memory(*tensors: Tensor | None) -> tuple[Memory, Callable[[Tensor], int]]:
    """What hands out memory on the device of the tensors, which is aligned, and what says where a tensor's begins.

    For tensors that are nothing else and where no mode listens the first is what Inductor's programs call, which takes
    half the time of ``torch.empty_strided``. Compilers' tensors are nowhere, which counts as not aligned.
    """
    some = [t for t in tensors if t is not None]
    device = some[0].device

    def usual(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty_strided(shape, strides, dtype=dtype, device=device)

    if torch._C._len_torch_dispatch_stack() or any(type(t) not in KINDS for t in some):
        return usual, lambda _: 1
    address = Tensor.data_ptr
    if _INTERPRETING:  # torch fills this memory with NaN where it is asked to, for tests
        return usual, address
    quick: Memory | None = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}", None)
    if quick is None or device.type not in ("cpu", "cuda"):
        return usual, address
    if device.type == "cpu" or torch.cuda.device_count() == 1:
        return quick, address

    def on_device(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        here = current_device() == device.index  # the quick one takes the current device's memory
        return (quick if here else usual)(shape, strides, dtype)

    return on_device, address


def laid_out(shape: tuple[int, ...]) -> Places:
    """A shape and the strides of contiguous memory of it."""
    return shape, _contiguous(shape)


def floats(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Contiguous memory. With strides given, torch takes half as long as where it has to find them."""
    return torch.empty_strided(shape, _contiguous(shape), dtype=dtype, device=device)


@functools.lru_cache(maxsize=512)
def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides))


def current_device() -> int:
    """Of the calling thread. A launch goes to the current device, whatever its tensors are on."""
    return torch._C._cuda_getDevice()


def current_stream(device: int) -> int:
    """The handle of torch's current stream."""
    return torch._C._cuda_getCurrentRawStream(device)


@triton.jit
def _nothing() -> None:
    pass


_INTERPRETING = isinstance(_nothing, InterpretedFunction)
