"""How near is near enough: one table for every operator and backend.

A result may be wrong by twice what plain PyTorch in the same dtype is wrong by, plus a floor. A gradient is also held
to its relative L2 error, its direction and its bias, because element-wise closeness hides a missing term.
"""

import torch
from torch import Tensor

#: Absolute floor, for results of order one.
FLOOR = {torch.float64: 1e-11, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
#: Relative L2 error, 1 - cosine, and mean signed error over mean magnitude of a gradient.
GRADIENT = {
    torch.float64: (1e-9, 1e-12, 1e-9),
    torch.float32: (1e-4, 1e-7, 1e-5),
    torch.float16: (5e-3, 1e-4, 2e-3),
    torch.bfloat16: (2e-2, 1e-3, 1e-2),
}


def _kept(tensor: Tensor, where: Tensor) -> Tensor:
    return tensor.detach().double().masked_fill(~where, 0.0)


def assert_near(out: Tensor, exact: Tensor, eager: Tensor | None = None, scale: float = 1.0) -> None:
    """``max|out - exact| <= 2 max|eager - exact| + floor``, not finite where ``exact`` in the same dtype is not."""
    assert out.shape == exact.shape, f"{tuple(out.shape)} against {tuple(exact.shape)}"
    if out.numel() == 0:
        return
    finite = exact.to(out.dtype).isfinite()
    assert torch.equal(out.isfinite(), finite), "finite in different places"
    got, want = _kept(out, finite), _kept(exact, finite)
    error = (got - want).abs().max().item()
    allowed = FLOOR[out.dtype] * scale * max(1.0, want.abs().max().item())
    if eager is not None:
        allowed += 2 * (_kept(eager, finite) - want).abs().max().item()
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"


def assert_gradient_near(
    out: Tensor, exact: Tensor, eager: Tensor | None = None, scale: float = 1.0, reach: float = 1.0
) -> None:
    """:func:`assert_near`, and relative L2, cosine and bias by the table, unless ``exact`` is practically zero.

    With ``eager`` each of the three may be as large as the table's and twice what it is for ``eager``. The floor
    grows with ``reach``, the largest of the numbers whose differences the gradient consists of.
    """
    assert_near(out, exact, eager, scale * reach)
    finite = exact.to(out.dtype).isfinite()
    want = _kept(exact, finite).flatten()
    if want.numel() < 2 or want.norm() <= FLOOR[out.dtype] * scale * reach * want.numel() ** 0.5:
        return
    found = _distances(_kept(out, finite).flatten(), want)
    usual = (0.0, 0.0, 0.0) if eager is None else _distances(_kept(eager, finite).flatten(), want)
    noise = FLOOR[out.dtype] * scale * (reach - 1) * want.numel() ** 0.5 / want.norm().item()
    names = ("relative L2 error", "1 - cosine", "relative bias")
    more = (noise, noise**2, noise)
    for name, is_, table, plain, extra in zip(names, found, GRADIENT[out.dtype], usual, more, strict=True):
        allowed = table * scale + 2 * plain + extra
        assert is_ <= allowed, f"{name} {is_:.3e}, allowed {allowed:.3e}"


def _distances(got: Tensor, want: Tensor) -> tuple[float, float, float]:
    """Relative L2 error, 1 - cosine, and mean signed error over mean magnitude."""
    return (
        ((got - want).norm() / want.norm()).item(),
        1 - torch.cosine_similarity(got, want, 0).item(),
        ((got - want).mean().abs() / want.abs().mean()).item(),
    )
