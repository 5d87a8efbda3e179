"""What holds for every operator of every room, written once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lmdis_fast import backends

from .cases import Case, RecordedCalls
from .tolerances import assert_gradient_near, assert_near


def weighted_sum(results: tuple[Tensor, ...]) -> Tensor:
    """A scalar in which every element counts differently, so that no gradient cancels.

    The weights are exact in every dtype, so that each dtype receives the same upstream gradient.
    """
    total = torch.zeros(())
    for result in results:
        weights = torch.linspace(0.2, 1.0, result.numel()).cos().bfloat16().reshape(result.shape)
        wide = result.float() if result.dtype.itemsize == 2 else result
        total = total + (wide * weights.to(wide)).sum()
    return total


def results_and_gradients(case: Case, tensors: list[Tensor], call: Any = None) -> list[Tensor]:
    """The call's results followed by the gradients of :func:`weighted_sum` of them."""
    results = case.results(*tensors) if call is None else call(*tensors)
    gradients = torch.autograd.grad(weighted_sum(results), tensors)
    return [*(r.detach() for r in results), *gradients]


def check_derivatives(case: Case) -> None:
    """gradcheck and gradgradcheck in float64."""
    assert torch.autograd.gradcheck(case.results, case.tensors(), fast_mode=True)
    assert torch.autograd.gradgradcheck(case.results, case.tensors(), fast_mode=True)


def check_partial_gradients(case: Case) -> None:
    """A gradient does not depend on which others are asked for, nor on which results are used."""
    tensors = case.tensors()
    whole = torch.autograd.grad(weighted_sum(case.results(*tensors)), tensors)
    for i, expected in enumerate(whole):
        alone = case.tensors(grad=False)
        alone[i].requires_grad_()
        assert_gradient_near(torch.autograd.grad(weighted_sum(case.results(*alone)), alone[i])[0], expected)
    results = case.results(*tensors)
    parts = [torch.autograd.grad(r.sum(), tensors, retain_graph=True, allow_unused=True) for r in results]
    summed = torch.autograd.grad(sum(r.sum() for r in results), tensors)  # type: ignore[arg-type]
    for i, expected in enumerate(summed):
        found = [part[i] for part in parts if part[i] is not None]
        assert_gradient_near(torch.stack(found).sum(0), expected)


def check_registrations(case: Case) -> None:
    """opcheck, all four tests, on the forward and backward operator with the arguments that a call gives them."""
    with RecordedCalls() as recorded:
        results_and_gradients(case, case.tensors(torch.float32))
    names = {call[0]._schema.name.split("::")[1] for call in recorded.calls}
    assert names == {case.operator, case.operator + "_backward"}
    for overload, args in recorded.calls:
        for grad in (True, False):
            copies = tuple(
                a.detach().clone().requires_grad_(grad) if isinstance(a, Tensor) else a for a in args
            )
            torch.library.opcheck(overload, copies)


def check_compiled(case: Case, backend: str) -> None:
    """One graph without breaks, equal to eager in values and gradients."""
    torch.compiler.reset()
    compiled = torch.compile(case.results, fullgraph=True, backend=backend)
    expected = results_and_gradients(case, case.tensors(torch.float32))
    found = results_and_gradients(case, case.tensors(torch.float32), compiled)
    for out, want in zip(found, expected, strict=True):
        assert_near(out, want.double())


def check_dynamic_batch(case: Case) -> None:
    """One graph serves several batch sizes."""
    torch.compiler.reset()
    compiled = torch.compile(case.results, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for copies in (
            4,
            5,
            6,
        ):  # no other dimension has these sizes, which torch would take for the same one
            tensors = [
                torch.cat([t] * copies).requires_grad_() for t in case.tensors(torch.float32, grad=False)
            ]
            found = results_and_gradients(case, tensors, compiled)
            for out, want in zip(found, results_and_gradients(case, tensors), strict=True):
                assert_near(out, want.double())


def check_path(case: Case) -> None:
    """Forward and backward ran on the compiled backend where it is built, and the result is none of the inputs' memory."""
    expected = "cpu" if backends.UNAVAILABLE["cpu"] is None else "reference"
    backends._last.clear()
    tensors = case.tensors(torch.float32)
    results = case.results(*tensors)
    assert backends.last_backend(case.operator) == expected
    assert backends.last_backend(case.operator + "_backward") is None
    torch.autograd.grad(weighted_sum(results), tensors)
    assert backends.last_backend(case.operator + "_backward") == expected
    places = {t.untyped_storage().data_ptr() for t in tensors}
    assert all(r.untyped_storage().data_ptr() not in places for r in results)


def check_asked_for_backend(case: Case, backend: str) -> None:
    """A backend asked for by name runs, or raises with its reason: never another in its place."""
    tensors = case.tensors(torch.float32, grad=False)
    with backends.use_backend(backend):
        if backends.can_run(backend, case.operator):
            case.results(*tensors)
            assert backends.last_backend(case.operator) == backend
        else:
            with pytest.raises(
                backends.BackendError, match=f"{case.operator}: backend {backend} cannot run: "
            ):
                case.results(*tensors)
    case.results(*tensors)


def check_half_precision(case: Case, dtype: torch.dtype) -> None:
    """Results and gradients of rounded inputs are near float64's of the same rounded inputs."""
    tensors = case.tensors(dtype)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    found, expected = results_and_gradients(case, tensors), results_and_gradients(case, exact)
    count = len(found) - len(tensors)
    for out, want in zip(found[:count], expected[:count], strict=True):
        assert_near(out, want)
    for out, want, tensor in zip(found[count:], expected[count:], tensors, strict=True):
        assert out.dtype == tensor.dtype
        assert_gradient_near(out, want)


def check_deterministic(case: Case) -> None:
    """Twice the same bits, with uninitialised memory full of NaN."""
    first = results_and_gradients(case, case.tensors(torch.float32))
    again = results_and_gradients(case, case.tensors(torch.float32))
    assert all(r.isfinite().all() for r in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def check_autocast(case: Case) -> None:
    """bf16 inputs under autocast give the float32 result of the same numbers."""
    tensors = case.tensors(torch.bfloat16, grad=False)
    expected = case.results(*(t.float() for t in tensors))
    with torch.autocast("cpu", torch.bfloat16):
        found = case.results(*tensors)
    for out, want in zip(found, expected, strict=True):
        assert out.dtype == torch.float32
        assert_near(out, want.double())


def check_vmap(case: Case) -> None:
    """vmap over each argument alone and over all, against a loop."""
    stacks = [
        torch.stack(pair) for pair in zip(*(case.tensors(grad=False, seed=s) for s in (0, 7, 9)), strict=True)
    ]
    for in_dims in _mapped_choices(len(stacks)):
        given = [s if d == 0 else s[0] for s, d in zip(stacks, in_dims, strict=True)]
        found = torch.func.vmap(case.results, in_dims)(*given)
        loop = [
            case.results(*(g[i] if d == 0 else g for g, d in zip(given, in_dims, strict=True)))
            for i in range(3)
        ]
        for out, *parts in zip(found, *loop, strict=True):
            assert_near(out, torch.stack(parts))


def _mapped_choices(count: int) -> list[tuple[int | None, ...]]:
    alone = [tuple(0 if i == j else None for j in range(count)) for i in range(count)]
    return list(dict.fromkeys([*alone, (0,) * count]))


def check_vmap_of_backward(case: Case) -> None:
    """The backward operator under vmap, against a loop."""
    calls = []
    for seed in (0, 7, 9):
        with RecordedCalls() as recorded:
            results_and_gradients(case, case.tensors(seed=seed))
        calls.append(next((f, a) for f, a in recorded.calls if f._schema.name.endswith("_backward")))
    overload = calls[0][0]
    tensor_args = [i for i, a in enumerate(calls[0][1]) if isinstance(a, Tensor)]

    def call(*tensors: Tensor) -> Any:
        args = list(calls[0][1])
        for i, t in zip(tensor_args, tensors, strict=True):
            args[i] = t
        return overload(*args)

    stacks = [torch.stack([args[i] for _, args in calls]) for i in tensor_args]
    found = torch.func.vmap(call)(*stacks)
    loop = [call(*(s[k] for s in stacks)) for k in range(3)]
    if isinstance(found, Tensor):
        found, loop = (found,), [(r,) for r in loop]
    for out, *parts in zip(found, *loop, strict=True):
        if parts[0].numel():
            assert_near(out, torch.stack(parts))
