"""Every instruction set that this processor has, chosen by LMDIS_FAST_CPU_CAPABILITY, agrees with the definition."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lmdis_fast import backends

ROOT = Path(__file__).parent.parent
NEEDS = {
    "baseline": set(),
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
    "avx512_bf16": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_bf16"},
}


def processor_flags() -> set[str]:
    """What /proc/cpuinfo says that the first processor can, or nothing where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


def run(capability: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python command in a process that uses one instruction set, one thread and few examples."""
    if backends.UNAVAILABLE["cpu"] is not None:
        pytest.skip(f"backend cpu: {backends.UNAVAILABLE['cpu']}")
    environment = {
        **os.environ,
        "LMDIS_FAST_CPU_CAPABILITY": capability,
        "HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", "brief"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("capability", NEEDS)
def test_instruction_set_agrees_with_the_definition(capability: str) -> None:
    missing = NEEDS[capability] - processor_flags()
    if missing:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}")
    rooms = [
        f"tests/{room}/test_backends.py"
        for room in (
            "heatmap_moments",
            "landmark_pool",
            "gaussian_splat",
            "tps_warp",
            "batch_norm",
            "resampling",
        )
    ]
    done = run(capability, "-m", "pytest", "-p", "no:cacheprovider", "-k", "agrees or threads", *rooms)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "failed" not in done.stdout


def test_unknown_instruction_set_is_an_error() -> None:
    program = "import torch, lmdis_fast.ops as ops; ops.heatmap_moments(torch.zeros(1, 2, 3, 4))"
    done = run("sse", "-c", program)
    assert done.returncode != 0
    sentence = "LMDIS_FAST_CPU_CAPABILITY must be one of "
    assert sentence in done.stderr and "baseline on this processor, got 'sse'" in done.stderr
    if platform.machine() != "x86_64":
        assert sentence + "baseline on" in done.stderr
