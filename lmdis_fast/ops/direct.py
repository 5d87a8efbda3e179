"""The way from an operator's public function to its kernel past torch's dispatcher, where nobody listens there.

A call of ``torch.ops`` passes autocast's, autograd's and the backend's key, each of which comes back to Python for an
operator that is registered from Python; the same formulas as a ``torch.autograd.Function`` cost much less, which counts
for a model with an operator after each of its convolutions. Whatever changes what a call means (tracing, transforms,
modes, tensors of other kinds) takes the registered way.

A call is prepared once for each kind of arguments: which backend takes them, and there what is launched. A later call
of the kind finds that by one question to torch, or by its signature, and only what is outside the arguments is asked
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backends, prepared

Formula = Callable[..., Any]
#: Of a kind of calls.
Key = tuple[Any, ...]
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
#: Kinds of calls with one shape and the same numbers among which the fast way looks; others are told by signature.
MOST_KNOWN = 8
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
    name: str, overload: Formula, setup_context: Formula, backward: Formula, autocast: bool
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
    count, optional = _leading_tensors(overload)
    shaped = optional.index(False)
    may_lack = any(optional)
    last = backends._last

    def prepare(kept: prepared.Calls, kind: Key, given: tuple[Any, ...], args: Key) -> prepared.Known | None:
        """What serves a call that matches none of those known; None where it has to go the registered way."""
        try:
            signature: list[Any] = [*kind]
            for tensor in given:
                if type(tensor) not in PLAIN_CLASSES:
                    return None
                keys = torch._C._dispatch_keys(
                    tensor
                )  # so that all tensors of a signature are plain, or none
                signature += (keys.raw_repr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
            key = tuple(signature)
            served = kept.by_signature.get(key)
        except RuntimeError:  # no strides
            return None
        if autocast and _any_autocast() and any(map(_is_under_autocast, given)):
            return None
        if served is None:
            if not all(map(is_plain, given)):
                return None
            served = backends.prepare(name, args)
            if len(kept.by_signature) >= MOST_PREPARED:
                kept.clear()
            kept.by_signature[key] = served
        requires_grad = any(tensor.requires_grad for tensor in given)
        before = kept.known.get(kind, ())
        # one tensor in two places is no kind to the matcher
        if matcher is None or len(before) >= MOST_KNOWN or len(set(map(id, given))) < len(given):
            return prepared.Known(_never, requires_grad, served)
        known = prepared.Known(matcher(given), requires_grad, served)
        kept.known[kind] = (*before, known)
        return known

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling() or not nobody_listens():
            return overload(*args)
        tensors = given = args[:count]
        kept, found = prepared.calls, None
        try:
            kind: Key = (name, tensors[shaped].shape, *args[count:])
            if may_lack:
                kind += tuple([tensor is None for tensor in tensors])
                given = tuple([tensor for tensor in tensors if tensor is not None])
            for known in kept.known.get(kind, ()):
                if known.matches(*given):
                    found = known
                    break
        except (
            AttributeError,
            RuntimeError,
            TypeError,
        ):  # no tensor, or without a shape; numbers that have no hash
            return overload(*args)
        if found is None:
            found = prepare(kept, kind, given, args)
            if found is None:
                return overload(*args)
        _, requires_grad, (backend, run) = found
        if requires_grad and torch.is_grad_enabled():
            last[name] = backend
            return with_gradient(*args, run)
        if torch._C._autograd._profiler_enabled():
            return overload(*args)
        last[name] = backend
        return run(*args)

    return call


def _matcher() -> Callable[[tuple[Tensor, ...]], Callable[..., bool]] | None:
    """What makes of tensors a function that says whether others are of their kind; None if torch has nothing for it.

    Class, shape, strides, dtype, device, whether a gradient is required, and all dispatch keys, those included that the
    thread adds or takes away (autocast's, a transform's): what torch.compile guards its programs with, in one call.
    """
    guards: Any = getattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards", None)

    def matcher(tensors: tuple[Tensor, ...]) -> Callable[..., bool]:
        check: Callable[..., bool] = guards(
            *tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None
        ).check
        return check

    like, other = (torch.empty_strided((2, 3), strides, device="cpu") for strides in ((3, 1), (1, 2)))
    try:
        matches = matcher((like,))
        return matcher if matches(like.clone()) and not matches(other) else None
    except (AttributeError, RuntimeError, TypeError):  # a release in which there is none, or another
        return None


matcher = _matcher()


def _never(*_: Tensor) -> bool:
    return False


def _is_under_autocast(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)


def _leading_tensors(overload: Any) -> tuple[int, list[bool]]:
    """How many tensors an operator takes, which come before all else, and which of them may be missing."""
    kinds = [str(argument.type) for argument in overload._schema.arguments]
    tensors = [kind for kind in kinds if "Tensor" in kind]
    assert kinds[: len(tensors)] == tensors, f"{overload}: tensors come first"
    return len(tensors), ["Optional" in kind for kind in tensors]
