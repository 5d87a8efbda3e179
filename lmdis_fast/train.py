"""Train: `python -m lmdis_fast.train [--data FOLDER] [--landmarks 10] [--images 45000] ...`

Read `train` from top to bottom: it is the whole loop. The configuration is in config.py, what a step sees in pairs.py,
the losses in losses.py, what is written in run_log.py, pictures.py, checkpoint.py and report/.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from . import losses
from .checkpoint import (
    Checkpoint,
    CheckpointError,
    load_optimizer_state,
    newest_readable,
    read_checkpoint,
)
from .config import OptimizerConfig, TrainConfig, differences, parse_config, to_toml
from .data import BatchLoader, DataError, open_dataset
from .models import LandmarkAutoencoder, PairOutput
from .pairs import Pair, make_pair
from .precision import resolve_device, resolve_precision
from .report import write_report
from .run_log import RunLog
from .snapshots import Snapshots

TERMS = (
    "loss",
    "reconstruction",
    "concentration",
    "separation",
    "equivariance",
    "equivariance_px",
    "grad_norm",
)


class TrainingError(RuntimeError):
    """Training stopped; the message says why and what to do."""


def build_optimizer(model: LandmarkAutoencoder, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adam with weight decay on convolution and linear weights, and on batch-norm gains where it is coupled (row 19)."""
    decayed, rest = [], []
    for name, parameter in model.named_parameters():
        gain = parameter.ndim == 1 and name.endswith("weight")
        decayed.append(parameter) if parameter.ndim > 1 or (gain and not config.decoupled) else rest.append(
            parameter
        )
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(config: OptimizerConfig, step: int, fraction: float) -> float:
    """The learning rate of a step, `fraction` of the run being done."""
    rate = config.lr * min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    # Published: a tenth after 100,000 and again after 200,000 of 225,000 steps (row 28).
    return rate * 0.1 ** sum(fraction >= boundary for boundary in (100 / 225, 200 / 225))


def ramp(ends: tuple[float, float], fraction: float) -> float:
    """A geometric path from one weight to another."""
    start, end = ends
    return float(start * (end / start) ** min(max(fraction, 0.0), 1.0))


def loss_terms(
    pair: Pair, output: PairOutput, run: TrainConfig, fraction: float
) -> tuple[dict[str, Tensor], Tensor]:
    """The weighted losses of a step by name (their sum is what is minimised), and the mean distance in image pixels
    between landmarks and their twins' landmarks sent back."""
    config = run.losses
    count, size = len(pair.images), pair.images.shape[-1]
    coords = output.detection.coords
    ratio = pair.padded.shape[-1] / size
    mapped = pair.spline.transform(coords[count:] / ratio) * ratio
    inside = (mapped.abs() <= 1).all(-1) if config.equivariance_mask == "frame" else None
    parted = fraction / config.separation_until
    terms = {
        "reconstruction": ramp(config.reconstruction, fraction)
        * losses.reconstruction_loss(output.images, pair.half(run.reconstruct)),
        "concentration": config.concentration
        * losses.concentration_loss(output.sigma, config.concentration_form),
        "separation": ramp(config.separation, parted)
        * losses.separation_loss(coords, ramp(config.separation_bandwidth, parted)),
        "equivariance": config.equivariance * losses.equivariance_loss(coords[:count], mapped, inside),
    }
    return terms, (mapped - coords[:count]).detach().norm(dim=-1).mean() * (size / 2)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives SIGINT and SIGTERM instead of the program ending at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt  # asked for twice: at once
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def prepare_torch(config: TrainConfig) -> torch.device:
    """Threads, determinism and device."""
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    torch.use_deterministic_algorithms(True)
    # A debugging aid that costs a pass over every output.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return resolve_device(config.device)


def starting_point(config: TrainConfig, folder: Path) -> Checkpoint | None:
    """The checkpoint to go on from, as --resume says."""
    if config.resume == "none":
        if folder.exists() and any(folder.iterdir()):
            number = 1
            while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
                number += 1
            folder.rename(aside)
            print(f"What was in {folder} is now in {aside}.")
        return None
    if config.resume != "auto":
        checkpoint = read_checkpoint(config.resume)
        changed = [d for d in differences(checkpoint.config, config) if d.startswith("model.")]
        if changed:
            raise TrainingError(f"--resume {config.resume}: the model differs: {'; '.join(changed)}")
        return checkpoint
    found = newest_readable(folder)
    if found is not None and found.config.identity() != config.identity():
        changed = differences(found.config, config)
        raise TrainingError(
            f"{folder} holds a run with other settings ({'; '.join(changed[:5])}): "
            f"give another --out, or --resume none to start anew"
        )
    return found


def train(config: TrainConfig, command: str = "") -> int:
    """Train as configured; return the process's exit status."""
    device = prepare_torch(config)
    folder = Path(config.out)
    start = starting_point(config, folder)
    total = config.total_steps
    if start is not None and total is not None and start.step >= total and (folder / "report.html").exists():
        print(f"This run is finished: see {folder / 'report.html'}. --resume none trains anew.")
        return 0

    data = open_dataset(config.data, config.image_size, fit=config.fit, cache_dir=config.cache, seed=0)
    print(data.summary())
    loader = BatchLoader(data, data.train_indices(), config.batch_size, config.seed)

    torch.manual_seed(config.seed)
    model = LandmarkAutoencoder(config.model)
    model.precision = resolve_precision(config.precision, device)
    if start is not None:
        model.load_state_dict(start.model)
    model.to(device)
    optimizer = build_optimizer(model, config.optimizer)
    step, seconds = 0, 0.0
    if start is not None:
        load_optimizer_state(optimizer, model, start.optimizer)
        step, seconds = start.step, start.seconds
        print(f"Going on from {start.path} (step {step:,}).")

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(to_toml(config))
    (folder / "command.txt").write_text(command + "\n")
    log = RunLog(folder, config, step)
    begun = time.monotonic() - seconds
    snapshots = Snapshots(
        config, model, optimizer, data, loader, log, folder, fraction_done(config, step, seconds)
    )
    sums = torch.zeros(len(TERMS), device=device)
    counted, clock = 0, time.monotonic()

    with stop_signals() as stopped, log:
        while True:
            seconds = time.monotonic() - begun
            fraction = fraction_done(config, step, seconds)
            if stopped or fraction >= 1:
                break
            rate = learning_rate(config.optimizer, step, fraction)
            for group in optimizer.param_groups:
                group["lr"] = rate

            model.train()
            pair = make_pair(model, loader.batch(step), config, step)
            output = model.forward_pair(pair.padded, **config.halves)
            terms, pixels = loss_terms(pair, output, config, fraction)
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            # Adam's fused step skips itself where this is 1: a bad step never reaches the weights, with no wait for it.
            optimizer.found_inf = (~torch.isfinite(loss + norm)).float()  # type: ignore[attr-defined]
            optimizer.step()
            step += 1

            sums += torch.stack([loss, *terms.values(), pixels, norm]).detach()
            counted += 1
            if step % config.log.every_steps == 0 or step == total:
                values = dict(zip(TERMS, (sums / counted).tolist(), strict=True))
                speed = counted * config.batch_size / (time.monotonic() - clock)
                if not all(math.isfinite(v) for v in values.values()):
                    path = snapshots.save(step, seconds)
                    raise TrainingError(
                        describe_bad_steps(values, step - counted, step, loader, config, path)
                    )
                log.metrics(step, fraction, {**values, "lr": rate, "images_per_second": speed})
                sums.zero_()
                counted, clock = 0, time.monotonic()
            if snapshots.due(fraction_done(config, step, seconds)) and step != config.total_steps:
                before = time.monotonic()
                snapshots.take(step, seconds)
                clock += time.monotonic() - before  # images/s is the training step's own

        log.close_progress()
        if stopped:
            path = snapshots.save(step, seconds)
            again = command.replace(" --resume none", "") or "the same command"
            log.note(f"Stopped at step {step:,}; saved {path}. Go on with: {again}")
            return 128 + stopped[0]
        health = snapshots.take(step, seconds, final=True)
    if config.log.report:
        print(f"Done: {write_report(folder, config, model, data, health, command)}")
    return 0


def fraction_done(config: TrainConfig, step: int, seconds: float) -> float:
    """How much of the run is done, by its length in steps or in minutes."""
    total = config.total_steps
    return step / total if total is not None else seconds / (60 * (config.minutes or 1.0))


def describe_bad_steps(
    values: dict[str, float], first: int, last: int, loader: BatchLoader, config: TrainConfig, saved: Path
) -> str:
    """The message for losses that are not finite: which, when, and on which files."""
    terms = ", ".join(name for name, value in values.items() if not math.isfinite(value))
    names = sorted({loader.data.names[i] for step in range(first, last) for i in loader.batch(step).samples})
    shown = ", ".join(names[:32]) + (f" and {len(names) - 32} more" if len(names) > 32 else "")
    return (
        f"steps {first:,} to {last - 1:,}: {terms} not finite on a batch of {shown}. The weights from before are saved in "
        f"{saved}; try a lower --optimizer.lr, or look at these files."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        printing = "--print-config" in arguments
        config = parse_config([a for a in arguments if a != "--print-config"])
        if printing:
            print(to_toml(config), end="")
            return 0
        return train(config, shlex.join(["python", "-m", "lmdis_fast.train", *arguments]))
    except (ValueError, DataError, CheckpointError, TrainingError) as error:
        print(f"lmdis_fast.train: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"lmdis_fast.train: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
