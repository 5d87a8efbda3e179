"""Which backend serves which operator, and why not.

=========== ======================== =====================================================================
backend     where                    what for
=========== ======================== =====================================================================
reference   ``lmdis_fast.reference`` the definition, in plain PyTorch: any device, any floating dtype
cpu         compiled extension       vector code for CPU tensors
triton      ``lmdis_fast.kernels``   any GPU that Triton supports
cuda        compiled extension       NVIDIA GPUs
=========== ======================== =====================================================================

Left alone, a call on CPU tensors takes the first backend of ``cpu, reference`` that can run it, and any other call the
first of ``cuda, triton, reference``. A backend asked for by name, through :func:`use_backend` or the environment
variable ``LMDIS_FAST_BACKEND``, either runs or raises; it never falls back. The variable is read once, when this module
is imported, so that a call costs no look-up.

The choice is made inside the registered operators, out of sight of ``torch.compile``, each time one runs; only where
it falls on ``triton`` while a graph is compiled does the graph hold those kernels from then on (``ops.tracing``). It holds
for the whole process rather than for a thread, because autograd runs backward passes in threads of its own; a
backward pass uses what is chosen when it runs, not what was chosen for its forward pass.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import cuda_limits, prepared

BACKENDS = ("reference", "cpu", "triton", "cuda")
#: Triton's interpreter takes CPU tensors as well, but only when it is asked for.
PREFERENCE = {"cpu": ("cpu", "reference"), "gpu": ("cuda", "triton", "reference")}

Kernel = Callable[..., Any]
#: Says why a kernel cannot take these arguments, or None where it can.
WhyNot = Callable[[Sequence[Any]], "str | None"]


def _load_compiled() -> str | None:
    """Load the compiled CPU extension, which registers its operators; why it cannot be, or None."""
    try:
        importlib.import_module("lmdis_fast._C")
    except ModuleNotFoundError:
        return (
            "not built: this installation has no compiled CPU extension "
            "(LMDIS_FAST_BUILD=none or no C++ compiler when it was installed)"
        )
    except (ImportError, OSError) as error:
        return f"built, but it cannot be loaded into torch {torch.__version__}: {error}"
    return None


def _load_cuda() -> str | None:
    """Load the compiled CUDA extension, which registers its kernels; why it cannot run anything, or None."""
    if importlib.util.find_spec(f"{__package__}._C_cuda") is None:
        return (
            "not built: this installation has no compiled CUDA extension (no nvcc of torch's CUDA when it was "
            "installed, or LMDIS_FAST_BUILD=cpu or none)"
        )
    if torch.version.cuda is None:
        return f"built, but torch {torch.__version__} is a build without CUDA"
    try:
        importlib.import_module("lmdis_fast._C_cuda")
    except (ImportError, OSError) as error:
        return f"built, but it cannot be loaded into torch {torch.__version__}: {error}"
    if torch.cuda.device_count() == 0:
        return "not usable: torch sees no NVIDIA GPU"
    return None


def triton_interprets() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


_INTERPRETS = triton_interprets()


def _look_for_triton() -> str | None:
    """Why no Triton kernel can run, or None where they can. Imports nothing: Triton is imported when a kernel is."""
    try:
        missing = importlib.util.find_spec("triton") is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        return "not installed: the package triton is missing (pip install triton; for Linux alone)"
    if not _INTERPRETS and torch.cuda.device_count() == 0:
        return "not usable: torch sees no GPU (for tests TRITON_INTERPRET=1 runs the kernels on CPU tensors)"
    return None


#: Why a backend cannot run anything at all, or None where it can.
UNAVAILABLE: dict[str, str | None] = {
    "reference": None,
    "cpu": _load_compiled(),
    "triton": _look_for_triton(),
    "cuda": _load_cuda(),
}

_kernels: dict[str, dict[str, tuple[Kernel, WhyNot | None]]] = {name: {} for name in BACKENDS}
_last: dict[str, str] = {}
_operators: list[str] = []
_said = False


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run the operator."""


def _known(backend: str, asked_by: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"{asked_by}: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return backend


_environment = os.environ.get("LMDIS_FAST_BACKEND", "").strip().lower()
_asked: str | None = _known(_environment, "LMDIS_FAST_BACKEND") if _environment not in ("", "auto") else None


def register_kernel(backend: str, op: str, kernel: Kernel, why_not: WhyNot | None = None) -> None:
    """Give ``backend`` a kernel for ``op``; ``why_not(args)`` explains arguments that it cannot take."""
    _kernels[_known(backend, "register_kernel")][op] = (kernel, why_not)
    if op not in _operators:
        _operators.append(op)
    prepared.forget()


def register_compiled(op: str) -> bool:
    """Take the compiled extension's CPU kernel of ``op``, if it has one, as backend ``cpu``."""
    if UNAVAILABLE["cpu"] is not None or not _has_compiled_kernel(op, "CPU"):
        return False
    compiled = torch.library.get_kernel(f"lmdis_fast::{op}", "CPU")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    register_kernel("cpu", op, lambda *args: compiled.call_boxed(keys, *args), _not_on_cpu)
    return True


def register_cuda(op: str) -> bool:
    """Take the compiled extension's CUDA kernel of ``op``, if it has one, as backend ``cuda``."""
    if UNAVAILABLE["cuda"] is not None or not _has_compiled_kernel(op, "CUDA"):
        return False
    usual, repeatable = _cuda_kernel(op), f"{op}_repeatable"
    if _has_compiled_kernel(repeatable, "CUDA"):
        exact = _cuda_kernel(repeatable)

        def kernel(*args: Any) -> Any:
            return (exact if torch.are_deterministic_algorithms_enabled() else usual)(*args)

        register_kernel("cuda", op, kernel, functools.partial(not_for_cuda, op))
    else:
        register_kernel("cuda", op, usual, functools.partial(not_for_cuda, op))
    return True


def _has_compiled_kernel(op: str, key: str) -> bool:
    name = f"lmdis_fast::{op}"
    # torch 2.11 raises where the operator does not exist, later ones say no
    known: bool = torch._C._dispatch_has_kernel(name)
    return known and torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def _cuda_kernel(op: str) -> Kernel:
    compiled = torch.library.get_kernel(f"lmdis_fast::{op}", "CUDA")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    return lambda *args: compiled.call_boxed(keys, *args)


def register_triton(op: str, room: str) -> bool:
    """Take the function ``op`` of ``lmdis_fast.kernels.<room>``, if there is that room, as backend ``triton``."""
    module = f"{__package__}.kernels.{room}"
    if UNAVAILABLE["triton"] is not None or importlib.util.find_spec(module) is None:
        return False

    refuses = _not_for_triton_warps if room == "tps_warp" else _not_for_triton

    register_kernel("triton", op, _InRoom(module, op, refuses), refuses)
    return True


class _InRoom:
    """A kernel whose module is imported when it is first asked for."""

    def __init__(self, module: str, op: str, refuses: WhyNot) -> None:
        self.module = module
        self.op = op
        self.refuses = refuses

    def found(self) -> Kernel:
        """The kernel itself, which is called without this detour from now on."""
        kernel: Kernel = getattr(importlib.import_module(self.module), self.op)
        _kernels["triton"][self.op] = (kernel, self.refuses)
        return kernel

    def __call__(self, *args: Any) -> Any:
        return self.found()(*args)


def _not_for_triton(args: Sequence[Any]) -> str | None:
    return _not_on_gpu(args) or _float64_among(args)


def _not_for_triton_warps(args: Sequence[Any]) -> str | None:
    """Splines may be float64; the image, or its gradient, comes first."""
    return _not_on_gpu(args) or _float64_among(args[:1])


def _not_on_gpu(args: Sequence[Any]) -> str | None:
    if not _INTERPRETS and all(arg.is_cuda for arg in args if isinstance(arg, Tensor)):
        return None
    wanted = "cpu" if _INTERPRETS else "cuda"
    elsewhere = {str(arg.device) for arg in args if isinstance(arg, Tensor) and arg.device.type != wanted}
    return f"takes {wanted} tensors, got tensors on {', '.join(sorted(elsewhere))}" if elsewhere else None


def _float64_among(args: Sequence[Any]) -> str | None:
    if any(isinstance(arg, Tensor) and arg.dtype == torch.float64 for arg in args):
        return "takes float32, bfloat16 and float16 tensors, got torch.float64"
    return None


def not_for_cuda(op: str, args: Sequence[Any], device_type: str = "cuda") -> str | None:
    """Why the compiled CUDA kernels cannot take arguments; they are on ``device_type`` but in an emulator."""
    elsewhere = {
        str(arg.device) for arg in args if isinstance(arg, Tensor) and arg.device.type != device_type
    }
    if elsewhere:
        return f"takes {device_type} tensors, got tensors on {', '.join(sorted(elsewhere))}"
    if op.startswith("tps_warp"):
        return _float64_among(args[:1])  # splines may be; the image, or its gradient, comes first
    return _float64_among(args) or cuda_limits.beyond(op, args)


def _not_on_cpu(args: Sequence[Any]) -> str | None:
    elsewhere = {str(arg.device) for arg in args if isinstance(arg, Tensor) and arg.device.type != "cpu"}
    return f"takes CPU tensors, got tensors on {', '.join(sorted(elsewhere))}" if elsewhere else None


def why_not(backend: str, op: str, args: Sequence[Any] = ()) -> str | None:
    """Why ``backend`` cannot run ``op``, or None where it can.

    Args:
        backend: one of :data:`BACKENDS`.
        op: an operator's name without namespace, such as ``"heatmap_moments"``.
        args: the operator's arguments; without them only what holds for all arguments is asked.
    """
    reason = UNAVAILABLE[_known(backend, "why_not")]
    if reason is not None:
        return reason
    entry = _kernels[backend].get(op)
    if entry is None:
        return f"has no kernel for {op}"
    predicate = entry[1]
    return predicate(args) if predicate is not None and args else None


def can_run(backend: str, op: str, args: Sequence[Any] = (), raise_error: bool = False) -> bool:
    """Whether ``backend`` can run ``op`` on ``args``.

    Raises:
        ValueError: for an unknown backend.
        BackendError: where it cannot and ``raise_error`` is set; the text says why.
    """
    reason = why_not(backend, op, args)
    if reason is not None and raise_error:
        raise BackendError(f"{op}: backend {backend} cannot run: {reason}")
    return reason is None


def takes(backend: str, op: str, args: Sequence[Any] = ()) -> bool:
    """Whether ``op`` would run on ``backend`` now: it can, and no other was asked for."""
    return _asked in (None, backend) and why_not(backend, op, args) is None


def kernel_of(backend: str, op: str) -> Kernel:
    """What :func:`run` calls."""
    return _kernels[_known(backend, "kernel_of")][op][0]


def choice(op: str, args: Sequence[Any]) -> str | None:
    """The backend that :func:`run` would take now; None where one was asked for that cannot run this."""
    if _asked is not None:
        return _asked if why_not(_asked, op, args) is None else None
    place = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
    names = PREFERENCE["cpu" if place == "cpu" else "gpu"]
    return next(name for name in names if why_not(name, op, args) is None)


def can_run_reference(op: str, args: Sequence[Any] = (), raise_error: bool = False) -> bool:
    """:func:`can_run` for the plain PyTorch backend."""
    return can_run("reference", op, args, raise_error)


def can_run_cpu(op: str, args: Sequence[Any] = (), raise_error: bool = False) -> bool:
    """:func:`can_run` for the compiled CPU backend."""
    return can_run("cpu", op, args, raise_error)


def can_run_triton(op: str, args: Sequence[Any] = (), raise_error: bool = False) -> bool:
    """:func:`can_run` for the Triton backend."""
    return can_run("triton", op, args, raise_error)


def can_run_cuda(op: str, args: Sequence[Any] = (), raise_error: bool = False) -> bool:
    """:func:`can_run` for the compiled CUDA backend."""
    return can_run("cuda", op, args, raise_error)


def run(op: str, args: Sequence[Any]) -> Any:
    """Run ``op`` on the backend asked for, or else on the first one that can; remembers which one it was."""
    backend = _chosen(op, args)
    _last[op] = backend
    return _kernels[backend][op][0](*args)


def _chosen(op: str, args: Sequence[Any]) -> str:
    backend = _asked
    if backend is not None:
        can_run(backend, op, args, raise_error=True)
        return backend
    backend = choice(op, args)
    assert backend is not None  # the reference runs everything
    if backend == "reference":
        _say_once(args)
    return backend


def prepare(op: str, args: Sequence[Any]) -> tuple[str, Kernel]:
    """The backend that :func:`run` would take now, and a function for arguments of the same kind.

    Of the same kind are tensors of the same shapes, strides, dtypes and devices beside other arguments that are equal.
    A kernel with an attribute ``prepare`` says with it what to call for them; any other is called itself.
    """
    backend = _chosen(op, args)
    kernel = _kernels[backend][op][0]
    if isinstance(kernel, _InRoom):
        kernel = kernel.found()
    prepare_kernel = getattr(kernel, "prepare", None)
    return backend, kernel if prepare_kernel is None else prepare_kernel(*args)


def _say_once(args: Sequence[Any]) -> None:
    """The first time that tensors run on plain PyTorch for want of a faster backend: why, and what to do."""
    global _said
    places = {arg.device.type for arg in args if isinstance(arg, Tensor)}
    on_cpu = places <= {"cpu"}
    reason = UNAVAILABLE["cpu" if on_cpu else "triton"] if on_cpu or places == {"cuda"} else None
    if not _said and reason is not None:
        _said = True
        name, remedy = ("compiled CPU", "g++ and reinstall") if on_cpu else ("Triton", "triton")
        warnings.warn(
            f"lmdis_fast: the operators run on plain PyTorch, which is slower; the {name} backend is "
            f"{reason}. Install {remedy} to have it, or set LMDIS_FAST_BACKEND=reference.",
            stacklevel=2,
        )


def last_backend(op: str) -> str | None:
    """The backend that ran ``op`` last in this process, or None where it has not run. For tests and benchmarks."""
    return _last.get(op)


@contextlib.contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Within the context every operator runs on ``backend`` or raises; None chooses freely again.

    Holds for the whole process (see the module's text), so do not enter it from several threads at once.

    Raises:
        ValueError: for an unknown backend.
    """
    global _asked
    before, _asked = _asked, None if backend is None else _known(backend, "use_backend")
    prepared.forget()
    try:
        yield
    finally:
        _asked = before
        prepared.forget()


#: When to choose which, for :func:`show_backends`.
WHEN = {
    "reference": "the definition; float64 on a GPU",
    "cpu": "taken for CPU tensors",
    "triton": "taken on GPUs without cuda; kernels that torch.compile sees, other makers' GPUs",
    "cuda": "taken on NVIDIA's GPUs where it is built: no warm-up, no launches from Python",
}


def show_backends() -> str:
    """A table of operators and backends with when to choose which, and why one cannot run, as text to print."""
    rows = [["operator", *BACKENDS]]
    for op in _operators:
        rows.append([op, *("yes" if why_not(name, op) is None else "no" for name in BACKENDS)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"{name}: {WHEN[name]}" for name in BACKENDS]
    for name in BACKENDS:
        reasons = {why_not(name, op) for op in _operators} - {None}
        lines += [f"{name}: {reason}" for reason in sorted(str(reason) for reason in reasons)]
    lines.append(f"asked for: {_asked or 'none (the first that can run)'}; torch {torch.__version__}")
    return "\n".join(lines)
