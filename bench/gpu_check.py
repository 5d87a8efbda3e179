"""`python bench/gpu_check.py`: everything that can only be known with a GPU, in one command within eight minutes.

Checks every operator's GPU kernels against the float64 definition, steps of training with each backend, that kernels
repeat their bits and can be captured in a CUDA graph, looks for memory errors where compute-sanitizer is installed, and times them. Installs nothing; in a checkout
that has no CUDA extension it compiles one beside the sources, for this GPU alone, where nvcc is. Needs torch 2.11 or newer
and, for Triton's kernels, triton 3.6 or newer. Writes one Markdown file and one JSON file.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

if not __package__:  # run as a file
    import runpy

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    runpy.run_module("bench.gpu_check", run_name="__main__", alter_sys=True)
    sys.exit()

from . import gpu_build, gpu_parity, gpu_sanitizer, gpu_stages, gpu_training
from .gpu_budget import Budget, Outcome, Stage, run_stages

LEAST_TORCH = (2, 11)
LEAST_TRITON = (3, 6)
MOST_PROCESSES = 15
MEMORY_OF_A_PROCESS = 2**30, 3 * 2**30
"""Bytes of the GPU's memory and of the machine's, of which there has to be twice as much."""
WORDS = 300
"""Characters of a failure in the table of stages and on the screen."""


def processes_for(device: str) -> int:
    """One for each processor, because Triton compiles in them, as far as memory allows."""
    of_gpu, of_machine = MEMORY_OF_A_PROCESS
    bounds = [MOST_PROCESSES, len(os.sched_getaffinity(0))]
    bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (2 * of_machine))
    if torch.cuda.is_available():
        bounds.append(torch.cuda.get_device_properties(device).total_memory // (2 * of_gpu))
    return max(min(bounds), 1)


def stages(device: str) -> list[Stage]:
    """What is done, the most telling first."""

    def stage(name: str, least: float, most: float, run: Any, **options: Any) -> Stage:
        return Stage(name, least, most, functools.partial(run, device, **options))

    processes = processes_for(device)

    return [
        stage("Machine", 0, 30, gpu_stages.describe),
        stage("Against the float64 definition", 20, 170, gpu_parity.parity, processes=processes),
        stage("Training steps", 30, 90, gpu_training.training),
        stage("Timings", 30, 120, gpu_stages.timings),
        stage("Launches and Python", 5, 20, gpu_stages.launches),
        stage("The same bits every time", 10, 30, gpu_stages.repeatable),
        stage("CUDA graphs", 10, 30, gpu_stages.graphs),
        stage("Memory errors and races", 30, 60, gpu_sanitizer.sanitizer),
        stage("Timings beside torch.compile", 60, 240, gpu_stages.timings, compiled=True),
    ]


def version_of(text: str) -> tuple[int, ...]:
    """``(2, 11)`` of ``"2.11.0+cu130"``."""
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2])


def missing() -> str | None:
    """What this machine lacks, as a sentence that says what to do, or None."""
    if version_of(torch.__version__) < LEAST_TORCH:
        return f"torch {torch.__version__} is too old: 2.11 or newer is needed"
    if not torch.cuda.is_available():
        return "torch sees no GPU: run this where torch.cuda.is_available() is true"
    try:
        import triton
    except ImportError:
        return "triton is missing: pip install triton"
    if version_of(triton.__version__) < LEAST_TRITON:
        return f"triton {triton.__version__} is too old: 3.6 or newer is needed"
    return None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table, with all columns that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row.get(name, "")) for name in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) and 0 < abs(value) < 0.01 else str(value)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The report."""
    parts = ["# GPU check", "", table([_line(outcome) for outcome in outcomes])]
    for outcome in outcomes:
        parts += ["", f"## {outcome.name}", ""]
        if outcome.state != "done":
            parts.append(f"{outcome.state}: {outcome.why}")
        if isinstance(outcome.found, str):
            parts += ["", "```", outcome.found.strip(), "```"]
        elif isinstance(outcome.found, dict):
            parts.append(table([{"what": k, "is": v} for k, v in outcome.found.items()]))
        elif outcome.found:
            parts += _tables(outcome.found)
    return "\n".join(parts) + "\n"


def _line(outcome: Outcome) -> dict[str, Any]:
    return {
        "stage": outcome.name,
        "state": outcome.state,
        "seconds": round(outcome.seconds, 1),
        "why": outcome.why.partition("\n")[0][:WORDS],  # whole in its section
    }


def _tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One table for each set of columns, so that operators with other contenders have their own."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    return [part for group in groups.values() for part in (table(group), "")][:-1]


def save(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Both files, each put in place whole."""
    folder.mkdir(parents=True, exist_ok=True)
    found = json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=1)
    for name, text in (("gpu_check.md", markdown(outcomes)), ("gpu_check.json", found)):
        part = folder / f"{name}.part"
        part.write_text(text)
        part.replace(folder / name)


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 where all stages that were begun are done, 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python bench/gpu_check.py", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="limit for all of it (default: 8)")
    parser.add_argument("--device", default="cuda", help="(default: cuda)")
    parser.add_argument(
        "--out", type=Path, help="folder of gpu_check.md and gpu_check.json (default: bench/results/<GPU>)"
    )
    parser.add_argument("--built", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    budget = Budget(60 * options.minutes)
    lack = missing()
    if lack is not None:
        print(f"gpu_check: {lack}", file=sys.stderr)
        return 2
    if not options.built and gpu_build.is_wanted():
        built = gpu_build.build(options.device, budget)
        given = sys.argv[1:] if arguments is None else arguments
        left = ["--minutes", f"{budget.left / 60:.3f}", "--built", built]
        # a library is found when the package is imported: begin again with the time that is left
        os.execv(sys.executable, [sys.executable, __file__, *given, *left])
    card = gpu_stages.card_name(options.device).lower().replace(" ", "-")
    folder = options.out or Path(__file__).parent / "results" / card

    def after_each(outcomes: list[Outcome]) -> None:
        save(folder, outcomes)
        last = outcomes[-1]
        print(
            f"{last.name}: {last.state} {_line(last)['why']} ({last.seconds:.0f} s, {budget.left:.0f} s left)",
            file=sys.stderr,
        )

    first = [Stage("Build of the CUDA extension", 0, 0, lambda _: options.built)] if options.built else []
    outcomes = run_stages([*first, *stages(options.device)], budget, after_each)
    print(markdown(outcomes))
    print(f"written to {folder}", file=sys.stderr)
    return int(any(outcome.state == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
