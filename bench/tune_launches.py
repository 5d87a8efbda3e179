"""`python -m bench.tune_launches`: find each kernel's launch on this GPU and write it into `kernels/launch_table.json`.

For every kernel, channel bucket and size of an element, tiles, steps and warps near those of the table are tried in
calls of the whole operator, everything else being as it is; the fastest goes into the table as an entry of this
architecture, before those that it had. Run `bench/gpu_check.py` and the tests afterwards, and commit the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmdis_fast import backends
from lmdis_fast.kernels import launch_table

from .gpu_budget import Budget
from .gpu_calls import Call, calls
from .gpu_stages import Timer, Timing

Entry = dict[str, int | str]
#: One count for each bucket of channels.
LANDMARKS = (10, 30, 60, 100)
FACTORS = {"TILE": (0.5, 1, 2), "STEPS": (0.5, 1, 2), "num_warps": (0.5, 1, 2)}
LIMITS = {"TILE": (16, 1024), "STEPS": (1, 32), "num_warps": (1, 16)}
WORTH = 0.97
"""Another launch is taken where it needs at most so much of the time: noise should not rewrite the table."""


def candidates(usual: dict[str, int]) -> Iterator[dict[str, int]]:
    """Launches near the usual one, that one first."""
    names = [name for name in FACTORS if name in usual]
    yield usual
    for factors in itertools.product(*(FACTORS[name] for name in names)):
        near = {name: int(usual[name] * factor) for name, factor in zip(names, factors, strict=True)}
        inside = all(LIMITS[name][0] <= value <= LIMITS[name][1] for name, value in near.items())
        if inside and {**usual, **near} != usual:
            yield {**usual, **near}


def both_ways(call: Call) -> Callable[[], object]:
    """Forward and backward of a call."""
    with torch.no_grad():
        upstream = [torch.randn_like(r) for r in call.run(*call.leaves)]

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(call.run(*call.leaves), call.leaves, upstream)

    return run


def fastest(kernel: str, usual: dict[str, int], run: Callable[[], object], timer: Timing) -> dict[str, int]:
    """The candidate with which the call is fastest. Those that cannot be launched are passed over."""
    best, best_time = usual, float("inf")
    for candidate in candidates(usual):
        with launch_table.overridden(kernel, **candidate):
            try:
                time = statistics.median(timer([run], 0.05)[0])
            except Exception as error:
                if candidate is usual:
                    raise
                print(f"  {kernel} {candidate}: {type(error).__name__}", file=sys.stderr)
                continue
        if time < best_time * (WORTH if best_time < float("inf") else 1):
            best, best_time = candidate, time
    return best


def bucket_of(kernel: str, asked: dict[str, int], arch: str) -> Entry:
    """The limits of a new entry: those of the entry that serves the call now, for this size of an element."""
    now = launch_table.entry_of(kernel, arch, asked)
    limits: Entry = {name: now[name] for name in ("channels", "pixels") if name in now}
    return {"arch": arch, "bytes": asked["bytes"], **limits}


def tuned(
    device: str, timer: Timing, minutes: Budget, size: tuple[int, int] = (80, 80), batch: int = 32
) -> dict[str, list[Entry]]:
    """New entries by kernel, for the kernels that were reached before the time was up."""
    arch = launch_table.architecture(torch.device(device))
    found: dict[str, list[Entry]] = {}
    done: list[tuple[str, Entry]] = []
    for dtype, landmarks in itertools.product((torch.bfloat16, torch.float32), LANDMARKS):
        for call in calls(device, dtype, landmarks, size, False, batch=batch, features=64):
            with backends.use_backend("triton"):
                run = both_ways(call)
                with launch_table.asked() as questions:
                    run()
                for kernel, asked in questions:
                    bucket = bucket_of(kernel, asked, arch)
                    if (kernel, bucket) in done or minutes.left == 0:
                        continue
                    done.append((kernel, bucket))
                    usual = launch_table.configuration(kernel, arch, **asked)
                    best = fastest(kernel, usual, run, timer)
                    print(f"{kernel} {bucket}: {best}", file=sys.stderr)
                    found.setdefault(kernel, []).append({**bucket, **best})
    return found


def merged(table: dict[str, list[Entry]], new: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """The table with the new entries before the others, narrower buckets first; an entry for just the same goes."""

    def limits(entry: Entry) -> Entry:
        return {name: entry[name] for name in ("arch", *launch_table.LIMITS) if name in entry}

    def width(entry: Entry) -> tuple[float, ...]:
        return tuple(float(entry.get(name, float("inf"))) for name in launch_table.LIMITS)

    result = {}
    for kernel, entries in table.items():
        fresh = sorted(new.get(kernel, []), key=width)
        replaced = [limits(entry) for entry in fresh]
        result[kernel] = fresh + [entry for entry in entries if limits(entry) not in replaced]
    return result


def as_text(table: dict[str, list[Entry]]) -> str:
    """JSON with one entry a line."""
    kernels = []
    for kernel, entries in table.items():
        lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
        kernels.append(f"  {json.dumps(kernel)}: [\n{lines}\n  ]")
    return "{\n" + ",\n".join(kernels) + "\n}\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune_launches", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="limit (default: 20)")
    parser.add_argument("--out", type=Path, default=launch_table.PATH, help="(default: the table in use)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("tune_launches: torch sees no GPU: run this where there is one", file=sys.stderr)
        return 2
    arch = launch_table.architecture(torch.device("cuda"))
    table: dict[str, Any] = launch_table.TABLE
    new = tuned("cuda", Timer("cuda"), Budget(60 * options.minutes))
    part = options.out.with_suffix(".part")
    part.write_text(as_text(merged(table, new)))
    part.replace(options.out)
    print(f"{sum(map(len, new.values()))} entries of {arch} written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
