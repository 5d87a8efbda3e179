"""The Triton kernels of tps_warp in the interpreter, against the definition."""

import pytest
from hypothesis import given

from ..agreement import Arrangement
from ..cases import Case, cases_of
from ..interpreted import arrangements, check_interpreted, check_stages, check_usual_things, few

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
def test_registered_like_any_backend(case: Case) -> None:
    check_usual_things(case)
