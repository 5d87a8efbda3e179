"""Where networks call the compiled operators for their layers, and where torch's own layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import backends


def _tangent(x: Tensor) -> Tensor | None:
    """Of a forward-mode derivative, or None outside one."""
    unpack: Callable[[Tensor], forward_ad.UnpackedDualTensor] = (
        forward_ad.unpack_dual
    )  # torch has not typed it
    return unpack(x).tangent


def is_served(op: str, *tensors: Tensor) -> bool:
    """Whether a network should call ``op`` rather than torch's own layers, which compilers and other devices know.

    It is, where the compiled kernel takes these tensors and neither a compiler nor an exporter looks on; forward-mode
    derivatives have the layers alone.
    """
    return (
        not torch.compiler.is_compiling()
        and backends.takes("cpu", op, tensors)
        and all(_tangent(tensor) is None for tensor in tensors)
    )
