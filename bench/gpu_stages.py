"""The stages of `gpu_check`: each takes a `Budget` and returns rows for the report, or raises where something is wrong."""

from __future__ import annotations

import functools
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lmdis_fast import backends
from lmdis_fast.ops import ThinPlateSpline

from . import gaussian_splat, heatmap_moments, landmark_pool, tps_warp
from .gpu_budget import Budget
from .gpu_calls import calls
from .gpu_parity import SIZES as SIZES_OF_PARITY
from .gpu_parity import Rows, Wrong, gpu_backends, results_and_gradients
from .harness import Case, Problem
from .sizes import Sizes

Runs = Sequence[Callable[[], object]]
Samples = list[list[float]]
#: Times runs in turns for so many seconds; `Timer`, or a test's own.
Timing = Callable[[Runs, float], Samples]
#: Size of the stages after parity: the one that it begins with, so that their kernels are compiled by then.
COMPILED = SIZES_OF_PARITY[0][0]
L2_BYTES = 256 * 2**20
"""Written between timed calls, so that none finds its input in the cache."""
WAIT_CYCLES = 2_000_000
"""About a millisecond."""
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.04e12, "B200": 8.0e12}
"""Bytes a second by the data sheets, for the cards that this program knows."""


def describe(device: str, budget: Budget) -> dict[str, str]:
    """The machine, in words."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__, "device": device}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = "missing"
    nvcc = shutil.which("nvcc")
    found["nvcc"] = _first_line([nvcc, "--version"], -1) if nvcc else "missing (not needed for Triton)"
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["multiprocessors"] = str(properties.multi_processor_count)
        found["memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        if shutil.which("nvidia-smi"):
            found["driver"] = _first_line(
                ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], 0
            )
    found["backends"] = ", ".join(gpu_backends(device)) or "reference alone"
    return found


def _first_line(command: list[str], place: int) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    lines = done.stdout.strip().splitlines()
    return lines[place].strip() if lines else f"no answer ({done.returncode})"


def repeatable(device: str, budget: Budget, times: int = 20, size: tuple[int, int] = COMPILED) -> Rows:
    """The same bits from every call, image gradients with torch's deterministic algorithms."""
    rows = []
    torch.use_deterministic_algorithms(True)
    try:
        for call in calls(device, torch.float32, 10, size, False):
            for backend in gpu_backends(device):
                done = 0
                with backends.use_backend(backend):
                    first = results_and_gradients(call, call.leaves)
                    while done < times and budget.left:
                        again = results_and_gradients(call, call.leaves)
                        done += 1
                        if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
                            raise Wrong(f"{backend} {call.name}: other bits at repetition {done}")
                rows.append({"backend": backend, "operator": call.name, "repetitions": done})
    finally:
        torch.use_deterministic_algorithms(False)
    return rows


def graphs(device: str, budget: Budget) -> Rows:
    """Forward passes captured in a CUDA graph and replayed on other numbers."""
    rows: Rows = []
    for call in calls(device, torch.float32, 10, COMPILED, False):
        for backend in gpu_backends(device):
            if budget.left == 0:
                return rows
            with backends.use_backend(backend), torch.no_grad():
                inputs = [leaf.detach().clone() for leaf in call.leaves]
                call.run(*inputs)  # compiles
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    results = call.run(*inputs)
                inputs[0].mul_(0.5)
                graph.replay()
                expected = call.run(*inputs)
                if not all(torch.equal(a, b) for a, b in zip(results, expected, strict=True)):
                    raise Wrong(f"{backend} {call.name}: a replayed graph gives other numbers")
            rows.append({"backend": backend, "operator": call.name, "captured": "yes"})
    return rows


@dataclass(frozen=True)
class Timer:
    """Times calls on a GPU with events; ``cold`` writes over the second cache before each.

    The GPU is kept waiting before each call until Python has launched all of it, so that Python's time does not count.
    """

    device: str
    cold: bool = True

    def __call__(self, runs: Runs, seconds: float) -> Samples:
        """Seconds of each of many calls, in turns, for about so long."""
        flush = torch.empty(L2_BYTES // 4, device=self.device)
        wait: Callable[[int], None] = torch.cuda._sleep
        for run in runs:
            for _ in range(3):
                run()
        torch.cuda.synchronize(self.device)
        samples: Samples = [[] for _ in runs]
        budget = Budget(seconds)
        while budget.left or len(samples[0]) < 5:
            pairs = []
            for run in runs:
                if self.cold:
                    flush.zero_()
                wait(WAIT_CYCLES)
                stamps = [torch.Event(self.device, enable_timing=True) for _ in range(2)]
                stamps[0].record()
                run()
                stamps[1].record()
                pairs.append(stamps)
            torch.cuda.synchronize(self.device)
            for sample, (begin, end) in zip(samples, pairs, strict=True):
                sample.append(begin.elapsed_time(end) / 1e3)
        return samples


def moved(problem: Problem, device: str) -> Problem:
    """A benchmark's problem on another device, with the tensors and splines that its contenders hold."""

    def there(value: Any) -> Any:
        if isinstance(value, ThinPlateSpline):
            parts = {f.name: there(getattr(value, f.name)) for f in fields(value)}
            return replace(value, **parts)
        return value.to(device) if isinstance(value, Tensor) else value

    def run_there(run: Callable[..., Any]) -> Callable[..., Any]:
        if not isinstance(run, functools.partial):
            return run
        held = {name: there(value) for name, value in run.keywords.items()}
        return functools.partial(run.func, *map(there, run.args), **held)

    inputs = tuple(there(t.detach()).requires_grad_(t.requires_grad) for t in problem.inputs)
    contenders = [replace(c, run=run_there(c.run)) for c in problem.contenders]
    return replace(problem, inputs=inputs, contenders=contenders)


ROOMS = (heatmap_moments, landmark_pool, gaussian_splat, tps_warp)
SIZES = Sizes(extras=False)


def bandwidth_of(name: str, measured: float) -> float:
    """Bytes a second: of the data sheet for a known card, otherwise as measured."""
    return next((value for card, value in BANDWIDTH.items() if card in name), measured)


def card_name(device: str) -> str:
    """``NVIDIA H100 80GB HBM3``, or the device's own name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def copy_bandwidth(device: str, timer: Timing) -> float:
    """Bytes a second of a large copy, read and written."""
    a = torch.empty(2**28, device=device, dtype=torch.uint8)
    b = torch.empty_like(a)
    return 2 * a.numel() / statistics.median(timer([lambda: b.copy_(a)], 0.2)[0])


def timings(
    device: str,
    budget: Budget,
    compiled: bool = False,
    sizes: Sizes = SIZES,
    timer_of: Callable[[str], Timing] = Timer,
) -> Rows:
    """Each operator beside the ways to write it in PyTorch: microseconds, and the share of memory's speed."""
    timer = timer_of(device)
    measured = copy_bandwidth(device, timer)
    bandwidth = bandwidth_of(card_name(device), measured)
    rows: Rows = [{"operator": "copy of 256 MB", "GB/s": round(measured / 1e9), "of": round(bandwidth / 1e9)}]
    cases = [case for room in ROOMS for case in room.cases(sizes)]
    for number, case in enumerate(cases):
        if budget.left == 0:
            rows.append({"operator": f"time was up: {len(cases) - number} cases of {len(cases)} left out"})
            break
        print(
            f"  {number + 1} of {len(cases)}: {case.operator} {case.name} {case.dtype_name}", file=sys.stderr
        )
        share = max(budget.left / (len(cases) - number) / 2, 0.05)
        rows += _time_case(device, case, timer, bandwidth, compiled, min(share, 2.0))
    return rows


def _time_case(
    device: str, case: Case, timer: Timing, bandwidth: float, compiled: bool, seconds: float
) -> Rows:
    problem = moved(case.build(), device)
    kinds = ("ours", "eager", "plain", "given grid") + (("compile",) if compiled else ())
    rivals = [c for c in problem.contenders if c.kind in kinds and c.kind != "ours"]
    ours = next(c for c in problem.contenders if c.kind == "ours")
    names = [*gpu_backends(device), *(c.name for c in rivals)]

    def with_backend(backend: str) -> Callable[..., Any]:
        def run(*inputs: Tensor) -> Any:
            with backends.use_backend(backend):
                return ours.run(*inputs)

        return run

    runs = [
        *(with_backend(backend) for backend in gpu_backends(device)),
        *(torch.compile(c.run) if c.kind == "compile" else c.run for c in rivals),
    ]
    row: dict[str, Any] = {"operator": case.operator, "case": f"{case.name} {case.dtype_name}"}
    rows = []
    for phase, work in (("forward", problem.forward), ("forward+backward", problem.backward)):
        if work is None:
            continue
        calls_ = [_phase(run, problem.inputs, phase) for run in runs]
        medians = [statistics.median(s) for s in timer(calls_, seconds / 2)]
        moved_bytes = work.bytes + (problem.forward.bytes if phase != "forward" else 0)
        entry = {**row, "phase": phase}
        for name, median in zip(names, medians, strict=True):
            entry[f"{name}, us"] = round(median * 1e6, 1)
        for name, median in list(zip(names, medians, strict=True))[: len(gpu_backends(device))]:
            entry[f"{name}, of memory's speed"] = f"{moved_bytes / bandwidth / median:.0%}"
        rows.append(entry)
    return rows


def _phase(run: Callable[..., Any], inputs: tuple[Tensor, ...], phase: str) -> Callable[[], object]:
    if phase == "forward":

        def forward() -> object:
            with torch.no_grad():
                return run(*inputs)

        return forward
    upstream = [torch.randn_like(r) for r in run(*inputs)]
    wanted = [t for t in inputs if t.requires_grad]
    return lambda: torch.autograd.grad(run(*inputs), wanted, upstream)


def launches(device: str, budget: Budget, size: tuple[int, int] = COMPILED, samples: int = 50) -> Rows:
    """Kernels that each call launches forward and in all, and microseconds of Python until the last is on its way."""
    from lmdis_fast.kernels.launch import recorded

    rows = []
    for call in calls(device, torch.float32, 10, size, False):
        with backends.use_backend("triton"):
            with recorded() as kernels:
                with torch.no_grad():
                    call.run(*call.leaves)
                forward = len(kernels)
                results_and_gradients(call, call.leaves)
                both = len(kernels) - forward
            with torch.no_grad():
                for _ in range(3):
                    call.run(*call.leaves)
                _wait(device)
                taken = []
                for _ in range(samples):
                    begun = time.perf_counter()
                    call.run(*call.leaves)
                    taken.append(time.perf_counter() - begun)
                    _wait(device)
        python = round(statistics.median(taken) * 1e6, 1)
        rows.append({"operator": call.name, "forward": forward, "both": both, "Python forward, us": python})
    return rows


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
