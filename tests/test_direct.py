"""The way past the dispatcher: taken where nobody listens, and the same numbers by either way."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from lmdis_fast import backends
from lmdis_fast.ops import direct, heatmap_moments
from lmdis_fast.ops.registration import SCHEMAS

from .cases import CASES, Case, RecordedCalls
from .checks import results_and_gradients
from .tolerances import assert_near

Z = torch.linspace(-1, 1, 60).view(1, 3, 4, 5)


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the operators whose kernels were reached through the dispatcher."""
    seen: list[str] = []
    run = backends.run

    def spied(op: str, args: tuple[object, ...]) -> object:
        caller = sys._getframe(2).f_code
        if "direct.py" not in caller.co_filename:
            seen.append(op)
        return run(op, args)

    monkeypatch.setattr(backends, "run", spied)
    yield seen


def test_plain_calls_do_not_pass_the_dispatcher(dispatched: list[str]) -> None:
    heatmap_moments(Z)
    leaf = Z.clone().requires_grad_()
    heatmap_moments(leaf).coords.sum().backward()
    assert dispatched == []


def test_autocast_and_subclasses_pass_it(dispatched: list[str]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert heatmap_moments(Z.bfloat16()).coords.dtype == torch.float32
    assert dispatched == ["heatmap_moments"]

    class Own(Tensor):
        pass

    heatmap_moments(Z.as_subclass(Own))
    assert len(dispatched) == 2


def test_negative_views_pass_it(dispatched: list[str]) -> None:
    negative = torch._neg_view(Z)
    found = heatmap_moments(negative)
    assert dispatched == ["heatmap_moments"]
    assert all(torch.equal(a, b) for a, b in zip(found, heatmap_moments(-Z), strict=True))


def test_modes_see_every_call() -> None:
    class Counting(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += func.namespace == "lmdis_fast"
            return func(*args, **(kwargs or {}))

    with Counting() as mode:
        heatmap_moments(Z)
    assert mode.calls == 1
    with FakeTensorMode() as fake:
        assert type(heatmap_moments(fake.from_tensor(Z)).coords).__name__ == "FakeTensor"
    assert heatmap_moments(Z.to("meta")).coords.is_meta


def test_transforms_see_every_call() -> None:
    mapped = torch.func.vmap(heatmap_moments)(Z.expand(2, *Z.shape))
    assert mapped.coords.shape == (2, 1, 2, 2)
    traced = make_fx(lambda z: heatmap_moments(z).coords)(Z)
    assert any("heatmap_moments" in str(node.target) for node in traced.graph.nodes)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator}-{case.name}")
def test_batched_gradients(case: Case) -> None:
    tensors = case.tensors(torch.float32)
    result = case.results(*tensors)[0]
    several = torch.stack([torch.ones_like(result), torch.linspace(-1, 1, result.numel()).view_as(result)])
    found = torch.autograd.grad(result, tensors, several, is_grads_batched=True, retain_graph=True)
    for i, upstream in enumerate(several):
        for out, want in zip(
            found, torch.autograd.grad(result, tensors, upstream, retain_graph=True), strict=True
        ):
            assert_near(out[i], want.double())


def test_tensors_without_memory_of_their_own_pass_it() -> None:
    assert not direct.is_plain(torch._efficientzerotensor((1, 3, 4, 5)))
    assert not direct.is_plain(torch._to_functional_tensor(Z))
    with torch.inference_mode():
        made_for_inference = Z * 1
        assert not direct.is_plain(made_for_inference) and direct.is_plain(Z)
        assert heatmap_moments(made_for_inference).coords.shape == (1, 2, 2)


def test_a_profile_names_operators() -> None:
    leaf = Z.clone().requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        heatmap_moments(Z)
        heatmap_moments(leaf).coords.sum().backward()
    names = [event.name for event in profiler.events()]
    assert names.count("lmdis_fast::heatmap_moments") == 2
    assert any(name.startswith("lmdis_fast::heatmap_momentsBackward") for name in names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator}-{case.name}")
def test_both_ways_give_the_same_bits(case: Case) -> None:
    found = results_and_gradients(case, case.tensors(torch.float32))
    with RecordedCalls() as recorded:  # a mode, under which all calls are dispatched
        expected = results_and_gradients(case, case.tensors(torch.float32))
    assert len(recorded.calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_every_operator_has_it() -> None:
    assert direct.is_plain(Z) and direct.nobody_listens()
    assert not direct.is_plain(Z.to("meta")) and not direct.is_plain(Z.to_sparse())
    assert len(SCHEMAS) == 2 * len({case.operator for case in CASES})
