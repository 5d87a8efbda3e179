"""Which tile and how many warps a kernel is launched with: one static table, no tuning at run time.

``launch_table.json`` holds for each kernel a list of entries, of which the first that fits is taken. An entry says for
what it is (``arch`` such as ``sm_90``, and the largest ``channels``, ``pixels`` and ``bytes`` of an element) and what
to launch (everything else). What an entry does not name fits always. Warps are counted as the compiler does, but in an
entry that names no ``arch`` as of 32 threads each, so that a thread has as many pixels everywhere. ``python -m
bench.tune_launches`` rewrites the table on a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
import triton

from .. import prepared

PATH = Path(__file__).with_name("launch_table.json")
LIMITS = ("channels", "pixels", "bytes")
TABLE: dict[str, list[dict[str, int | str]]] = json.loads(PATH.read_text())
_overrides: dict[str, dict[str, int]] = {}
_arch_of_meta: str | None = None
_asked: list[tuple[str, dict[str, int]]] | None = None


def architecture(device: torch.device) -> str:
    """``sm_90``, ``gfx942``, or ``cpu`` in the interpreter."""
    if device.type == "meta" and _arch_of_meta is not None:
        return _arch_of_meta
    return device.type if device.type in ("cpu", "meta") else _architecture_of_gpu(device)


@functools.lru_cache(maxsize=16)
def _architecture_of_gpu(device: torch.device) -> str:
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def configuration(kernel: str, arch: str, channels: int, pixels: int, bytes: int) -> dict[str, int]:
    """What to launch ``kernel`` with for so many channels and pixels, and bytes of an element.

    Raises:
        LookupError: where the table has nothing that fits.
    """
    asked = {"channels": channels, "pixels": pixels, "bytes": bytes}
    if _asked is not None:
        _asked.append((kernel, asked))
    if kernel in _overrides:
        return dict(_overrides[kernel])
    entry = entry_of(kernel, arch, asked)
    launch = {k: int(v) for k, v in entry.items() if k != "arch" and k not in LIMITS}
    if "arch" not in entry and arch.startswith("gfx9"):
        launch["num_warps"] = max(launch["num_warps"] // 2, 1)  # 64 threads each
        launch.pop("maxnreg", None)
    return launch


def entry_of(kernel: str, arch: str, asked: dict[str, int]) -> dict[str, int | str]:
    """The first entry that fits."""
    for entry in TABLE[kernel]:
        if entry.get("arch", arch) == arch and all(asked[k] <= int(entry.get(k, asked[k])) for k in LIMITS):
            return entry
    raise LookupError(f"launch_table.json has no entry of {kernel} for {arch}, {asked}")


def options_of(entry: dict[str, int]) -> dict[str, int]:
    """What of an entry is for the compiler: warps, and registers at most (NVIDIA's, where it would rather spill one)."""
    return {name: entry[name] for name in ("num_warps", "num_stages", "maxnreg") if name in entry}


@contextlib.contextmanager
def architecture_of_meta(arch: str) -> Iterator[None]:
    """Within the context tensors without memory count as being on ``arch``, to see what would be launched there."""
    global _arch_of_meta
    before, _arch_of_meta = _arch_of_meta, arch
    prepared.forget()
    try:
        yield
    finally:
        _arch_of_meta = before
        prepared.forget()


@contextlib.contextmanager
def overridden(kernel: str, **launch: int) -> Iterator[None]:
    """Within the context ``kernel`` is launched so whatever the table says. For tests and tuning."""
    before = _overrides.get(kernel)
    _overrides[kernel] = launch
    prepared.forget()
    try:
        yield
    finally:
        if before is None:
            del _overrides[kernel]
        else:
            _overrides[kernel] = before
        prepared.forget()


@contextlib.contextmanager
def asked() -> Iterator[list[tuple[str, dict[str, int]]]]:
    """Within the context plans are made anew; yields what the table is asked for, kernel by kernel. For tuning."""
    global _asked
    before, _asked = _asked, []
    prepared.forget()
    try:
        yield _asked
    finally:
        _asked = before
        prepared.forget()


def overrides() -> tuple[object, ...]:
    """What is overridden now, as part of a plan's key."""
    if not _overrides and _arch_of_meta is None and _asked is None:
        return ()
    return (
        _arch_of_meta,
        None if _asked is None else id(_asked),
        *((k, tuple(v.items())) for k, v in _overrides.items()),
    )


def columns(width: int, tile: int) -> int:
    """Columns of a tile of ``tile`` pixels: the power of 2 that wastes least of ``width``, the largest of equals."""
    largest = min(tile, 128, triton.next_power_of_2(width))
    choices = [largest >> i for i in range(4) if largest >> i >= min(largest, 16)]
    best: int = min(choices, key=lambda b: (-(-width // b) * b, -b))
    return best
