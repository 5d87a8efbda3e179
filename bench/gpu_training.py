"""Training steps on a GPU for `gpu_check`: each backend in a process of its own, because a fault there ends all that follows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any, Literal

from .gpu_budget import Budget
from .gpu_build import run_within
from .gpu_parity import Rows, Wrong, gpu_backends

Preset = Literal["small-64", "paper-80"]
PRESETS: tuple[Preset, ...] = ("small-64", "paper-80")
#: The first loss of two backends, in mixed precision, differs by no more than this part of it.
TOLERANCE = 0.02
LAST = 1500
"""Characters of what a process said last that go into the report."""


def training(device: str, budget: Budget, presets: tuple[Preset, ...] = PRESETS, steps: int = 30) -> Rows:
    """Images a second, the first loss and the means of both halves of each preset, with plain PyTorch and with each backend.

    Raises:
        Wrong: where a process fails (told by a second one in which no launch runs ahead of Python), or where a
            first loss is not that of plain PyTorch.
    """
    rows: Rows = []
    wrong: list[str] = []
    for preset in presets:
        for backend in ("reference", *gpu_backends(device)):
            if budget.left < 5:
                rows.append({"preset": f"time was up before {preset} with {backend}"})
                continue
            found = _in_a_process(preset, device, backend, steps, budget)
            rows.append({"preset": preset, "backend": backend, **found})
            plain = next(row for row in rows if row.get("preset") == preset)
            if "failed" in found:
                wrong.append(f"{preset}, {backend}: {found['failed']}")
            elif not _near(found.get("first loss"), plain.get("first loss")):
                wrong.append(
                    f"{preset}, {backend}: first loss {found['first loss']}, {plain['first loss']} expected"
                )
    if wrong:
        raise Wrong("; ".join(wrong) + f"; all: {json.dumps(rows)}")
    return rows


def _near(found: float | None, expected: float | None) -> bool:
    """Whether two losses agree; one that time was up for agrees with all."""
    return found is None or expected is None or abs(found - expected) <= TOLERANCE * abs(expected)


def _in_a_process(preset: Preset, device: str, backend: str, steps: int, budget: Budget) -> dict[str, Any]:
    program = f"from bench.gpu_training import train; train({preset!r}, {device!r}, {steps})"
    environment = {**os.environ, "LMDIS_FAST_BACKEND": backend}
    said = ""
    for more in ({}, {"CUDA_LAUNCH_BLOCKING": "1"}):
        try:
            done = run_within(max(budget.left, 1), [sys.executable, "-c", program], {**environment, **more})
        except subprocess.TimeoutExpired:
            return {"failed": said} if said else {"images/s": "not finished in the time there was"}
        if done.returncode == 0:
            if said:
                return {"failed": f"{said} (not with CUDA_LAUNCH_BLOCKING=1)"}
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found
        said = done.stderr.strip()[-LAST:] or f"ended with {done.returncode}"
    return {"failed": f"with CUDA_LAUNCH_BLOCKING=1: {said}"}


def train(preset: Preset, device: str, steps: int, images: int = 256) -> None:
    """Some steps of a preset on built-in images, as `lmdis_fast.train` makes them; prints what was found as JSON."""
    from lmdis_fast.train import prepare_torch

    from .training_step import Trainer

    trainer = Trainer(preset, "fp32" if device == "cpu" else "bf16", 0, images, device)
    prepare_torch(trainer.config)

    def loss_of(count: int) -> float:
        """The mean of so many steps, of which none waits for the device, as in training."""
        for _ in range(count):
            trainer.step()
        loss = trainer.meter.means()["loss"]  # waits
        trainer.meter.reset()
        return loss

    first, warming = loss_of(1), loss_of(max(steps // 2 - 1, 1))
    begun = time.perf_counter()
    timed = max(steps - steps // 2, 1)
    last = loss_of(timed)
    speed = timed * trainer.config.batch_size / (time.perf_counter() - begun)
    found = {
        "images/s": round(speed, 1),
        "first loss": first,
        "loss, first half": warming,
        "loss, second half": last,
    }
    print(json.dumps(found))
