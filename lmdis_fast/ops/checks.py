"""Checks of arguments, made before any kernel runs.

Types and dtypes raise TypeError, shapes and values ValueError, in the form
``<operator>: <argument> must be <expected>, got <what came>``. The contents of tensors are not looked at: that would
cost a pass over them and, on a GPU, a wait.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def described(value: Any) -> str:
    """``(2, 11, 96) torch.float32`` for a tensor, the type's name for anything else."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    return type(value).__name__


def check_tensor(op: str, name: str, value: Any, form: str, rank: int | tuple[int, ...]) -> None:
    """``value`` is a floating tensor of the given rank; ``form`` is its shape in words, such as ``(N, K, 2)``."""
    ranks = (rank,) if isinstance(rank, int) else rank
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a {form} floating tensor, got {described(value)}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{op}: {name} must be {form} floating, got {described(value)}")
    if value.dim() not in ranks:
        raise ValueError(f"{op}: {name} must be {form} floating, got {described(value)}")


def check_maps(op: str, name: str, value: Any, form: str) -> None:
    """``value`` is a floating (N, C, H, W) tensor with at least one channel and one pixel."""
    check_tensor(op, name, value, form, 4)
    if value.shape[1] < 1 or value.shape[2] < 1 or value.shape[3] < 1:
        raise ValueError(
            f"{op}: {name} must be {form} with at least one channel and one pixel, got {described(value)}"
        )


def check_points(op: str, name: str, value: Any, form: str, rank: int | tuple[int, ...] = 3) -> None:
    """``value`` is a floating tensor of points, (x, y) last, with at least one point."""
    check_tensor(op, name, value, form, rank)
    if value.shape[-1] != 2 or value.shape[-2] < 1:
        raise ValueError(
            f"{op}: {name} must be {form} floating with at least one point, got {described(value)}"
        )


def check_same_device(op: str, **tensors: Tensor | None) -> None:
    """All tensors given lie on one device."""
    present = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    first, *others = present.values()
    if any(device != first for device in others):
        where = ", ".join(f"{name} on {device}" for name, device in present.items())
        raise ValueError(f"{op}: tensors must be on one device, got {where}")


def check_same_batch(op: str, **tensors: Tensor) -> None:
    """All tensors given have one batch size N."""
    first, *others = tensors.values()
    if any(tensor.shape[0] != first.shape[0] for tensor in others):
        got = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{op}: tensors must have the same batch size N, got {got}")


def check_choice(op: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """``value`` is one of the words."""
    if value not in choices:
        words = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{op}: {name} must be one of {words}, got {value!r}")


def checked_number(op: str, name: str, value: Any, *, zero: bool = False, negative: bool = False) -> float:
    """``value`` as a finite float: positive, or also zero, or also negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a number, got {described(value)}")
    number = float(value)
    if not -math.inf < number < math.inf:  # not math.isfinite, which breaks a graph with dynamic numbers
        raise ValueError(f"{op}: {name} must be finite, got {value}")
    if not negative and (number < 0 or (number == 0 and not zero)):
        raise ValueError(f"{op}: {name} must be {'at least 0' if zero else 'positive'}, got {value}")
    return number


def checked_numbers(op: str, name: str, value: Any, length: int | None = None) -> list[float]:
    """One positive number or a sequence of them, as a list; a single one is repeated to ``length``."""
    if isinstance(value, (list, tuple)):
        numbers = [checked_number(op, name, item) for item in value]
    else:
        numbers = [checked_number(op, name, value)] * (1 if length is None else length)
    if not numbers or (length is not None and len(numbers) != length):
        expected = (
            "at least one number" if length is None else f"one number or one for each of {length} levels"
        )
        raise ValueError(f"{op}: {name} must be {expected}, got {len(numbers)}")
    return numbers


def checked_size(op: str, size: Any) -> list[int]:
    """``size`` as ``[H, W]``, both at least 1."""
    if not isinstance(size, (list, tuple, torch.Size)) or len(size) != 2:
        raise ValueError(f"{op}: size must be (H, W), got {size!r}")
    if any(isinstance(side, (bool, float, str)) or side < 1 for side in size):
        raise ValueError(f"{op}: size must be (H, W) in whole pixels, at least 1 each, got {tuple(size)}")
    return [size[0], size[1]]
