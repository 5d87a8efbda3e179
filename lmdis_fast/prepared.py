"""Calls that were prepared: what :mod:`.ops.direct` keeps, and whoever changes what it depends on drops.

Below backends and kernels, which both change it: a choice of backend, a launch table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

#: The backend that serves a call, and its function.
Served = tuple[str, Callable[..., Any]]


class Known(NamedTuple):
    """A kind of call that came before: whether these tensors are of it, whether one of them requires a gradient."""

    matches: Callable[..., bool]
    requires_grad: bool
    served: Served


class Calls:
    """What was prepared under one choice of backends and one launch table.

    Attributes:
        by_signature: by operator and all that decides what is launched.
        known: the same, found faster: by operator, shape of one tensor and all that is no tensor; the first few of each.
    """

    __slots__ = ("by_signature", "known")

    def __init__(self) -> None:
        self.by_signature: dict[tuple[Any, ...], Served] = {}
        self.known: dict[tuple[Any, ...], tuple[Known, ...]] = {}

    def clear(self) -> None:
        """Drop all."""
        self.by_signature.clear()
        self.known.clear()


#: Another takes its place when a choice or a plan may change: what was begun before that ends in the old one.
calls = Calls()


def forget() -> None:
    """Prepare every call anew. To be called after the change that asks for it."""
    global calls
    calls = Calls()
