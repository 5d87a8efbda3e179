"""How ``torch.compile`` and AOTInductor see the Triton kernels of an operator.

While AOTAutograd functionalises a graph, an operator that would run on the Triton backend is replaced by its results'
memory and its launches, as ``torch.library.triton_op`` does for operators of its own, so that the compiler plans their
memory and packs the kernels' machine code. Everything else stays one opaque node, whose backend is chosen when it runs:
other backends, Triton's interpreter, programs of ``torch.export`` until they are decomposed for a compiler, dynamic
shapes (tiles are chosen by number), and releases of torch without what is imported here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends

try:
    from torch._functorch import config
    from torch._library.triton import triton_ops_to_kernels
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    CAN_SHOW = hasattr(config, "decompose_custom_triton_ops")
except ImportError:
    CAN_SHOW = False


def show_kernels(name: str, room: str, library: Any) -> None:
    """Let compilers see the kernels of the operator ``name``, those of ``lmdis_fast.kernels.<room>``."""
    if not CAN_SHOW:
        return

    def rule(mode: Any, op: Any, types: Sequence[type], args: tuple[Any, ...], kwargs: Any) -> Any:
        if kwargs or not _is_seen(name, args, types):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return backends.kernel_of("triton", name)(*map(_dense, args))

    torch.library.register_torch_dispatch(f"lmdis_fast::{name}", FunctionalTensorMode, rule, lib=library)
    kernels: Any = _Kernels(name, room)
    triton_ops_to_kernels[f"lmdis_fast::{name}"] = kernels


def _is_seen(name: str, args: Sequence[Any], types: Sequence[type]) -> bool:
    return (
        config.decompose_custom_triton_ops  # not for torch.export
        and not backends.triton_interprets()  # whose kernels are no nodes
        and all(kind is Tensor or issubclass(kind, (FakeTensor, FunctionalTensor)) for kind in types)
        and all(map(_is_static, args))
        and backends.choice(name, args) == "triton"
    )


def _is_static(value: Any) -> bool:
    if isinstance(value, Tensor):
        return all(type(n) is int for n in (*value.shape, *value.stride()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_static, value))
    return not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))


def _dense(value: Any) -> Any:
    """A tensor whose strides follow from the order of its dimensions: a compiler may keep no more than that."""
    if not isinstance(value, Tensor):
        return value
    expected = 1
    for stride, size in sorted((s, n) for n, s in zip(value.shape, value.stride(), strict=True) if n != 1):
        if stride != expected:
            return value.contiguous()
        expected *= size
    return value


class _Kernels:
    """The kernels that a graph traced now would hold, for the key of torch's cache of such graphs."""

    def __init__(self, name: str, room: str) -> None:
        self.name = name
        self.room = room

    def __iter__(self) -> Iterator[Any]:
        if backends.takes("triton", self.name):
            from triton.runtime.jit import JITFunction

            module = importlib.import_module(f"lmdis_fast.kernels.{self.room}")
            yield from (value for value in vars(module).values() if isinstance(value, JITFunction))
