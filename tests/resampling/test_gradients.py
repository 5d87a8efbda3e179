"""First and second derivatives of max_pool_2x2 and upsample_add against finite differences."""

import pytest

from ..cases import Case, cases_of
from ..checks import check_derivatives, check_partial_gradients

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("case", cases_of("resampling"), ids=str)
def test_first_and_second_derivatives(case: Case) -> None:
    check_derivatives(case)


@pytest.mark.parametrize("case", cases_of("resampling"), ids=str)
def test_gradients_asked_for_one_at_a_time(case: Case) -> None:
    check_partial_gradients(case)
