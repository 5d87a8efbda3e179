"""The steps between an hourglass's resolutions: the operators where they are compiled, else torch's layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from lmdis_fast import backends
from lmdis_fast.models.resampling import max_pool, upsampled_plus

X = torch.randn(2, 5, 6, 8, generator=torch.Generator().manual_seed(1))
SKIP = torch.randn(2, 5, 12, 16, generator=torch.Generator().manual_seed(2))


def both(x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    return max_pool(skip), upsampled_plus(x, skip)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_computes_what_torch_s_layers_do(layout: torch.memory_format) -> None:
    x = X.contiguous(memory_format=layout).requires_grad_()
    skip = SKIP.contiguous(memory_format=layout).requires_grad_()
    backends._last.clear()
    found = both(x, skip)
    for op in ("max_pool_2x2", "upsample_add"):
        served = backends.takes("cpu", op, (x,))
        assert backends.last_backend(op) == ("cpu" if served else None)
    expected = F.max_pool2d(skip, 2), F.interpolate(x, scale_factor=2.0, mode="nearest") + skip
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
    upstream = [torch.linspace(-1, 1, t.numel()).view_as(t) for t in found]
    ours, theirs = (torch.autograd.grad(t, (x, skip), upstream) for t in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_torch_s_layers_run_without_the_compiled_backend() -> None:
    backends._last.clear()
    with backends.use_backend("reference"):
        both(X, SKIP)
    assert backends.last_backend("max_pool_2x2") is None and backends.last_backend("upsample_add") is None


def test_forward_mode_derivatives_stay() -> None:
    with forward_ad.dual_level():
        x, skip = (forward_ad.make_dual(t, torch.ones_like(t)) for t in (X, SKIP))
        pooled, summed = (forward_ad.unpack_dual(t).tangent for t in both(x, skip))
    assert torch.equal(pooled, torch.ones_like(pooled)) and torch.equal(summed, 2 * torch.ones_like(summed))


def test_compiles_to_torch_s_layers() -> None:
    found: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        found.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compiler.reset()
    out = torch.compile(both, backend=backend, fullgraph=True)(X, SKIP)
    assert not any("lmdis_fast" in name for name in found)
    for ours, theirs in zip(out, both(X, SKIP), strict=True):
        assert torch.equal(ours, theirs)
