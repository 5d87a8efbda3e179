"""What is installed and what it runs on: `python -m lmdis_fast.info`. Paste it into a bug report."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

import lmdis_fast
import lmdis_fast.ops  # registers the operators that the table lists
from lmdis_fast.backends import show_backends

PACKAGES = (
    "triton",
    "numpy",
    "tyro",
    "Pillow",
    "safetensors",
    "rich",
    "tensorboard",
    "matplotlib",
    "scikit-learn",
)


def installed(package: str) -> str:
    """A package's version, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main() -> int:
    """Print it."""
    print(f"lmdis_fast {lmdis_fast.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(
        f"torch {torch.__version__}, CUDA build {torch.version.cuda or 'no'}, devices {torch.cuda.device_count()}"
    )
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"processor: {os.cpu_count()} cores, {capability}, {torch.get_num_threads()} threads")
    print(", ".join(f"{name} {installed(name)}" for name in PACKAGES))
    print()
    print(show_backends())
    return 0


if __name__ == "__main__":
    sys.exit(main())
