"""Evaluate: `python -m lmdis_fast.evaluate RUN --data DIR [--json FILE]`.

Regresses a run's landmarks to a data set's annotated points and prints the errors beside three baselines of the same run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from .checkpoint import CheckpointError, build_model, read_checkpoint
from .data import DataError, open_dataset
from .evaluation.protocol import Evaluation, evaluate_model
from .precision import resolve_device


@dataclass(frozen=True)
class EvaluateConfig:
    """Regress a run's landmarks to annotated points, beside the mean shape, grey pixels and the untrained network."""

    run: tyro.conf.Positional[str]
    """Folder of a run, or a checkpoint."""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Annotated data; may be given several times. Default: the run's own."""
    json: str | None = None
    """Write every number to this file, one object each."""
    normaliser: str | None = None
    """What errors are divided by: inter-ocular, side, box, or two point names joined by a comma."""
    points: tuple[str, ...] | None = None
    """Names of the points to regress to (default: the five face points, or all)."""
    fit: Literal["crop", "squeeze", "pad"] | None = None
    """How pictures become square; default: as in training."""
    views: Literal[1, 9] = 9
    """Landmarks are means over this many views of each image, shifted by a pixel; 1: the image alone."""
    cache: str | None = None
    """Folder of the cache of decoded images."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """A table, and the protocol card under it."""
    table = Table(title=title, title_justify="left")
    for name in ("method", "protocol", "intercept"):
        table.add_column(name)
    for name in ("n train", "n test", "K", "error %", "of mean shape"):
        table.add_column(name, justify="right")
    for row in evaluation.rows:
        table.add_row(
            row.method,
            row.protocol,
            "yes" if row.intercept else "no",
            str(row.n_train),
            str(row.n_test),
            str(row.landmarks or "-"),
            f"{row.error_percent:.2f}",
            f"{row.error_percent / evaluation.mean_shape_percent:.2f}",
            style="bold" if row.method == "landmarks" and not row.intercept else None,
        )
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(evaluation.card(), highlight=False, markup=False)


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate as configured."""
    checkpoint = read_checkpoint(config.run)
    model = build_model(checkpoint, resolve_device(config.device))
    training = checkpoint.config
    data = open_dataset(
        config.data or training.data,
        training.image_size,
        fit=config.fit or training.fit,
        cache_dir=config.cache,
    )
    print(data.summary())
    return evaluate_model(
        model,
        data,
        train_config=training,
        normaliser=config.normaliser,
        points=list(config.points) if config.points else None,
        views=config.views,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    try:
        config = tyro.cli(EvaluateConfig, prog="python -m lmdis_fast.evaluate", args=argv)
        evaluation = evaluate(config)
        print_evaluation(evaluation, f"{config.run} on {', '.join(config.data) or 'its own data'}")
        if config.json is not None:
            Path(config.json).parent.mkdir(parents=True, exist_ok=True)
            evaluation.write_json(config.json)
        return 0
    except (ValueError, DataError, CheckpointError, OSError) as error:
        print(f"lmdis_fast.evaluate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
