"""The layer of convolution, batch norm and leaky ReLU against torch's three layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from lmdis_fast import backends
from lmdis_fast.models.hourglass import Hourglass, HourglassConfig, LevelConfig, conv_block, conv_chain

X = torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(1))


def plain(block: nn.Sequential) -> nn.Sequential:
    """A copy that runs its layers one after the other."""
    return nn.Sequential(*copy.deepcopy(block))


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_trains_like_its_layers(activation: bool, momentum: float | None, dtype: torch.dtype) -> None:
    block = conv_block(4, 6, activation=activation).to(dtype)
    assert isinstance(block[1], nn.BatchNorm2d)
    block[1].momentum = momentum
    other = plain(block)
    for step in range(3):
        x = (X + step).to(dtype)
        backends._last.clear()
        ours, theirs = block(x), other(x)
        fused = backends.takes("cpu", "batch_norm_leaky_relu", (x,))
        assert (backends.last_backend("batch_norm_leaky_relu") == "cpu") == fused
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        upstream = torch.linspace(-1, 1, ours.numel()).view_as(ours).to(dtype)
        ours.backward(upstream)
        theirs.backward(upstream)
    for (name, a), (_, b) in zip(block.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    for a, b in zip(block.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(block.eval()(X.to(dtype)), other.eval()(X.to(dtype)))


def test_keeps_the_activation_where_the_norm_is_replaced() -> None:
    block = conv_block(4, 6)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(block)).eval()
    assert type(converted[1]) is nn.SyncBatchNorm
    assert torch.equal(converted(X), block.eval()(X))


def test_hooks_of_the_norm_are_called() -> None:
    block, seen = conv_block(4, 6), []
    block[1].register_forward_hook(lambda module, args, output: seen.append(output))
    block(X)
    assert len(seen) == 1


def test_forward_mode_derivatives_stay() -> None:
    block = conv_block(4, 6)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(block(forward_ad.make_dual(X, torch.ones_like(X)))).tangent
    assert tangent is not None and tangent.isfinite().all()


def test_refuses_what_torch_refuses() -> None:
    block = conv_block(4, 6)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(X[:1, :, :1, :1])
    assert block(X[:0]).shape == (0, 6, 9, 7)


def test_compiles_to_torch_s_layers() -> None:
    block = conv_block(4, 6)
    found: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        found.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compiler.reset()
    out = torch.compile(block, backend=backend, fullgraph=True)(X)
    assert not any("lmdis_fast" in name for name in found)
    torch.testing.assert_close(out, F.leaky_relu(block[1](block[0](X)), 0.2))


@pytest.mark.parametrize("sides", [(8, 6), (9, 6)], ids=["windows", "odd"])
@pytest.mark.parametrize("options", [{}, {"norm": False}, {"activation": False}], ids=str)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("upsample", [True, False])
def test_joins_the_resolutions_of_an_hourglass(
    sides: tuple[int, int], options: dict[str, bool], train: bool, upsample: bool
) -> None:
    """Adds the lower maps, takes the maxima and doubles as torch's layers do after it, and sends their gradients back."""
    block = conv_block(4, 6, **options).train(train)
    x = torch.randn(3, 4, *sides, generator=torch.Generator().manual_seed(2)).requires_grad_()
    low = None
    if sides[0] % 2 == 0:
        halves = sides[0] // 2, sides[1] // 2
        low = torch.randn(3, 6, *halves, generator=torch.Generator().manual_seed(3)).requires_grad_()

    def steps() -> tuple[Tensor, Tensor]:
        out = plain(block)(x)
        out = out if low is None else out + F.interpolate(low, scale_factor=2.0, mode="nearest")
        pooled = F.max_pool2d(out, 2)
        return F.interpolate(out, scale_factor=2.0, mode="nearest") if upsample else out, pooled

    expected, found = steps(), block(x, low, pool=True, upsample=upsample)
    leaves = [x] if low is None else [x, low]
    upstream = [torch.linspace(-1, 1, t.numel()).view_as(t) for t in expected]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad(list(r), leaves, upstream) for r in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"norm": False}, {"activation": False}], ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_doubles_its_result(options: dict[str, bool], train: bool) -> None:
    block = conv_block(4, 6, **options).train(train)
    x = X.clone().requires_grad_()
    expected = F.interpolate(plain(block)(x), scale_factor=2.0, mode="nearest")
    backends._last.clear()
    found = block(x, upsample=True)
    if train and options.get("norm", True):
        fused = backends.takes("cpu", "batch_norm_leaky_relu", (x,))
        assert (backends.last_backend("batch_norm_leaky_relu") == "cpu") == fused
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    ours, theirs = (torch.autograd.grad(out, x, upstream) for out in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_an_hourglass_doubles_what_it_gives(levels: int) -> None:
    config = HourglassConfig((LevelConfig((4,), 1, (5,)),) * levels, (6,))
    hourglass = Hourglass(4, config).eval()
    x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(2))
    expected = F.interpolate(hourglass(x), scale_factor=2.0, mode="nearest")
    assert torch.equal(hourglass(x, upsample=True), expected)


def test_a_chain_gives_its_last_block_what_comes_next() -> None:
    chain, low = conv_chain(4, [5, 6]), torch.ones(3, 6, 4, 3)
    x = torch.randn(3, 4, 8, 6, generator=torch.Generator().manual_seed(2))
    expected = nn.Sequential(*copy.deepcopy(chain))(x) + 1
    out, pooled = copy.deepcopy(chain)(x, low=low, pool=True)
    torch.testing.assert_close(out, expected)
    doubled = copy.deepcopy(chain)(x, low=low, upsample=True)
    torch.testing.assert_close(doubled, F.interpolate(expected, scale_factor=2.0, mode="nearest"))
    assert torch.equal(pooled, F.max_pool2d(out, 2))
    empty = conv_chain(6, [])
    assert torch.equal(empty(out), out) and torch.equal(empty(out, pool=True).pooled, pooled)
