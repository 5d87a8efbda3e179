"""`python -m bench [ROOM ...]`: Markdown tables on standard output, progress on standard error."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path

from lmdis_fast import backends

from . import (
    batch_norm,
    ceilings,
    gaussian_splat,
    heatmap_moments,
    landmark_pool,
    resampling,
    tps_warp,
    training_step,
)
from .harness import Case, Comparison, compile_contenders
from .machine import available_cores, prepare_memory, this_machine
from .report import Report, judge
from .sizes import FULL, QUICK

ROOMS = {
    "heatmap_moments": heatmap_moments,
    "landmark_pool": landmark_pool,
    "gaussian_splat": gaussian_splat,
    "tps_warp": tps_warp,
    "batch_norm": batch_norm,
    "resampling": resampling,
}
TRAINING = "training_step"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("rooms", nargs="*", metavar="ROOM", help=f"{', '.join(ROOMS)} or {TRAINING}; default: all")
    add("--threads", metavar="N,M", help="default: 1 and all cores (with --quick: 1)")
    add("--seconds", type=float, metavar="S", help="to time a case with one number of threads (default: 1.5)")
    add("--select", default="", metavar="TEXT", help="only cases whose name or dtype contains TEXT")
    add("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes to compile")
    add(
        "--compile-only",
        action="store_true",
        help="fill inductor's cache with the compiled contenders, and end",
    )
    add("--fresh-memory", action="store_true", help="leave malloc as it is, so that page faults count")
    add("--stages", action="store_true", help="training step: wall-clock time of each stage too")
    add("--quick", action="store_true", help="a few small cases in half a minute, to see that all of it runs")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="of results.json, .md and .png (a complete run has a default)",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.rooms) - {*ROOMS, TRAINING}
    if unknown:
        parser.error(f"ROOM must be among {', '.join(ROOMS)}, {TRAINING}; got {', '.join(sorted(unknown))}")
    try:
        cores = available_cores()
        words = options.threads.split(",") if options.threads else [1] if options.quick else {1, cores}
        options.threads = sorted({int(word) for word in words})
    except ValueError:
        parser.error(f"--threads must be whole numbers with commas between, got {options.threads}")
    if options.threads[0] < 1:
        parser.error(f"--threads must be at least 1, got {options.threads[0]}")
    if options.compile_only and options.no_compile:
        parser.error("--compile-only and --no-compile exclude each other")
    options.complete = not (options.rooms or options.select or options.quick or options.no_compile)
    options.no_compile |= options.quick
    options.seconds = options.seconds if options.seconds is not None else 0.1 if options.quick else 1.5
    options.rooms = options.rooms or [*ROOMS, TRAINING]
    return options


def measure_operators(report: Report, cases: list[Case], options: argparse.Namespace) -> None:
    """Every case with every number of threads. The result of a case is printed when its operator is done."""
    by_threads = {c.threads: c for c in report.ceilings}
    begun = time.perf_counter()
    for number, case in enumerate(cases):
        left = ""
        if number:
            passed = time.perf_counter() - begun
            left = f", {passed / number * (len(cases) - number) / 60:.0f} min left"
        progress(f"{number + 1} of {len(cases)}{left}: {case.operator} {case.name} {case.dtype_name}")
        comparison = Comparison(case)
        for threads in options.threads:
            timings = comparison.run(threads, options.seconds, with_compile=not options.no_compile)
            work = comparison.problem.forward, comparison.problem.backward
            served = backends.last_backend(case.operator)
            report.results.append(judge(case, threads, timings, by_threads[threads], work, served))
        if number + 1 == len(cases) or cases[number + 1].operator != case.operator:
            print(report.tables(case.operator), flush=True)


def compile_beforehand(options: argparse.Namespace) -> None:
    """Fill inductor's cache in a process for each number of threads, side by side: g++ keeps one core busy."""
    command = [sys.executable, "-m", "bench", *options.rooms, "--select", options.select, "--compile-only"]
    progress(f"compiling for {', '.join(map(str, options.threads))} threads")
    begun = time.perf_counter()
    here = Path(__file__).parents[1]
    children = [subprocess.Popen([*command, "--threads", str(t)], cwd=here) for t in options.threads]
    codes = [child.wait() for child in children]
    if any(codes):
        raise SystemExit("bench: compiling failed; --no-compile leaves it out")
    progress(f"compiled in {time.perf_counter() - begun:.0f} s")


def progress(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def quieten() -> None:
    """Inductor's remarks about hardware that plays no part here."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*TensorFloat32.*")


def main() -> None:
    options = parse()
    malloc = prepare_memory(options.fresh_memory)
    quieten()
    sizes = QUICK if options.quick else FULL
    cases = [case for name, room in ROOMS.items() if name in options.rooms for case in room.cases(sizes)]
    cases = [case for case in cases if options.select in f"{case.operator} {case.name} {case.dtype_name}"]
    if options.compile_only:
        for case in cases:
            for threads in options.threads:
                compile_contenders(case, threads)
        return
    if cases and not options.no_compile:
        compile_beforehand(options)
    report = Report(this_machine(malloc))
    print(f"# Benchmarks\n\n{report.machine.describe()}", flush=True)
    if cases:
        progress("ceilings")
        short = 0.02 if options.quick else 0.15
        report.ceilings = [ceilings.measure(threads, short) for threads in options.threads]
        print(ceilings.table(report.ceilings), flush=True)
        measure_operators(report, cases, options)
    if TRAINING in options.rooms and not options.select:
        plan = training_step.QUICK if options.quick else training_step.FULL
        for preset in plan.presets:
            for precision in plan.precisions():
                progress(f"training step of {preset}, {precision}")
                row, text = training_step.measure(
                    preset, precision, max(options.threads), plan, stages=options.stages
                )
                report.training.append(row)
                report.training_text.append(text)
                print(text, flush=True)
    print(report.summary(), report.training_summary(), sep="\n", flush=True)
    folder = options.out
    if folder is None and options.complete:
        folder = Path(__file__).parent / "results" / report.machine.kind
        folder = folder.with_name(folder.name + "-fresh-memory") if options.fresh_memory else folder
    if folder is not None:
        report.write(folder)
        progress(f"written: {folder}")


if __name__ == "__main__":
    main()
