"""The committed table of what compiled kernels take: Triton's by name, CUDA's under ``cuda``; and its text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXPECTED = Path(__file__).with_name("expected.toml")
#: Of the compilers whose results the table holds.
RELEASES = ("triton", "nvcc")
HEAD = [
    "# Ceilings of what each kernel takes (registers of a thread, bytes of shared memory of a block; CUDA's without what a",
    "# launch asks for) and the least number of 16-byte loads and stores in its code, Triton's for contiguous maps of up to",
    "# 31 channels. The stack, where registers would be spilled, is 0 everywhere. Written by",
    "# `python -m tests.aot.compile_kernels --write` and `python -m tests.aot.compile_cuda --write`.",
]


def load_table() -> dict[str, Any]:
    """``{kernel: {dtype: {architecture: {registers, shared, wide_loads, wide_stores}}}}``, and the same under ``cuda``."""
    return tomllib.loads(EXPECTED.read_text())


def write_table(table: dict[str, Any]) -> None:
    """Replace the committed table; rows may be keyed ``dtype.architecture`` or one in the other."""
    lines = [*HEAD, *(f'{name} = "{table[name]}"' for name in RELEASES if name in table)]
    for prefix, kernels in (("", table), ("cuda.", table.get("cuda", {}))):
        for kernel in sorted(kernels):
            if isinstance(kernels[kernel], dict) and (prefix or kernel != "cuda"):
                lines += ["", f"[{prefix}{kernel}]", *sorted(_rows(kernels[kernel]))]
    EXPECTED.write_text("\n".join(lines) + "\n")


def _rows(of_kernel: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, row in of_kernel.items():
        if all(isinstance(value, int) for value in row.values()):
            values = ", ".join(f"{name} = {value}" for name, value in row.items())
            yield f"{prefix}{key} = {{ {values} }}"
        else:
            yield from _rows(row, f"{prefix}{key}.")
