"""The way from an operator's public function to its kernel past torch's dispatcher, where nobody listens there.

A call of ``torch.ops`` passes autocast's, autograd's and the backend's key, each of which comes back to Python for an
operator that is registered from Python; the same formulas as a ``torch.autograd.Function`` cost much less, which counts
for a model with an operator after each of its convolutions. Whatever changes what a call means (tracing, transforms,
modes, tensors of other kinds) takes the registered way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Formula = Callable[..., Any]
#: What torch has to answer for the direct way; a release without one of these gets the registered way.
QUESTIONS = (
    "_len_torch_dispatch_stack",
    "_len_torch_function_stack",
    "_are_functorch_transforms_active",
    "_get_tracing_state",
    "_dispatch_keys",
)
CAN_ASK = all(hasattr(torch._C, name) for name in QUESTIONS) and hasattr(
    torch._C._autograd, "_profiler_enabled"
)
PLAIN_CLASSES = (Tensor, torch.nn.Parameter)
#: Asks for all devices at once, where torch has it.
_any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
_plain_keys: dict[torch.device, int] = {}


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is memory that a kernel may read: of torch's own class, with no dispatch key beside its device's.

    So it is no subclass and not fake, sparse, batched, functional, a lazy negative or zero, nor made for inference.
    """
    if type(tensor) not in PLAIN_CLASSES or tensor.is_meta:
        return False
    device = tensor.device
    keys = _plain_keys.get(device)
    if keys is None:
        with torch.inference_mode(False):
            keys = torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr()
        _plain_keys[device] = keys
    return bool(torch._C._dispatch_keys(tensor).raw_repr() == keys)


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
    name: str, overload: Formula, kernel: Formula, setup_context: Formula, backward: Formula, autocast: bool
) -> Formula:
    """A function that runs an operator in either way; ``autocast`` says whether the operator has a rule for it."""
    if not CAN_ASK:
        return overload

    # a setup_context method of its own would have torch inspect signatures at each call
    def forward(ctx: Any, *args: Any) -> Any:
        output = kernel(*args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(f"lmdis_fast::{name}", (torch.autograd.Function,), methods)  # named so in a profile
    with_gradient: Formula = function.apply

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return overload(*args)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if (
            not nobody_listens()
            or not all(map(is_plain, tensors))
            or (
                autocast
                and _any_autocast()
                and any(torch.is_autocast_enabled(t.device.type) for t in tensors)
            )
        ):
            return overload(*args)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return with_gradient(*args)
        if torch._C._autograd._profiler_enabled():
            return overload(*args)
        return kernel(*args)

    return call
