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


def assert_near(out: Tensor, exact: Tensor, eager: Tensor | None = None, scale: float = 1.0) -> None:
    """``max|out - exact| <= 2 max|eager - exact| + floor``, NaN and infinity in the same places."""
    assert out.shape == exact.shape, f"{tuple(out.shape)} against {tuple(exact.shape)}"
    if out.numel() == 0:
        return
    got, want = out.detach().double(), exact.detach().double()
    assert torch.equal(got.isfinite(), want.isfinite()), "finite in different places"
    error = (got - want).nan_to_num(0.0, 0.0, 0.0).abs().max().item()
    allowed = FLOOR[out.dtype] * scale * max(1.0, want.nan_to_num(0.0, 0.0, 0.0).abs().max().item())
    if eager is not None:
        allowed += 2 * (eager.detach().double() - want).nan_to_num(0.0, 0.0, 0.0).abs().max().item()
    assert error <= allowed, f"error {error:.3e}, allowed {allowed:.3e}"


def assert_gradient_near(out: Tensor, exact: Tensor, eager: Tensor | None = None, scale: float = 1.0) -> None:
    """:func:`assert_near`, and relative L2, cosine and bias by the table, unless ``exact`` is practically zero."""
    assert_near(out, exact, eager, scale)
    got, want = out.detach().double().flatten(), exact.detach().double().flatten()
    if got.numel() < 2 or want.norm() <= FLOOR[out.dtype] * scale * want.numel() ** 0.5:
        return
    relative, turn, bias = GRADIENT[out.dtype]
    assert ((got - want).norm() / want.norm()).item() <= relative * scale
    assert 1 - torch.cosine_similarity(got, want, 0).item() <= turn * scale
    assert ((got - want).mean().abs() / want.abs().mean()).item() <= bias * scale
