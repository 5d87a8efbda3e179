"""The whole training step: images per second with plain PyTorch's operators and with the chosen ones, and where time goes."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from lmdis_fast.backends import use_backend
from lmdis_fast.config import check_config, preset_config
from lmdis_fast.data import BatchLoader, open_dataset
from lmdis_fast.meter import Meter
from lmdis_fast.models import LandmarkAutoencoder
from lmdis_fast.models.autoencoder import Precision
from lmdis_fast.models.config import Preset
from lmdis_fast.pairs import make_pair
from lmdis_fast.precision import has_bf16_instructions
from lmdis_fast.train import build_optimizer, learning_rate, loss_terms, prepare_torch, update

from .report import markdown
from .stopwatch import stopwatch

Choice = Literal["reference", "free"]
"""Of the operators' backend: plain PyTorch, or the first that can run."""
CHOICES: tuple[Choice, ...] = ("reference", "free")
STAGES = ("data", "pair", "forward", "losses", "backward", "update")
"""Data: gather. Pair: colour jitter, padding, splines, warp. Update: gradients' norm, optimiser, meter."""
FRACTION = 0.5
"""Of the run that is done: decides weights of losses, not their cost."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        presets: trained at their own batch size.
        seconds: about how long a preset and precision is timed, with both choices together.
        rounds: fewest and most timed steps with each choice; half as many are timed layer by layer.
        profiled: steps under the profiler with each choice (one where a step takes seconds).
        images: puppets to train on.
    """

    presets: tuple[Preset, ...]
    seconds: float
    rounds: tuple[int, int]
    profiled: int
    images: int

    def precisions(self) -> tuple[Precision, ...]:
        """bf16 only where the processor has instructions for it."""
        return (
            ("fp32", "bf16")
            if has_bf16_instructions(torch.device("cpu")) and self is not QUICK
            else ("fp32",)
        )


FULL = Plan(("small-64", "paper-80"), seconds=20, rounds=(4, 40), profiled=2, images=256)
QUICK = Plan(("small-64",), seconds=0, rounds=(1, 1), profiled=1, images=64)


class Trainer:
    """The loop's body of `lmdis_fast.train.train`, with a stamp after each stage."""

    def __init__(
        self,
        preset: Preset,
        precision: Precision,
        threads: int,
        images: int,
        device: str = "cpu",
    ) -> None:
        self.config = config = check_config(replace(preset_config(preset), threads=threads, device=device))
        data = open_dataset([f"puppets:{images}"], config.image_size, progress=False)
        self.loader = BatchLoader(data, data.train_indices(), config.batch_size, config.seed)
        torch.manual_seed(config.seed)
        self.model = LandmarkAutoencoder(config.model)
        self.model.precision = precision
        self.model.to(device)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.meter = Meter(torch.device(device))
        self.number = 0

    def step(self) -> dict[str, float]:
        """One step; seconds of each stage."""
        config, model, number = self.config, self.model, self.number
        stages, last = {}, time.perf_counter()

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            nonlocal last
            with record_function(f"stage: {name}"):
                yield
            now = time.perf_counter()
            stages[name], last = now - last, now

        with stage("data"):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config.optimizer, number, FRACTION)
            if not model.training:
                model.train()
            batch = self.loader.batch(number)
        with stage("pair"):
            pair = make_pair(model, batch, config, number)
        with stage("forward"):
            output = model.forward_pair(pair.padded, **config.halves)
        with stage("losses"):
            terms, pixels = loss_terms(pair, output, config, FRACTION)
            loss = torch.stack(list(terms.values())).sum()
        with stage("backward"):
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        with stage("update"):
            norm = update(self.optimizer, loss)
            self.meter.add(number, [*terms.values(), norm, loss, pixels])
        self.number += 1
        return stages


@contextmanager
def chosen(choice: Choice) -> Iterator[None]:
    """The operators' backend."""
    with use_backend("reference" if choice == "reference" else None):
        yield


# ---- where the time goes ---------------------------------------------------------------------------------------------

NETWORK = ("convolution", "normalisation", "activation", "optimiser")
"""Groups that the target does not count."""
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "normalisation",
        (
            "aten::batch_norm",
            "aten::native_batch_norm",
            "NativeBatchNorm",
            "lmdis_fast::batch_norm",
            "GeneratedBackwardFor_lmdis_fast_batch_norm",
            "module: normalisation",
        ),
    ),
    (
        "network: pooling, skips",
        (
            "aten::max_pool2d",
            "aten::upsample",
            "aten::__interpolate",
            "MaxPool2D",
            "Upsample",
            "module: Hourglass",
            "lmdis_fast::max_pool_2x2",
            "lmdis_fast::upsample_add",
            "GeneratedBackwardFor_lmdis_fast_max_pool_2x2",
            "GeneratedBackwardFor_lmdis_fast_upsample_add",
        ),
    ),
    ("our operators", ("lmdis_fast::", "GeneratedBackwardFor_lmdis_fast")),
    ("optimiser", ("Optimizer.",)),
    (
        "convolution",
        ("aten::conv", "aten::mkldnn_conv", "ConvolutionBackward", "MkldnnConv", "module: folded"),
    ),
    ("activation", ("aten::leaky_relu", "aten::sigmoid", "LeakyRelu", "SigmoidBackward")),
    ("network: casts, gradients of parameters", ("ToCopyBackward", "torch::autograd::AccumulateGrad")),
)
"""Group and how the names of its events begin; an event belongs to its nearest ancestor with a group (or itself)."""


SHOWN = 0.001
"""Smallest share of a group's detail that is listed."""
ENGINE = "autograd::engine::evaluate_function: "
"""Beginning of an event that runs a backward function and adds up gradients where branches meet."""
SUMS = "network: pooling, skips"


def group_of(name: str) -> str | None:
    """The group that an event's name says."""
    return next((group for group, begins in GROUPS if name.startswith(begins)), None)


def forward_groups(events: list[FunctionEvent]) -> dict[int, str]:
    """Groups of the forward operators by autograd's sequence number, which their backward functions carry too."""
    groups: dict[int, str] = {}

    def descend(event: FunctionEvent, inherited: str | None) -> None:
        group = inherited if inherited == "our operators" else group_of(event.name) or inherited
        if group is not None and event.sequence_nr >= 0 and group != "optimiser":
            groups[event.sequence_nr] = group
        for child in event.cpu_children:
            descend(child, group)

    for event in events:
        if event.cpu_parent is None and event.name != "stage: backward":
            descend(event, None)
    return groups


def attribute(events: list[FunctionEvent]) -> dict[tuple[str, str], float]:
    """Self time in microseconds by (group, detail); outside the groups the former is a stage, the latter a name."""
    times: dict[tuple[str, str], float] = defaultdict(float)
    forward = forward_groups(events)

    def descend(event: FunctionEvent, stage: str, inherited: str | None, operator: str) -> None:
        name, group = event.name, inherited
        if name.startswith("stage: "):
            stage = name.removeprefix("stage: ")
        if name.startswith("lmdis_fast::"):
            operator = name
        if inherited != "our operators":  # within them nothing else counts
            group = group_of(name) or inherited
        if group is None:
            detail = "Python, dispatch" if name.startswith(("stage: ", "module: ")) else name
            times[stage, "autograd's engine" if name.startswith(ENGINE) else detail] += (
                event.self_cpu_time_total
            )
        else:
            detail = "Python, dispatch" if name.startswith("module: ") else name
            detail = (operator or "autograd around them") if group == "our operators" else detail
            detail = "" if group in NETWORK else detail
            times[group, detail] += event.self_cpu_time_total
        for child in event.cpu_children:
            passed = group
            if name.startswith(ENGINE):
                of_function = group_of(name.removeprefix(ENGINE)) or forward.get(event.sequence_nr)
                # beside the function itself the engine sums gradients: in the networks, those of the skips
                beside = None if of_function in (None, "our operators") else SUMS
                passed = of_function if name.endswith(child.name) else beside
            descend(child, stage, passed, operator)

    for event in events:
        if event.cpu_parent is None:
            descend(event, "between stages", None, "")
    return dict(times)


@contextmanager
def labelled_modules(model: torch.nn.Module) -> Iterator[None]:
    """Forward passes of hourglasses, normalisations and the folded first convolution appear by name in the profile."""
    from lmdis_fast.models.batch_norm import ConvBlock
    from lmdis_fast.models.decoder import SplatConv
    from lmdis_fast.models.hourglass import Hourglass

    def wrapped(label: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with record_function(label):
                return call(*args, **kwargs)

        return run

    places: list[tuple[Any, str, str]] = []
    for module in model.modules():
        if isinstance(module, Hourglass):
            places.append((module, "forward", "module: Hourglass"))
        elif isinstance(module, ConvBlock):
            places.append((module, "normalise", "module: normalisation"))
        elif isinstance(module, SplatConv):
            places.append((module, "fold", "module: folded convolution"))
    with ExitStack() as stack:
        for module, attribute_name, label in places:
            setattr(module, attribute_name, wrapped(label, getattr(module, attribute_name)))
            stack.callback(delattr, module, attribute_name)
        yield


def profiled(trainer: Trainer, steps: int) -> dict[tuple[str, str], float]:
    """Shares of a step's time by (group or stage, detail)."""
    with labelled_modules(trainer.model), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            trainer.step()
    times = attribute(list(profiler.events()))
    whole = sum(times.values())
    return {key: value / whole for key, value in times.items()}


# ---- the measurement -------------------------------------------------------------------------------------------------


def outside_share(trainer: Trainer) -> float:
    """Of one step: what is neither in the network's layers nor in the optimiser, by the clock."""
    with stopwatch(trainer.model, trainer.optimizer) as watch:
        seconds = sum(trainer.step().values())
    return 1 - watch.seconds / (seconds - watch.own)


def measure(
    preset: Preset, precision: Precision, threads: int, plan: Plan, *, stages: bool
) -> tuple[dict[str, Any], str]:
    """Time and profile one preset; its figures, and Markdown that shows them."""
    trainer = Trainer(preset, precision, threads, plan.images)
    samples: dict[Choice, list[dict[str, float]]] = {choice: [] for choice in CHOICES}
    shares: dict[Choice, dict[tuple[str, str], float]] = {}
    prepare_torch(trainer.config)
    estimate = 0.0
    for choice in CHOICES:
        with chosen(choice):
            trainer.step()
            estimate += sum(trainer.step().values())
    rounds = min(max(int(plan.seconds / estimate), plan.rounds[0]), plan.rounds[1])
    for turn in range(rounds):
        for choice in CHOICES if turn % 2 else CHOICES[::-1]:
            with chosen(choice):
                samples[choice].append(trainer.step())
    outsides: dict[Choice, list[float]] = {choice: [] for choice in CHOICES}
    for turn in range(max(rounds // 2, 1)):
        for choice in CHOICES if turn % 2 else CHOICES[::-1]:
            with chosen(choice):
                outsides[choice].append(outside_share(trainer))
    for choice in CHOICES:
        with chosen(choice):
            shares[choice] = profiled(trainer, plan.profiled if estimate < 2 else 1)
    batch = trainer.config.batch_size
    speed = {c: batch / statistics.median(sum(s.values()) for s in samples[c]) for c in CHOICES}
    outside = {c: statistics.median(outsides[c]) for c in CHOICES}
    by_profile = {c: sum(v for (group, _), v in shares[c].items() if group not in NETWORK) for c in CHOICES}
    by_stage = {c: {s: statistics.median(x[s] for x in samples[c]) for s in STAGES} for c in CHOICES}
    row = {
        "preset": preset,
        "precision": precision,
        "threads": threads,
        "batch_size": batch,
        "rounds": rounds,
        "images_per_second": speed,
        "outside": outside,
        "outside_by_profile": by_profile,
        "stages_seconds": by_stage,
        "shares": {c: {f"{g}: {d}" if d else g: v for (g, d), v in shares[c].items()} for c in CHOICES},
    }
    title = f"\n### Training step of {preset}, {precision}, threads {threads}, batch {batch}\n"
    lines = [
        title,
        f"Images/s, medians of {rounds} steps in turns: {speed['reference']:.1f} with plain PyTorch's operators, "
        f"{speed['free']:.1f} with the chosen ones ({speed['free'] / speed['reference']:.2f}x).\n",
        *share_lines(shares),
        "",
        f"Outside convolution, normalisation, activation and optimiser, by the clock: {outside['reference']:.1%} with "
        f"plain PyTorch's operators, {outside['free']:.1%} with the chosen ones; by the profile above, which counts its "
        f"own time: {by_profile['reference']:.1%} and {by_profile['free']:.1%}.",
    ]
    if stages:
        cells = [[s, *(f"{1e3 * by_stage[c][s]:.2f}" for c in CHOICES)] for s in STAGES]
        lines += ["", *markdown(["stage, wall-clock ms", *CHOICES], cells, left=1)]
    return row, "\n".join(lines)


def share_lines(shares: dict[Choice, dict[tuple[str, str], float]], most: int = 12) -> list[str]:
    """Groups, then what is in none, the largest first."""
    groups = [*NETWORK, *(g for g, _ in GROUPS if g not in NETWORK)]
    rows = []
    for group in groups:
        sums = [sum(v for (g, _), v in shares[c].items() if g == group) for c in CHOICES]
        rows.append([group, *(f"{s:.2%}" for s in sums)])
        largest = {
            d: max(shares[c].get((group, d), 0) for c in CHOICES)
            for c in CHOICES
            for g, d in shares[c]
            if g == group
        }
        for name in sorted(filter(None, largest), key=lambda n: -largest[n])[:most]:
            if group == "our operators" or largest[name] >= SHOWN:
                rows.append([f"- {name}", *(f"{shares[c].get((group, name), 0):.2%}" for c in CHOICES)])
    rest = {key for c in CHOICES for key in shares[c] if key[0] not in groups}
    sums = [sum(shares[c].get(key, 0) for key in rest) for c in CHOICES]
    rows.append(["everything else", *(f"{s:.2%}" for s in sums)])
    for stage in (*STAGES, "between stages"):
        inside = [sum(v for (g, _), v in shares[c].items() if g == stage) for c in CHOICES]
        rows.append([f"- {stage}", *(f"{s:.2%}" for s in inside)])
    ordered = sorted(rest, key=lambda key: -max(shares[c].get(key, 0) for c in CHOICES))[:most]
    details = [
        [f"{stage}: {name}", *(f"{shares[c].get((stage, name), 0):.2%}" for c in CHOICES)]
        for stage, name in ordered
    ]
    head = ["share of the step", *CHOICES]
    return [
        *markdown(head, rows, left=1),
        "",
        *markdown(["largest of everything else", *CHOICES], details, left=1),
    ]
