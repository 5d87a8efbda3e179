"""The machine's ceilings, measured in the run whose operators are held against them.

Each is the best of several repetitions: a ceiling is what the machine can do, not what it usually does.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

COPY_SIZES = tuple(2**power for power in (19, 21, 23, 25, 27, 29))
"""Bytes read and written together by the copies that give the bandwidth: from the L2 cache (0.5 MB) to memory."""
RESIDENT = 65536
"""float32 values per thread for exp and log: with the result 0.5 MB, in the L2 cache."""
MATRIX = 1024
"""Side of the matrices that are multiplied."""


@dataclass(frozen=True)
class Work:
    """The least that an operator has to do, by counting.

    Attributes:
        bytes: inputs read once and outputs written once.
        exps: exponentials. logs: logarithms. madds: float32 multiply-adds (an addition, a multiplication, a
            comparison or a division alone counts as one).
    """

    bytes: float
    exps: float = 0.0
    logs: float = 0.0
    madds: float = 0.0


@dataclass(frozen=True)
class Ceilings:
    """Rates per second with a number of threads.

    Attributes:
        copy: bandwidth, bytes read and written per second, by the bytes of one copy.
        exps, logs: of torch's own vectorised functions on data in the L2 cache.
        madds: of a float32 matrix product.
    """

    threads: int
    copy: dict[int, float]
    exps: float
    logs: float
    madds: float

    def bandwidth(self, amount: float) -> float:
        """Bytes per second of a copy that moves as much, or the next larger one measured."""
        return next((rate for size, rate in self.copy.items() if size >= amount), min(self.copy.values()))

    def predict(self, work: Work) -> tuple[float, str]:
        """Seconds if everything else hid behind the slowest of the three, and which one that is."""
        times = {
            "bytes": work.bytes / self.bandwidth(work.bytes),
            "exp/log": work.exps / self.exps + work.logs / self.logs,
            "multiply-adds": work.madds / self.madds,
        }
        binding = max(times, key=lambda name: times[name])
        return times[binding], binding

    def describe(self) -> str:
        """A row for the table of ceilings."""
        rates = [f"{rate / 1e9:.1f}" for rate in self.copy.values()]
        numbers = [*rates, f"{self.exps / 1e9:.2f}", f"{self.logs / 1e9:.2f}", f"{self.madds / 1e9:.1f}"]
        return f"| {self.threads} | " + " | ".join(numbers) + " |"


def measure(threads: int, seconds: float = 0.15) -> Ceilings:
    """Measure all ceilings with `threads` threads, each for `seconds`."""
    torch.set_num_threads(threads)
    copy = {}
    for size in COPY_SIZES:
        source, target = (torch.ones(size // 8) for _ in range(2))
        copy[size] = size / _best(functools.partial(target.copy_, source), seconds)
    count = RESIDENT * threads
    negative, positive, result = (
        torch.linspace(-8, 0, count),
        torch.linspace(0.01, 4, count),
        torch.ones(count),
    )
    square = torch.randn(MATRIX, MATRIX)
    product = torch.empty_like(square)
    return Ceilings(
        threads,
        copy,
        exps=count / _best(lambda: torch.exp(negative, out=result), seconds),
        logs=count / _best(lambda: torch.log(positive, out=result), seconds),
        madds=MATRIX**3 / _best(lambda: torch.mm(square, square, out=product), seconds),
    )


def table(ceilings: list[Ceilings]) -> str:
    """All ceilings as Markdown."""
    columns = [f"copy of {size / 2**20:g} MB, GB/s" for size in COPY_SIZES]
    columns = ["threads", *columns, "exp, G/s", "log, G/s", "multiply-adds, G/s"]
    head = ["| " + " | ".join(columns) + " |", "| ---: " * len(columns) + "|"]
    return "\n".join(["\n### Ceilings of this machine\n", *head, *(c.describe() for c in ceilings)])


def _best(run: Callable[[], object], seconds: float) -> float:
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
