"""The registrations of batch_norm_leaky_relu, forward and backward, under torch's own checks."""

import pytest

from ..cases import Case, cases_of
from ..checks import check_registrations


@pytest.mark.parametrize("case", cases_of("batch_norm"), ids=str)
def test_registrations(case: Case) -> None:
    check_registrations(case)
