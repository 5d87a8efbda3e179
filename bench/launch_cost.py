"""`python -m bench.launch_cost`: Python's share of a call on the Triton backend, measured without a GPU.

A stand-in for Triton's driver compiles kernels as for an H100 and then launches nothing, so that a call costs what its
Python costs: checks, choice of the backend, results' memory, and the way to the driver. CPU tensors stand in for those
of a GPU, whose memory torch hands out a little more slowly; `bench/gpu_check.py` measures the same on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import timeit
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget

from lmdis_fast import backends
from lmdis_fast.kernels import launch

from .gpu_calls import calls
from .machine import prepare_memory, this_machine

CALLS, REPEATS = 100, 60
PASSES = 5
"""Over all operators, the lowest of which counts: a machine may be slow for seconds on end."""
OPERATORS = {
    "heatmap_moments": "heatmap_moments",
    "landmark_pool": "landmark_pool",
    "gaussian_pool": "landmark_pool",
    "render_gaussians": "gaussian_splat",
    "splat_landmarks": "gaussian_splat",
    "tps_warp": "tps_warp",
}


class _Utilities:
    """What Triton asks of a driver to load a kernel: a module, a function, registers, spills, threads."""

    def load_binary(self, *_: object) -> tuple[int, int, int, int, int]:
        return 1, 2, 64, 0, 1024

    def unload_module(self, *_: object) -> None:
        pass

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "max_num_regs": 65536, "warpSize": 32}


class _Launcher:
    """Launches nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, *_: object) -> None:
        pass


class _Driver:
    """Of a GPU that is not there."""

    utils, launcher_cls = _Utilities(), _Launcher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """Within the context operators on CPU tensors take the way of a GPU, whose driver launches nothing.

    Raises:
        RuntimeError: in Triton's interpreter.
    """
    if launch.interpreting():
        raise RuntimeError("bench.launch_cost: unset TRITON_INTERPRET, under which kernels are not launched")
    kernels: dict[str, tuple[backends.Kernel, backends.WhyNot | None]] = {}
    for operator, room in OPERATORS.items():
        module = importlib.import_module(f"lmdis_fast.kernels.{room}")
        for name in (operator, operator + "_backward"):
            kernels[name] = (getattr(module, name), None)
    triton.runtime.driver.set_active(_Driver())
    with (
        mock.patch.dict(backends.UNAVAILABLE, triton=None),
        mock.patch.dict(backends._kernels, triton=kernels),
        mock.patch.object(launch, "current_device", lambda: None),
        mock.patch.object(launch, "current_stream", lambda _: 0),
        backends.use_backend("triton"),
    ):
        yield


def microseconds(call: Callable[[], object]) -> float:
    """The fastest of several times many calls: what disturbs a processor only ever adds."""
    return min(timeit.repeat(call, number=CALLS, repeat=REPEATS)) / CALLS * 1e6


def measure() -> list[dict[str, Any]]:
    """One row an operator: kernels launched, microseconds without and with autograd's record."""
    rows: dict[str, dict[str, Any]] = {}
    with standing_in():
        for _ in range(PASSES):
            for call in calls("cpu", torch.float32, 10, (64, 64), False):

                def forward(call: Any = call) -> None:
                    call.run(*call.leaves)

                forward()  # compiles
                with torch.no_grad(), launch.recorded() as kernels:
                    forward()
                with torch.no_grad():
                    alone = microseconds(forward)
                found = {"forward, us": alone, "with autograd's record, us": microseconds(forward)}
                row = rows.setdefault(call.name, {"operator": call.name, "kernels": len(kernels), **found})
                row.update({name: min(row[name], figure) for name, figure in found.items()})
    return [{k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()} for row in rows.values()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.launch_cost", description=__doc__)
    parser.parse_args()
    print(f"{this_machine(prepare_memory(True)).describe()}; triton {triton.__version__}\n")
    rows = measure()
    print("| " + " | ".join(rows[0]) + " |\n" + "| --- " * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()
