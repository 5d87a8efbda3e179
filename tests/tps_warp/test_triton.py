"""The Triton kernels of tps_warp in the interpreter, against the definition."""

import pytest
import torch
from hypothesis import given

from ..agreement import Arrangement
from ..cases import Case, Shape, cases_of
from ..interpreted import (
    arrangements,
    check_interpreted,
    check_poison,
    check_registered,
    check_stages,
    few,
    one_of_each_operator,
)

CASES = cases_of("tps_warp")


@pytest.mark.parametrize("case", CASES, ids=str)
@few
@given(arrangement=arrangements())
def test_agrees_with_the_definition(case: Case, arrangement: Arrangement) -> None:
    check_interpreted(case, arrangement)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_tile_and_many(case: Case) -> None:
    check_stages(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_are_all_written_and_repeatable(case: Case) -> None:
    check_poison(case)


@pytest.mark.parametrize("case", one_of_each_operator(CASES), ids=str)
def test_registered_like_any_backend(case: Case) -> None:
    check_registered(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_spline_may_be_float64(case: Case) -> None:
    shape = Shape(2, 3, 2, 9, 16)
    kinds, layouts = ("normal",) * 2, ("contiguous",) * 3
    check_interpreted(case, Arrangement(shape, (torch.float32, torch.float64), layouts, kinds, 4))
