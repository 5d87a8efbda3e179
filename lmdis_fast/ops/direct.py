"""The way from an operator's public function to its kernel past torch's dispatcher, where nobody listens there.

A call of ``torch.ops`` passes autocast's, autograd's and the backend's key, each of which comes back to Python for an
operator that is registered from Python; the same formulas as a ``torch.autograd.Function`` cost much less, which counts
for a model with an operator after each of its convolutions. Whatever changes what a call means (tracing, transforms,
modes, tensors of other kinds) takes the registered way.

A call is prepared once for each kind of arguments: which backend takes them, and there what is launched. A later call
of the kind finds that by its signature, and only what is outside the arguments is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backends, prepared

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
#: Of so many kinds of calls; then all are prepared anew.
MOST_PREPARED = 1024
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

    # Methods of their own for setup_context, or one for the context and one without, would have torch inspect
    # signatures at each call. The last argument is what runs the operator, which is no tensor and has no gradient.
    def forward(ctx: Any, *args: Any) -> Any:
        *inputs, run = args
        output = run(*inputs)
        setup_context(ctx, inputs, output)
        return output

    def gradients(ctx: Any, *grads: Any) -> Any:
        return *backward(ctx, *grads), None

    methods = {"forward": staticmethod(forward), "backward": staticmethod(gradients)}
    function: Any = type(f"lmdis_fast::{name}", (torch.autograd.Function,), methods)  # named so in a profile
    with_gradient: Formula = function.apply
    count = _leading_tensors(overload)
    parameter = torch.nn.Parameter
    dispatch_keys = torch._C._dispatch_keys
    last = backends._last

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling() or not nobody_listens():
            return overload(*args)
        tensors = args[:count]
        signature: list[Any] = [name]
        requires_grad = False
        table = prepared.calls
        try:
            for tensor in tensors:
                if tensor is None:
                    signature.append(None)
                    continue
                kind = type(tensor)
                if kind is not Tensor and kind is not parameter:
                    return overload(*args)
                signature += (
                    dispatch_keys(tensor).raw_repr(),  # so that all tensors of a signature are plain, or none
                    tensor.shape,
                    tensor.stride(),
                    tensor.dtype,
                    tensor.device,
                )
                requires_grad = requires_grad or tensor.requires_grad
            key = (*signature, *args[count:])
            found = table.get(key)
        except (RuntimeError, TypeError):  # no strides; numbers that have no hash
            return overload(*args)
        if autocast and _any_autocast() and any(map(_is_under_autocast, tensors)):
            return overload(*args)
        if found is None:
            if not all(tensor is None or is_plain(tensor) for tensor in tensors):
                return overload(*args)
            found = backends.prepare(name, args)
            if len(table) >= MOST_PREPARED:
                table.clear()
            table[key] = found
        backend, run = found
        if requires_grad and torch.is_grad_enabled():
            last[name] = backend
            return with_gradient(*args, run)
        if torch._C._autograd._profiler_enabled():
            return overload(*args)
        last[name] = backend
        return run(*args)

    return call


def _is_under_autocast(tensor: Tensor | None) -> bool:
    return tensor is not None and torch.is_autocast_enabled(tensor.device.type)


def _leading_tensors(overload: Any) -> int:
    """How many tensors, or places for one, an operator takes; they come before all else."""
    are = ["Tensor" in str(argument.type) for argument in overload._schema.arguments]
    assert are == sorted(are, reverse=True), f"{overload}: tensors come first"
    return sum(are)
