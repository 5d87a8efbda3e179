"""tps_warp inside torch.compile."""

import pytest

from ..cases import Case, cases_of
from ..checks import check_compiled


@pytest.mark.parametrize("case", cases_of("tps_warp"), ids=str)
def test_whole_graph_and_gradient(case: Case) -> None:
    check_compiled(case, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_of("tps_warp")[:1], ids=str)
def test_inductor(case: Case) -> None:
    check_compiled(case, "inductor")
