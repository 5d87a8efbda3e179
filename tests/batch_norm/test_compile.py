"""batch_norm_leaky_relu inside torch.compile."""

import pytest
import torch

from ..cases import Case, cases_of
from ..checks import check_compiled, results_and_gradients
from ..tolerances import assert_near


@pytest.mark.parametrize("case", cases_of("batch_norm"), ids=str)
def test_whole_graph_and_gradient(case: Case) -> None:
    check_compiled(case, "aot_eager")


def test_dynamic_batch() -> None:
    """One graph serves several batch sizes; the parameters keep theirs."""
    case = cases_of("batch_norm")[0]
    torch.compiler.reset()
    compiled = torch.compile(case.results, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for copies in (4, 5, 6):
            x, *parameters = case.tensors(torch.float32)
            tensors = [torch.cat([x.detach()] * copies).requires_grad_(), *parameters]
            found = results_and_gradients(case, tensors, compiled)
            for out, want in zip(found, results_and_gradients(case, tensors), strict=True):
                assert_near(out, want.double())


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_of("batch_norm")[:1], ids=str)
def test_inductor(case: Case) -> None:
    check_compiled(case, "inductor")
