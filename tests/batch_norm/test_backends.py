"""Which path batch_norm_leaky_relu runs, and that every path gives the same numbers."""

import pytest
import torch
from hypothesis import given

from lmdis_fast.ops import batch_norm_leaky_relu

from ..agreement import Arrangement, arrangements, check_agreement, check_threads
from ..cases import Case, cases_of
from ..checks import (
    check_asked_for_backend,
    check_deterministic,
    check_half_precision,
    check_path,
    check_vmap,
    check_vmap_of_backward,
)

CASES = cases_of("batch_norm")
#: Where a result is rounded another way, another pixel may be a window's largest, and the gradient elsewhere: for those
#: with maxima test_windows.py compares one backend with itself.
WITHOUT_MAXIMA = [case for case in CASES if "pooled" not in case.name]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward_run_on_the_best_backend(case: Case) -> None:
    check_path(case)


@pytest.mark.parametrize("backend", ["cpu", "triton", "cuda"])
def test_backend_asked_for_runs_or_raises(backend: str) -> None:
    check_asked_for_backend(CASES[0], backend)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", WITHOUT_MAXIMA, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_is_near_float64(case: Case, dtype: torch.dtype) -> None:
    check_half_precision(case, dtype)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_are_all_written_and_repeatable(case: Case, deterministic: None) -> None:
    check_deterministic(case)


@pytest.mark.usefixtures("backend")
def test_autocast_changes_nothing() -> None:
    x, weight, bias = CASES[0].tensors(torch.float32)
    maps = x.detach().bfloat16().requires_grad_()
    expected = batch_norm_leaky_relu(maps, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = batch_norm_leaky_relu(maps, weight, bias)
    assert [t.dtype for t in found[:3]] == [torch.bfloat16, torch.float32, torch.float32]
    assert all(torch.equal(a, b) for a, b in zip(found[:3], expected[:3], strict=True))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_has_statistics_of_each(case: Case) -> None:
    check_vmap(case)
    check_vmap_of_backward(case)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("case", WITHOUT_MAXIMA, ids=str)
@given(arrangement=arrangements())
def test_compiled_backend_agrees_with_the_definition(case: Case, arrangement: Arrangement) -> None:
    check_agreement(case, arrangement)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_threads(case: Case, layout: str, dtype: torch.dtype) -> None:
    check_threads(case, layout, dtype)
