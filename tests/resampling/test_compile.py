"""max_pool_2x2 and upsample_add inside torch.compile."""

import pytest

from ..agreement import at
from ..cases import Case, Shape, cases_of
from ..checks import check_compiled, check_dynamic_batch

CASES = cases_of("resampling")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_graph_and_gradient(case: Case) -> None:
    check_compiled(case, "aot_eager")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dynamic_batch(case: Case) -> None:
    check_dynamic_batch(
        at(case, Shape(width=15))
    )  # no side, nor twice one, is a batch size: torch takes them for one


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_inductor(case: Case) -> None:
    check_compiled(case, "inductor")
