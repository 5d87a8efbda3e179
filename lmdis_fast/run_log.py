"""What a run tells: a progress line with rate and time left, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from .config import TrainConfig

PLAIN_SECONDS = 20.0
"""Without a terminal, a line this often."""


class _Left(ProgressColumn):
    """Time left, from the fraction done and the time taken by this process."""

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("left")
        return Text("--:--" if seconds is None else duration(seconds), style="cyan")


def duration(seconds: float) -> str:
    """1:02:03 or 02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes:02d}:{second:02d}"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, later ones replacing earlier ones of the same step; a torn last line is
    passed over."""
    lines: dict[int, dict[str, Any]] = {}
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        lines[int(values["step"])] = values
    return [lines[step] for step in sorted(lines)]


class RunLog:
    """Writes a run's progress. Use as a context manager."""

    def __init__(self, folder: Path, config: TrainConfig, step: int) -> None:
        self.folder, self.config = folder, config
        self.started = time.monotonic()
        self.first_fraction: float | None = None
        self.last_line = 0.0
        # What came after the checkpoint that this run goes on from will be written again.
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        self.file = open(folder / "metrics.jsonl", "w", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)
        for line in kept:
            self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        self.board = None
        if config.log.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        self.console = Console(file=sys.stderr)
        self.progress: Progress | None = None
        if self.console.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:5.1f}%"),
                _Left(),
                TextColumn("{task.fields[text]}"),
                console=self.console,
            )
            self.task = self.progress.add_task("training", total=1.0, text="", left=None)

    def __enter__(self) -> RunLog:
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_progress()
        self.file.close()
        if self.board is not None:
            self.board.close()

    def close_progress(self) -> None:
        """End the progress display; lines after it stay where they are."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def note(self, text: str) -> None:
        """One line for the person who watches."""
        if self.progress is not None:
            self.progress.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def metrics(self, step: int, fraction: float, values: dict[str, float]) -> None:
        """Record the means since the last call, and show them."""
        elapsed = time.monotonic() - self.started
        line = {"step": step, "images": step * self.config.batch_size, **values}
        self.file.write(
            json.dumps({k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in line.items()}) + "\n"
        )
        self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if self.first_fraction is None:
            self.first_fraction, self.started = fraction, time.monotonic()
        done = fraction - self.first_fraction
        left = (1 - fraction) * elapsed / done if done > 0 else None
        text = (
            f"{values['images_per_second']:.0f} images/s  loss {values['loss']:.4g} = "
            f"rec {values['reconstruction']:.3g} + conc {values['concentration']:.3g} + "
            f"sep {values['separation']:.3g} + eqv {values['equivariance']:.3g} "
            f"({values['equivariance_px']:.2f} px)"
        )
        if self.progress is not None:
            self.progress.update(self.task, completed=fraction, text=text, left=left)
        elif time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.monotonic()
            remaining = "--:--" if left is None else duration(left)
            print(f"{100 * fraction:5.1f}%  left {remaining}  step {step:,}  {text}", flush=True)

    def picture(self, name: str, image: npt.NDArray[np.uint8], step: int) -> None:
        """An (H, W, 3) picture for TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, image, step, dataformats="HWC")

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Numbers for TensorBoard alone."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
