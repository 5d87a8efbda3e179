"""heatmap_moments inside torch.compile."""

import pytest

from ..cases import Case, cases_of
from ..checks import check_compiled, check_dynamic_batch


@pytest.mark.parametrize("case", cases_of("heatmap_moments"), ids=str)
def test_whole_graph_and_gradient(case: Case) -> None:
    check_compiled(case, "aot_eager")


def test_dynamic_batch() -> None:
    for case in {case.operator: case for case in reversed(cases_of("heatmap_moments"))}.values():
        check_dynamic_batch(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_of("heatmap_moments")[:1], ids=str)
def test_inductor(case: Case) -> None:
    check_compiled(case, "inductor")
