"""The CUDA extension for `gpu_check`, compiled beside the sources where a checkout has none and nvcc is at hand."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from .gpu_budget import Budget

ROOT = Path(__file__).resolve().parents[1]
#: Of the time that is left; the checks need the rest, and Triton's kernels can be checked without.
SHARE = 0.5


def is_wanted() -> bool:
    """Whether this is a checkout without the extension, with torch for CUDA and an nvcc."""
    if importlib.util.find_spec("lmdis_fast._C_cuda") is not None or torch.version.cuda is None:
        return False
    from torch.utils.cpp_extension import CUDA_HOME

    return (
        (ROOT / "setup.py").exists() and CUDA_HOME is not None and (Path(CUDA_HOME) / "bin" / "nvcc").exists()
    )


def run_within(
    limit: float, command: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command; what is not done within the limit ends with all that it has started, compilers too."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def build(device: str, budget: Budget) -> str:
    """Compile for this GPU alone, with all processors; what became of it, in a sentence."""
    major, minor = torch.cuda.get_device_capability(device)
    environment = {
        **os.environ,
        "LMDIS_FAST_BUILD": "cuda",
        "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}",
        "MAX_JOBS": str(os.cpu_count() or 1),
    }
    before, limit = budget.left, SHARE * budget.left
    print(f"building the CUDA extension for {major}.{minor}, {limit:.0f} s at most", file=sys.stderr)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    try:
        done = run_within(limit, command, environment)
    except subprocess.TimeoutExpired:
        return f"not done within {limit:.0f} s: what follows is without it"
    if done.returncode != 0:
        return f"failed: {(done.stderr or done.stdout).strip()[-500:]}"
    return f"done in {before - budget.left:.0f} s for {major}.{minor}"
