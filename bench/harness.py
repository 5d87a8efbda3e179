"""Timing: contenders checked against the first one, then run in turns; medians."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contender:
    """One way of computing something: `run(inputs)` returns a tensor or tensors."""

    name: str
    run: Callable[..., Tensor]


@dataclass(frozen=True)
class Timing:
    """Medians in milliseconds."""

    case: str
    contender: str
    forward: float
    both: float


def machine() -> str:
    """Processor, instructions and threads, for the head of every table."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # another system: the architecture's name will do
    level = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {level}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def compare(
    case: str, contenders: list[Contender], inputs: list[Tensor], *, rounds: int = 15, tolerance: float = 1e-3
) -> list[Timing]:
    """Time contenders on the same inputs, round by round in turns, forward alone and with backward.

    Raises:
        AssertionError: a contender's result differs from the first one's.
    """
    expected = contenders[0].run(*inputs).detach()
    for contender in contenders[1:]:
        torch.testing.assert_close(
            contender.run(*inputs).detach(),
            expected,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m: f"{case}: {m}",
        )
    gradient = torch.randn_like(expected)
    forward: dict[str, list[float]] = {c.name: [] for c in contenders}
    both: dict[str, list[float]] = {c.name: [] for c in contenders}
    for turn in range(rounds + 2):
        for contender in contenders:
            leaves = [t.detach().requires_grad_(t.requires_grad) for t in inputs]
            with torch.no_grad():
                start = time.perf_counter()
                contender.run(*leaves)
                forward_time = time.perf_counter() - start
            start = time.perf_counter()
            output = contender.run(*leaves)
            if output.requires_grad:
                output.backward(gradient)
            if turn >= 2:  # the first ones warm up
                forward[contender.name].append(1e3 * forward_time)
                both[contender.name].append(1e3 * (time.perf_counter() - start))
    return [Timing(case, n, statistics.median(forward[n]), statistics.median(both[n])) for n in forward]


def table(title: str, timings: list[Timing]) -> str:
    """A Markdown table; the last column is the first contender's time over this one's, forward and backward."""
    lines = [
        f"\n### {title}\n",
        "| case | contender | forward ms | forward+backward ms | speed |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    base: dict[str, float] = {}
    for t in timings:
        base.setdefault(t.case, t.both)
        lines.append(
            f"| {t.case} | {t.contender} | {t.forward:.2f} | {t.both:.2f} | {base[t.case] / t.both:.2f} |"
        )
    return "\n".join(lines)
