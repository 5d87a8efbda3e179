"""How an operator becomes ``torch.ops.lmdis_fast.<name>``: schema, kernel, fake, autograd, autocast and vmap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .direct import direct
from .tracing import show_kernels

NAMESPACE = "lmdis_fast"
#: Has to outlive the operators. A fragment, so that a compiled extension may define the namespace as well.
LIBRARY: Any = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
#: Every operator's schema by its name; a compiled extension defines the same strings.
SCHEMAS: dict[str, str] = {}

Formula = Callable[..., Any]


def register_operator(
    name: str,
    schema: str,
    *,
    reference: Formula,
    fake: Formula,
    setup_context: Formula | None = None,
    backward: Formula | None = None,
    vmap: Formula | None = None,
    autocast: bool = True,
    visible: bool = True,
) -> Any:
    """Register one operator completely and return the function that calls it (:mod:`.direct`).

    Args:
        name: the name without namespace.
        schema: arguments and results, such as ``"(Tensor x) -> Tensor"``.
        reference: the plain PyTorch function, differentiable in all its tensors.
        fake: shapes, dtypes and layouts of the results.
        setup_context, backward: the autograd formula. Without them the derivative is that of ``reference``, which
            is how backward operators get second derivatives.
        vmap: the batching rule; by default the mapped dimension is folded into N.
        autocast: under autocast the operator runs in float32, on CPU and GPU, and so returns float32 (float64 stays);
            without, autocast leaves its arguments as they are.
        visible: whether compilers may see its Triton kernels (:mod:`.tracing`).
    """
    qualified = f"{NAMESPACE}::{name}"
    SCHEMAS[name] = schema
    if not hasattr(torch.ops.lmdis_fast, name):
        LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    backends.register_kernel("reference", name, reference)
    room = reference.__module__.rpartition(".")[2]
    backends.register_triton(name, room)

    def kernel(*args: Any) -> Any:
        return backends.run(name, args)

    found = {"CPU": backends.register_compiled(name), "CUDA": backends.register_cuda(name)}
    for key in (key for key, compiled in found.items() if compiled):
        # In Python the choice is made for these tensors too; a program without Python finds the compiled kernel.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*[Oo]verriding a previously registered kernel.*")
            LIBRARY.impl(name, kernel, key)
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=LIBRARY)
    if backward is None:
        setup_context, backward = _keep_all_arguments, _composed_backward(reference)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=LIBRARY)
    for device_type in ("cpu", "cuda") if autocast else ():
        torch.library.register_autocast(qualified, device_type, torch.float32, lib=LIBRARY)
    if visible:
        show_kernels(name, room, LIBRARY)
    overload = getattr(torch.ops.lmdis_fast, name).default
    torch.library.register_vmap(qualified, vmap or _fold_into_batch(overload), lib=LIBRARY)
    assert setup_context is not None
    return direct(name, overload, setup_context, backward, autocast)


def _keep_all_arguments(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.positions = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.save_for_backward(*(inputs[i] for i in ctx.positions))


def _composed_backward(formula: Formula) -> Formula:
    """The derivative of ``formula`` by running it again under autograd."""

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments = list(ctx.others)
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            for position, tensor in zip(ctx.positions, ctx.saved_tensors, strict=True):
                # an alias, so that the derivative stops at this operator and not at the tensor's own history
                arguments[position] = tensor.view_as(tensor) if tensor.requires_grad else tensor
            results = formula(*arguments)
            pairs = [
                (result, grad)
                for result, grad in zip(
                    (results,) if isinstance(results, Tensor) else results, grads, strict=True
                )
                if grad is not None and result.requires_grad
            ]
        answer: list[Tensor | None] = [None] * len(arguments)
        wanted = [i for i in ctx.positions if ctx.needs_input_grad[i]]
        if pairs and wanted:
            found = torch.autograd.grad(
                [result for result, _ in pairs],
                [arguments[i] for i in wanted],
                [grad for _, grad in pairs],
                create_graph=keep_graph,
                allow_unused=True,
            )
            for position, gradient in zip(wanted, found, strict=True):
                answer[position] = gradient
        return tuple(answer)

    return backward


def folded(value: Any, dim: int | None, mapped: int) -> Any:
    """A tensor with its mapped dimension (repeated where it has none) merged into N; anything else unchanged."""
    if not isinstance(value, Tensor):
        return value
    value = value.unsqueeze(0).expand(mapped, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.flatten(0, 1)


def unfolded(result: Tensor, mapped: int) -> tuple[Tensor, int | None]:
    """The reverse of :func:`folded`, with the result's mapped dimension; absent gradients (shape (0,)) stay."""
    if result.dim() == 1:
        return result, None
    return torch.unflatten(result, 0, (mapped, -1 if result.shape[0] else 0)), 0


def unfolded_all(results: Tensor | Sequence[Tensor], mapped: int) -> tuple[Any, Any]:
    """:func:`unfolded` for an operator's result or results, in the form a vmap rule returns."""
    if isinstance(results, Tensor):
        return unfolded(results, mapped)
    pairs = [unfolded(result, mapped) for result in results]
    return tuple(result for result, _ in pairs), tuple(dim for _, dim in pairs)


def _fold_into_batch(overload: Any) -> Formula:
    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        arguments = [folded(value, dim, info.batch_size) for value, dim in zip(args, in_dims, strict=True)]
        return unfolded_all(overload(*arguments), info.batch_size)

    return rule
