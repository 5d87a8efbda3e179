"""lmdis_fast: object landmarks discovered without labels, and the fused operators behind them.

The operators are in `lmdis_fast.ops` (torch and numpy alone); models, data and training need the `train` extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LandmarkCode", "__version__", "load"]

if TYPE_CHECKING:
    from .checkpoint import load
    from .models import LandmarkCode


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that the operators need no more than torch.
    if name == "load":
        from .checkpoint import load

        return load
    if name == "LandmarkCode":
        from .models import LandmarkCode

        return LandmarkCode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
