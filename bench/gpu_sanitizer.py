"""compute-sanitizer over the operators' kernels for `gpu_check`: memory that is not theirs, and threads that race."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import torch

from lmdis_fast import backends

from .gpu_budget import Budget
from .gpu_build import run_within
from .gpu_calls import calls
from .gpu_parity import Rows, Wrong, gpu_backends, results_and_gradients
from .gpu_stages import COMPILED

FOUND = 9
"""What the tool ends with where it has found something."""
_RACE = re.compile(
    r"Error: Race reported between (Write access at \S+ in \S+\.py:\d+)\s+=+\s+and (.*?) \[(\d+) hazards?\]"
)


def sanitizer(device: str, budget: Budget) -> Rows:
    """memcheck and racecheck on one small call of each operator, where the tool is installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return [{"tool": "compute-sanitizer", "result": "not installed: left out"}]
    rows = []
    program = "from bench.gpu_sanitizer import small_calls; small_calls()"
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, "--error-exitcode", str(FOUND), sys.executable, "-c", program]
        if budget.left < 5:
            rows.append({"tool": name, "result": "time was up"})
            continue
        # within a block that torch keeps for several tensors a wrong address would pass
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        try:
            done = run_within(budget.left, command, environment)
        except subprocess.TimeoutExpired:
            rows.append({"tool": name, "result": "not finished in the time there was"})
            continue
        copies = replicated_writes(done.stdout) if done.returncode == FOUND else 0
        if done.returncode != 0 and not copies:  # the program's own status where that failed
            raise Wrong(f"{name}: {done.stdout[-1500:]} {done.stderr[-500:]}")
        rows.append({"tool": name, "result": f"{copies} replicated writes" if copies else "nothing found"})
    return rows


def replicated_writes(report: str) -> int:
    """Races in which threads of a Triton kernel write one place by one instruction; 0 where there is anything else.

    Triton keeps an operand of ``tl.dot`` that is smaller than the program in several threads at once, and each writes
    its copy of a value to shared memory. Kernels in CUDA C++ (whose source is no .py) have no such excuse.
    """
    races = _RACE.findall(report)
    alike = all(one == other for one, other, _ in races)
    only = len(races) == len(re.findall(r"=+ (?:Error|Warning):", report))
    return sum(int(count) for _, _, count in races) if alike and only else 0


def small_calls(device: str = "cuda") -> None:
    """One call of each operator and backend, forward and backward."""
    for call in calls(device, torch.float32, 10, COMPILED, False):
        for backend in gpu_backends(device):
            with backends.use_backend(backend):
                results_and_gradients(call, call.leaves)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
