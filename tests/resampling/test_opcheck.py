"""The registrations of max_pool_2x2 and upsample_add, forward and backward, under torch's own checks."""

import pytest

from ..cases import Case, cases_of
from ..checks import check_registrations


@pytest.mark.parametrize("case", cases_of("resampling"), ids=str)
def test_registrations(case: Case) -> None:
    check_registrations(case)
