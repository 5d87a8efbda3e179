"""How much memory an operator takes beyond its inputs and outputs: at most one float per pixel per image."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmdis_fast import backends

from .cases import CASES, Case

#: 8 images of 256 x 256 pixels, 30 landmarks (31 channels with the background), 8 features; float32.
BATCH, LANDMARKS, FEATURES, SIDE = 8, 30, 8, 256
ALLOWED = 4 * BATCH * SIDE * SIDE
#: Stacks, the scratch memory of a thread, pages that the allocator rounds up to.
CONSTANT = 256 << 10
MEASURED = {
    "leaky",
    "channels-covariance",
    "pixels",
    "marginals",
    "channels",
    "gaussian",
    "sum",
    "normalized",
    "splat",
    "own-centers-zeros",
    "before-shared",
}
MEASURED_CASES = [case for case in CASES if case.name in MEASURED]

PROGRAM = f"""
import json, sys
import torch
from lmdis_fast import backends
from tests.cases import RecordedCalls, Shape
from tests.test_memory import MEASURED_CASES

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def calls(case, shape):
    sized = case.at(shape)
    with RecordedCalls() as recorded:
        tensors = sized.tensors(torch.float32)
        results = sized.results(*tensors)
        torch.autograd.grad(results, tensors, [torch.ones_like(r) for r in results])
    return [(f, [arranged(a) for a in args]) for f, args in recorded.calls]

def arranged(a):
    if not isinstance(a, torch.Tensor):
        return a
    a = a.detach()
    last = sys.argv[1] == "channels_last" and a.dim() == 4
    return a.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

def extra(overload, args):
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    found = overload(*args)
    peak = status("VmHWM")
    found = [found] if isinstance(found, torch.Tensor) else found
    return peak - before - sum(t.untyped_storage().nbytes() for t in found)

torch.set_num_threads(1)
probe = torch.zeros(1 << 20)
answer = {{"probe": [extra(lambda x: x.mul(2).sum(), [probe])]}}
with backends.use_backend("cpu"), torch.no_grad():
    for case in MEASURED_CASES:
        if not backends.can_run_cpu(case.operator):
            continue
        with torch.enable_grad():
            small = calls(case, Shape(1, {LANDMARKS}, {FEATURES}, 64, 64))
        for overload, args in small:
            overload(*args)  # code and thread-local memory are paged in
        with torch.enable_grad():
            large = calls(case, Shape({BATCH}, {LANDMARKS}, {FEATURES}, {SIDE}, {SIDE}))
        answer[case.operator + " " + case.name] = [extra(*call) for call in large]
        del large
print(json.dumps(answer))
"""


@functools.cache
def measured(layout: str) -> dict[str, list[int]]:
    """Bytes beyond inputs and outputs of each case's forward and backward operator, in one process with one thread."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"the peak of resident memory cannot be reset here: {error}")
    # Every larger block is mapped afresh and returned, so that none is taken from what lies free already.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "32768",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    command = [sys.executable, "-c", PROGRAM, layout]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[int]] = json.loads(done.stdout)
    return answer


def test_measurement_sees_a_temporary() -> None:
    (extra,) = measured("contiguous")["probe"]
    assert 0.9 * (4 << 20) < extra < 1.2 * (4 << 20)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", MEASURED_CASES, ids=lambda case: f"{case.operator}-{case.name}")
def test_extra_memory_is_one_float_per_pixel_at_most(case: Case, layout: str) -> None:
    reason = backends.why_not("cpu", case.operator)
    if reason is not None:
        pytest.skip(f"{case.operator}: backend cpu: {reason}")
    forward, backward = measured(layout)[f"{case.operator} {case.name}"]
    assert forward <= ALLOWED + CONSTANT, f"forward: {forward / ALLOWED:.2f} floats per pixel and image"
    assert backward <= ALLOWED + CONSTANT, f"backward: {backward / ALLOWED:.2f} floats per pixel and image"
