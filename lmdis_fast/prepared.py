"""Calls that were prepared: what :mod:`.ops.direct` keeps, and whoever changes what it depends on drops.

Below backends and kernels, which both change it: a choice of backend, a launch table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Backend and function of a call, by operator and all that decides them. Another dictionary takes its place when a choice
#: or a plan may change: what was begun before that ends in the old one.
calls: dict[tuple[Any, ...], tuple[str, Callable[..., Any]]] = {}


def forget() -> None:
    """Prepare every call anew. To be called after the change that asks for it."""
    global calls
    calls = {}
