"""The way from an operator's public function to its kernel past torch's dispatcher, where nobody listens there.

A call of ``torch.ops`` passes autocast, autograd's and the backend's key, each of which comes back to Python for an
operator that is registered from Python: some 30 microseconds, and twice that backward. A model with an operator after
each of its convolutions pays for that. The same formulas as a ``torch.autograd.Function`` cost a quarter of it.
Whatever changes what a call means (tracing, transforms, modes, tensors of other kinds) takes the registered way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Formula = Callable[..., Any]


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is memory that a kernel may read: no subclass, no fake, no other layout."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_nested or tensor.is_neg())
    )


def nobody_listens() -> bool:
    """Whether no mode, transform or tracer is active that has to see an operator's call."""
    c = torch._C
    return (
        c._len_torch_dispatch_stack() == 0
        and c._len_torch_function_stack() == 0
        and not c._are_functorch_transforms_active()
        and not c._get_tracing_state()
    )


def direct(
    name: str, overload: Any, kernel: Formula, setup_context: Formula, backward: Formula, autocast: bool
) -> Formula:
    """A function that runs an operator in either way; ``autocast`` says whether the operator has a rule for it."""

    def forward(
        ctx: Any, *args: Any
    ) -> Any:  # torch inspects signatures where setup_context is a method: 20 us
        output = kernel(*args)
        setup_context(ctx, args, output)
        return output

    function = type(
        f"lmdis_fast::{name}",  # its name in a profile
        (torch.autograd.Function,),
        {
            "forward": staticmethod(forward),
            "backward": staticmethod(backward),
        },
    )

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return overload(*args)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if (
            not nobody_listens()
            or not all(map(is_plain, tensors))
            or (autocast and any(torch.is_autocast_enabled(t.device.type) for t in tensors))
        ):
            return overload(*args)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return function.apply(*args)  # type: ignore[attr-defined]
        if torch._C._autograd._profiler_enabled():
            return overload(*args)
        return kernel(*args)

    return call
