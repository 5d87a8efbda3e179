"""The registrations of heatmap_moments, forward and backward, under torch's own checks."""

import pytest

from ..cases import Case, cases_of
from ..checks import check_registrations


@pytest.mark.parametrize("case", cases_of("heatmap_moments"), ids=str)
def test_registrations(case: Case) -> None:
    check_registrations(case)
