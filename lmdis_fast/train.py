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
from dataclasses import replace
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
from .config import LossConfig, OptimizerConfig, TrainConfig, differences, to_toml
from .data import BatchLoader, DataError, open_dataset
from .memory import keep_freed_memory
from .meter import Meter
from .models import LandmarkAutoencoder, PairOutput
from .pairs import Pair, make_pair
from .precision import resolve_device, resolve_precision
from .read_config import parse_config
from .report import write_report
from .run_log import RunLog
from .snapshots import Snapshots

DROPS = (100 / 225, 200 / 225)
"""Published: learning rate and reconstruction weight change after 100,000 and 200,000 of 225,000 steps (row 28)."""


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
    return rate * 0.1 ** sum(fraction >= boundary for boundary in DROPS)


def ramp(ends: tuple[float, float], fraction: float) -> float:
    """A geometric path from one weight to another."""
    start, end = ends
    return float(start * (end / start) ** min(max(fraction, 0.0), 1.0))


def reconstruction_weight(config: LossConfig, fraction: float) -> float:
    """The reconstruction's weight, `fraction` of the run being done."""
    if config.reconstruction_schedule == "step":
        fraction = 0.5 * sum(fraction >= boundary for boundary in DROPS)
    return ramp(config.reconstruction, fraction)


def loss_terms(
    pair: Pair, output: PairOutput, run: TrainConfig, fraction: float
) -> tuple[dict[str, Tensor], Tensor]:
    """The weighted losses of a step by name (their sum is what is minimised), and the mean distance in image pixels
    between landmarks and their twins' landmarks sent back."""
    config = run.losses
    size = pair.images.shape[-1]
    coords = output.detection.coords
    parted = fraction / config.separation_until
    of_pair = losses.pair_losses(
        coords,
        pair.spline,
        ratio=pair.padded.shape[-1] / size,
        bandwidth=ramp(config.separation_bandwidth, parted),
        in_frame=config.equivariance_mask == "frame",
    )
    terms = {
        "reconstruction": reconstruction_weight(config, fraction)
        * losses.reconstruction_loss(output.images, pair.half(run.reconstruct)),
        "concentration": config.concentration
        * losses.concentration_loss(output.sigma, config.concentration_form),
        "separation": ramp(config.separation, parted) * of_pair.separation,
        "equivariance": config.equivariance * of_pair.equivariance,
    }
    originals = coords.detach()[: len(pair.images)]
    return terms, (of_pair.mapped - originals).norm(dim=-1).mean() * (size / 2)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """One step of the optimiser; returns the gradients' norm. A step that is not finite never reaches the weights."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # torch.nn.utils.get_total_norm looks at each gradient's device and dtype, which takes twice as long as the norms
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    # As torch's GradScaler sets it: Adam's fused step skips itself where this is 1, with no wait for it.
    vars(optimizer)["found_inf"] = (~torch.isfinite(loss + norm)).float()
    optimizer.step()
    return norm


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
    """Threads, memory, determinism and device."""
    keep_freed_memory()
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
            if not (folder / "config.toml").exists():
                raise TrainingError(f"--out {folder} holds other files and no run: give another folder")
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
        if (later := newest_readable(folder)) is not None and later.path.parent != checkpoint.path.parent:
            raise TrainingError(
                f"--resume {config.resume}: --out {folder} holds a run already: give another --out"
            )
        if later is not None and later.step > checkpoint.step:
            raise TrainingError(
                f"--resume {config.resume}: {folder} holds a later checkpoint, {later.path.name}: give another --out"
            )
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
    config = replace(
        config, precision=resolve_precision(config.precision, device)
    )  # part of the run's identity
    folder = Path(config.out)
    start = starting_point(config, folder)
    total = config.total_steps
    if start is not None and total is not None and start.step >= total and (folder / "report.html").exists():
        print(f"This run is finished: see {folder / 'report.html'}. --resume none trains anew.")
        return 0

    data = open_dataset(config.data, config.image_size, fit=config.fit, cache_dir=config.cache, seed=0)
    print(data.summary())
    if not len(data.train_indices()):
        raise DataError(
            f"data: no image is in split train, got only {', '.join(sorted(set(data.split.tolist())))}"
        )
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
    if data.skipped:
        (folder / "skipped.txt").write_text("".join(f"{name}\t{reason}\n" for name, reason in data.skipped))
        print(f"What was skipped and why: {folder / 'skipped.txt'}")
    log = RunLog(folder, config, step)
    begun = time.monotonic() - seconds
    snapshots = Snapshots(
        config, model, optimizer, data, loader, log, folder, fraction_done(config, step, seconds)
    )
    meter = Meter(device)

    with stop_signals() as stopped, log:
        while True:
            seconds = time.monotonic() - begun
            fraction = fraction_done(config, step, seconds)
            if stopped or fraction >= 1:
                break
            rate = learning_rate(config.optimizer, step, fraction)
            for group in optimizer.param_groups:
                group["lr"] = rate

            if not model.training:  # since a snapshot; telling every layer takes a millisecond
                model.train()
            pair = make_pair(model, loader.batch(step), config, step)
            output = model.forward_pair(pair.padded, **config.halves)
            terms, pixels = loss_terms(pair, output, config, fraction)
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            norm = update(optimizer, loss)
            meter.add(step, [*terms.values(), norm, loss, pixels])
            step += 1

            if step % config.log.every_steps == 0 or fraction_done(config, step, seconds) >= 1:
                if meter.bad() is not None:
                    break
                values = meter.means()
                speed = meter.steps * config.batch_size / (time.monotonic() - meter.since)
                log.metrics(step, fraction, {**values, "lr": rate, "images_per_second": speed})
                meter.reset()
            if snapshots.due(fraction_done(config, step, seconds)) and step != config.total_steps:
                before = time.monotonic()
                snapshots.take(step, seconds)
                meter.since += time.monotonic() - before  # images/s is the training step's own

        log.close_progress()
        bad = meter.bad()
        if bad is not None:
            raise TrainingError(describe_bad_step(*bad, loader, config, snapshots.save(step, seconds)))
        if stopped:
            path = snapshots.save(step, seconds)
            log.note(f"Stopped at step {step:,}; saved {path}. Go on with: {without_resume(command)}")
            return 128 + stopped[0]
        health = snapshots.take(step, seconds, final=True)
    if config.log.report:
        print(f"Done: {write_report(folder, config, model, data, health, command)}")
    return 0


def fraction_done(config: TrainConfig, step: int, seconds: float) -> float:
    """How much of the run is done, by its length in steps or in minutes."""
    total = config.total_steps
    return step / total if total is not None else seconds / (60 * (config.minutes or 1.0))


def describe_bad_step(
    step: int, terms: list[str], loader: BatchLoader, config: TrainConfig, saved: Path
) -> str:
    """The message for losses that are not finite: which, when, and on which files."""
    names = ", ".join(loader.data.names[i] for i in loader.batch(step).samples)
    return (
        f"step {step:,}: {', '.join(terms)} not finite on the batch {names}. The weights from before it are saved in "
        f"{saved}; try a lower --optimizer.lr, or look at these files."
    )


def without_resume(command: str) -> str:
    """The command that goes on from where a run has stopped: the same one, without a --resume that says otherwise."""
    words = shlex.split(command)
    kept = [
        word
        for i, word in enumerate(words)
        if not word.startswith("--resume") and not (i and words[i - 1] == "--resume")
    ]
    return shlex.join(kept) or "the same command"


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
    except KeyboardInterrupt:
        print(
            "lmdis_fast.train: stopped; what was saved before is kept, the same command goes on",
            file=sys.stderr,
        )
        return 130
    except (ValueError, CheckpointError, TrainingError, OSError) as error:
        print(f"lmdis_fast.train: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
