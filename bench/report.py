"""What a run has found: Markdown tables, the summary against the targets, JSON and a picture."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .ceilings import Ceilings, Work
from .ceilings import table as ceilings_table
from .harness import SLOWER_MATTERS, Case, Kind, Spread, Timing
from .machine import Machine

Phase = Literal["forward", "both"]
PHASES: tuple[Phase, ...] = ("forward", "both")
PHASE_NAMES = {"forward": "forward", "both": "forward+backward"}


@dataclass(frozen=True)
class Target:
    """A ratio to reach: time of the fastest contender of a kind over the operator's, geometric mean over sizes."""

    operator: str
    phase: Phase
    against: Kind
    at_least: float


TARGETS = (
    Target("heatmap_moments", "forward", "eager", 6),
    Target("heatmap_moments", "both", "eager", 4),
    Target("heatmap_moments", "forward", "compile", 3),
    Target("heatmap_moments", "both", "compile", 2.2),
    Target("tps_warp", "forward", "kornia", 20),
    Target("tps_warp", "forward", "plain", 20),
    Target("tps_warp", "forward", "given grid", 0.5),
    Target("splat_landmarks", "both", "plain", 4),
    Target("splat_landmarks", "both", "compile", 2),
    Target("landmark_pool", "forward", "eager", 1.5),
    Target("landmark_pool", "both", "eager", 1.5),
)
COLOURS: dict[Kind, str] = {
    "eager": "C0",
    "plain": "C1",
    "compile": "C2",
    "kornia": "C3",
    "given grid": "C7",
    "dsntnn": "C4",
}
"""Of the picture's bars."""
LEAST_SHARE_OF_CEILING = 0.5
LARGEST_OUTSIDE = 0.08
"""Share of the training step outside convolution, normalisation, activation and optimiser."""


@dataclass(frozen=True)
class Result:
    """One case with a number of threads.

    ``shares`` are, for each phase, the ceiling's time over the measured one, and the ceiling that binds.
    """

    operator: str
    case: str
    dtype: str
    threads: int
    main: bool
    backend: str | None
    timings: list[Timing]
    shares: dict[str, tuple[float, str]]

    @property
    def title(self) -> str:
        """``K=10 64px float32, 1 thread``."""
        return f"{self.case} {self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}"

    def ours(self, phase: Phase) -> Spread | None:
        """This package's time."""
        own = next(t for t in self.timings if t.kind == "ours")
        return own.forward if phase == "forward" else own.both

    def ratio(self, phase: Phase, kinds: Sequence[Kind]) -> float | None:
        """The fastest of these contenders' time over this package's; None where there is none."""
        ours = self.ours(phase)
        times = [s.median for t in self.timings if t.kind in kinds and (s := getattr(t, phase)) is not None]
        return min(times) / ours.median if times and ours is not None else None


def judge(
    case: Case,
    threads: int,
    timings: list[Timing],
    ceilings: Ceilings,
    work: tuple[Work, Work | None],
    backend: str | None,
) -> Result:
    """A result with its share of the ceilings."""
    ours = next(t for t in timings if t.kind == "ours")
    forward, backward = work
    predicted, binding = ceilings.predict(forward)
    shares: dict[str, tuple[float, str]] = {}
    if ours.forward is not None:
        shares["forward"] = predicted / ours.forward.median, binding
    if ours.both is not None and backward is not None:
        second, second_binding = ceilings.predict(backward)
        shares["both"] = (predicted + second) / ours.both.median, second_binding
    return Result(case.operator, case.name, case.dtype_name, threads, case.main, backend, timings, shares)


@dataclass
class Report:
    """Everything that a run has found."""

    machine: Machine
    ceilings: list[Ceilings] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    training: list[dict[str, Any]] = field(default_factory=list)
    training_text: list[str] = field(default_factory=list)

    def operators(self) -> list[str]:
        """Names in the order of the run."""
        return list(dict.fromkeys(r.operator for r in self.results))

    def of(self, operator: str) -> list[Result]:
        """Its results, by dtype and threads."""
        found = [r for r in self.results if r.operator == operator]
        return sorted(found, key=lambda r: (not r.main, *_order((r.dtype, r.threads))))

    def tables(self, operator: str) -> str:
        """Times of all contenders, forward and with backward."""
        results = self.of(operator)
        parts = [operator_table(operator, phase, results, self.machine.malloc) for phase in PHASES]
        return "\n".join(part for part in parts if part)

    def summary(self) -> str:
        """Geometric means, worst cases, and whether the targets are met."""
        if not self.results:
            return ""
        groups = sorted({(r.dtype, r.threads) for r in self.results}, key=_order)
        rows = [row for operator in self.operators() for row in summary_rows(self.of(operator), groups)]
        titles = [f"{dtype} {threads}t" for dtype, threads in groups]
        head = ["operator", "phase", "against", *titles, "all", "worst", "target"]
        lines = [
            "\n## Summary\n",
            "Geometric means of (contender's time / lmdis_fast's) over the main cases; the fastest contender of a kind"
            " counts in each case. The worst is the lowest single ratio, extra cases included.\n",
            *markdown(head, rows, left=3),
            "",
            *self.verdicts(),
        ]
        return "\n".join(lines)

    def verdicts(self) -> list[str]:
        """One line for each demand that is no geometric mean."""
        lines = []
        compared = [
            (ratio, f"{r.operator} {PHASE_NAMES[phase]} {r.title}")
            for r in self.results
            for phase in PHASES
            if (ratio := r.ratio(phase, SLOWER_MATTERS)) is not None
        ]
        if compared:
            slower = sorted(c for c in compared if c[0] < 1)
            lines.append(
                f"- Slower than a contender: {len(slower)} of {len(compared)} "
                f"({verdict(not slower)}; the worst: {min(compared)[1]}, {min(compared)[0]:.2f})"
            )
            lines += [f"  - {name}: {ratio:.2f}" for ratio, name in slower[1:20]]
        shares = [
            (share, f"{r.operator} {PHASE_NAMES[phase]} {r.title}, {binding}")
            for r in self.results
            for phase, (share, binding) in r.shares.items()
        ]
        if shares:
            below = [s for s in shares if s[0] < LEAST_SHARE_OF_CEILING]
            lines.append(
                f"- Below {LEAST_SHARE_OF_CEILING:.0%} of the ceiling: {len(below)} of {len(shares)} "
                f"({verdict(not below)}; the lowest: {min(shares)[1]}, {min(shares)[0]:.0%})"
            )
        return lines

    def training_summary(self) -> str:
        """The training step's figures, one row each."""
        if not self.training:
            return ""
        rows = [
            [
                f"{row['preset']} {row['precision']}",
                str(row["threads"]),
                f"{row['images_per_second']['reference']:.1f}",
                f"{row['images_per_second']['free']:.1f}",
                f"{row['outside']['reference']:.1%}",
                f"{row['outside']['free']:.1%}",
                verdict(row["outside"]["free"] <= LARGEST_OUTSIDE),
            ]
            for row in self.training
        ]
        head = ["training step", "threads", "images/s plain", "images/s", "outside plain", "outside"]
        head.append(f"at most {LARGEST_OUTSIDE:.0%}")
        return "\n".join(["\n## Training step\n", *markdown(head, rows, left=1)])

    def markdown(self) -> str:
        """The whole report."""
        parts = [f"# Benchmarks\n\n{self.machine.describe()}"]
        parts += [self.summary(), self.training_summary()]
        if self.ceilings:
            parts.append(ceilings_table(self.ceilings))
        parts += [self.tables(operator) for operator in self.operators()]
        return "\n".join(part for part in [*parts, *self.training_text] if part) + "\n"

    def write(self, folder: Path) -> None:
        """results.json, results.md and results.png."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "machine": dataclasses.asdict(self.machine),
            "ceilings": [dataclasses.asdict(c) for c in self.ceilings],
            "results": [dataclasses.asdict(r) for r in self.results],
            "training": self.training,
        }
        (folder / "results.json").write_text(line_by_line(values))
        (folder / "results.md").write_text(self.markdown())
        if self.results:
            draw(self, folder / "results.png")


def line_by_line(values: dict[str, Any]) -> str:
    """JSON with a line for each entry of a list: one result can be found, and two runs compared."""
    parts = []
    for name, value in values.items():
        entries = ",\n".join(map(json.dumps, value)) if isinstance(value, list) else json.dumps(value)
        parts.append(f"{json.dumps(name)}: " + (f"[\n{entries}\n]" if isinstance(value, list) else entries))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def verdict(met: bool) -> str:
    """In words."""
    return "met" if met else "not met"


def markdown(head: list[str], rows: list[list[str]], *, left: int) -> list[str]:
    """Lines of a table whose first columns are text."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("| " + " | ".join("---" if i < left else "---:" for i in range(len(head))) + " |")
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def operator_table(operator: str, phase: Phase, results: list[Result], malloc: str) -> str:
    """One row for each case: milliseconds of every contender and, in brackets, how many times slower it is."""
    results = [r for r in results if r.ours(phase) is not None]
    if not results:
        return ""
    names = list(dict.fromkeys(t.name for r in results for t in r.timings if t.kind != "ours"))
    rows = []
    for result in results:
        ours = result.ours(phase)
        assert ours is not None
        share, binding = result.shares[phase]
        spread = f"{1e3 * ours.median:.2f} ({1e3 * ours.low:.2f}-{1e3 * ours.high:.2f})"
        row = [result.case, result.dtype, str(result.threads), spread, f"{share:.0%}", binding]
        by_name = {t.name: getattr(t, phase) for t in result.timings}
        for name in names:
            time = by_name.get(name)
            row.append(f"{1e3 * time.median:.2f} ({time.median / ours.median:.1f}x)" if time else "")
        rows.append(row)
    served = ", ".join(sorted({str(r.backend) for r in results}))
    head = ["case", "dtype", "threads", "lmdis_fast (20-80 %)", "of ceiling", "binds", *names]
    return "\n".join(
        [
            f"\n### {operator}, {PHASE_NAMES[phase]}, ms\n",
            f"Backend: {served}. malloc: {malloc}.\n",
            *markdown(head, rows, left=2),
        ]
    )


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers, at least one."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def summary_rows(results: list[Result], groups: list[tuple[str, int]]) -> list[list[str]]:
    """One operator's rows: for each phase and kind of contender the means by group, overall, the worst, the target."""
    rows = []
    kinds: list[Kind] = list(dict.fromkeys(t.kind for r in results for t in r.timings if t.kind != "ours"))
    for phase in PHASES:
        for kind in kinds:
            found = [(r, ratio) for r in results if (ratio := r.ratio(phase, [kind])) is not None]
            if not found:
                continue
            # an operator without main cases stands beside the targets with all that it has
            main = [f for f in found if f[0].main] or found
            cells = []
            for group in groups:
                values = [ratio for r, ratio in main if (r.dtype, r.threads) == group]
                cells.append(f"{geometric_mean(values):.2f}" if values else "")
            overall = geometric_mean(ratio for _, ratio in main)
            result, lowest = min(found, key=lambda f: f[1])
            row = [results[0].operator, PHASE_NAMES[phase], kind, *cells, f"{overall:.2f}"]
            goal = target_of(results[0].operator, phase, kind) if main[0][0].main else None
            word = "" if goal is None else f"{goal:g}: {verdict(overall >= goal)}"
            rows.append([*row, f"{lowest:.2f} ({result.title})", word])
    return rows


def target_of(operator: str, phase: Phase, kind: Kind) -> float | None:
    """The ratio to reach, where there is one."""
    asked = (t.at_least for t in TARGETS if (t.operator, t.phase, t.against) == (operator, phase, kind))
    return next(asked, None)


def draw(report: Report, path: Path) -> None:
    """Bars: for each main case how many times longer the fastest contender of a kind takes, logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = {o: found for o in report.operators() if (found := [r for r in report.of(o) if r.main])}
    if not shown:
        return
    longest = max(len(results) for results in shown.values())
    size = (4 * len(shown), 2 * (1 + 0.15 * longest))
    figure, axes = pyplot.subplots(len(PHASES), len(shown), figsize=size, squeeze=False, layout="constrained")
    for column, (operator, results) in enumerate(shown.items()):
        for row, phase in enumerate(PHASES):
            draw_ratios(axes[row][column], [r for r in results if r.ours(phase) is not None], phase)
            axes[row][column].set_title(f"{operator}, {PHASE_NAMES[phase]}", fontsize=9)
    figure.suptitle(report.machine.describe().split("\n")[0], fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def draw_ratios(plot: Any, results: list[Result], phase: Phase) -> None:
    """One panel; empty where this phase was not timed."""
    if not results:
        plot.set_axis_off()
        return
    kinds: list[Kind] = list(dict.fromkeys(t.kind for r in results for t in r.timings if t.kind != "ours"))
    kinds = [k for k in kinds if any(r.ratio(phase, [k]) is not None for r in results)]
    for number, kind in enumerate(kinds):
        places = [i + 0.8 * (number + 0.5) / len(kinds) for i in range(len(results))]
        lengths = [(r.ratio(phase, [kind]) or math.nan) - 1 for r in results]  # bars begin at 1
        plot.barh(places, lengths, 0.8 / len(kinds), left=1, label=kind, color=COLOURS[kind])
    short = {"float32": "f32", "bfloat16": "bf16"}
    labels = [f"{r.case} {short.get(r.dtype, r.dtype)} {r.threads}t" for r in results]
    plot.set_yticks([i + 0.4 for i in range(len(results))], labels, fontsize=6)
    plot.set_xscale("log")
    ticks = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    low, high = plot.get_xlim()
    plot.set_xticks([t for t in ticks if low <= t <= high], minor=False)
    plot.set_xticks([], minor=True)
    plot.xaxis.set_major_formatter("{x:g}")
    plot.axvline(1, color="black", linewidth=0.8)
    plot.set_ylim(len(results), -0.2)
    plot.set_xlabel("contender's time / lmdis_fast's", fontsize=7)
    plot.legend(fontsize=6)


def _order(group: tuple[str, int]) -> tuple[bool, str, int]:
    """float32 first."""
    return group[0] != "float32", *group
