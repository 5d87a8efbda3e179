"""Which path max_pool_2x2 and upsample_add run, and that every path gives the same numbers."""

import pytest
import torch
from hypothesis import given

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

CASES = cases_of("resampling")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward_run_on_the_best_backend(case: Case) -> None:
    check_path(case)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", ["cpu", "triton", "cuda"])
def test_backend_asked_for_runs_or_raises(case: Case, backend: str) -> None:
    check_asked_for_backend(case, backend)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_is_near_float64(case: Case, dtype: torch.dtype) -> None:
    check_half_precision(case, dtype)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_are_all_written_and_repeatable(case: Case, deterministic: None) -> None:
    check_deterministic(case)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_autocast_changes_nothing(case: Case) -> None:
    tensors = case.tensors(torch.float16)
    expected = case.results(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        found = case.results(*tensors)
    assert found[0].dtype == torch.float16 and torch.equal(found[0], expected[0])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap(case: Case) -> None:
    check_vmap(case)
    check_vmap_of_backward(case)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("case", CASES, ids=str)
@given(arrangement=arrangements())
def test_compiled_backend_agrees_with_the_definition(case: Case, arrangement: Arrangement) -> None:
    check_agreement(case, arrangement)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_threads(case: Case, layout: str, dtype: torch.dtype) -> None:
    check_threads(case, layout, dtype)
