"""A prepared launch hands tensors to the machine code that was compiled for tensors like them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

PROGRAM = """
import torch
from bench.launch_cost import standing_in
from lmdis_fast import ops
from lmdis_fast.kernels import launch

given = []

def run(self, device, tensors, launched=launch.Launch._launch):
    launched(self, device, tensors)
    for key, compiled in self._compiled.items():
        names = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
        signature = list(compiled.src.signature.values())
        for kind, what in zip(signature, key[1:]):
            if what is not None:
                assert names[what[0]] == kind, (self.kernel.__name__, kind, what)
    given.append(len(self._compiled))

launch.Launch._launch = run
with standing_in(), torch.no_grad():
    maps = torch.randn(1, 3, 8, 8)
    shifted = torch.randn(3 * 64 + 1)[1:].view(1, 3, 8, 8)
    for features in (maps, shifted, maps, shifted):
        for points in (torch.float32, torch.bfloat16, torch.float32):
            ops.gaussian_pool(features, torch.zeros(1, 2, 2, dtype=points), torch.ones(1, 2))
print("most machine codes of a plan:", max(given))
"""


def test_dtypes_and_alignment_choose_the_machine_code() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "most machine codes of a plan: 4", done.stderr[-2000:]
