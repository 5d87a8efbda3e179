"""One typed configuration for a training run: fields, presets, checks. read_config.py makes one from options and files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro

from .data.augment import ColourConfig, WarpConfig
from .models.autoencoder import Half
from .models.config import ModelConfig, Preset, check_model_config, model_preset


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses. A pair is a value at the run's start and one at its end, with a geometric path between."""

    reconstruction_schedule: Literal["geometric", "step"] = "geometric"
    """The path of the reconstruction's weight. step, as published: its geometric mean after 4/9 of the run and its end
    after 8/9, where the learning rate falls."""
    reconstruction: tuple[float, float] = (0.3, 10.0)
    """Weight of half the squared error, summed over pixels."""
    concentration: float = 1200.0
    """Weight of the heatmaps' spread."""
    concentration_form: Literal["code", "paper"] = "code"
    """Row 2: exponential of the entropy (code) or the paper's printed formula."""
    separation: tuple[float, float] = (50.0, 5.0)
    """Weight of the landmarks' repulsion."""
    separation_bandwidth: tuple[float, float] = (0.25, 0.08)
    """Range of the repulsion as a fraction of the side."""
    separation_until: float = 0.5
    """Fraction of the run after which the repulsion keeps its final weight and range."""
    equivariance: float = 1e4
    """Weight of the squared distance (in half sides) between a landmark and its warped twin sent back."""
    equivariance_mask: Literal["none", "frame"] = "none"
    """Row 13: count all landmarks, or only those whose twin comes from inside the original's frame."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its learning rate."""

    lr: float = 3e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Cosine to zero; or, as published, a tenth after 4/9 of the run and again after 8/9."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's averaging coefficients."""
    eps: float = 1e-8
    """Adam's epsilon."""
    weight_decay: float = 1e-4
    """Decay of convolution and linear weights (and of batch-norm gains where it is coupled)."""
    decoupled: bool = True
    """Row 19: decay as in AdamW; False adds it to the gradient as published."""


@dataclass(frozen=True)
class LogConfig:
    """What a run writes, and how often."""

    every_steps: int = 50
    """Steps between lines of metrics.jsonl, TensorBoard and the progress display."""
    pictures: int = 8
    """Held-out images that are drawn as training goes."""
    snapshots: int = 10
    """How many times in a run pictures are drawn, health is judged and a checkpoint is written (besides those on
    interruption)."""
    keep: int = 2
    """Checkpoints kept, the newest ones."""
    statistics_batches: int = 40
    """Batches over which batch statistics are re-estimated before every evaluation (row 17; 500 published)."""
    tensorboard: bool = True
    """Write TensorBoard event files."""
    report: bool = True
    """Write report.html when the run ends."""


DATA_HELP = "Folder, .tar or .npz of images, or a built-in set (puppets, digits). May be given several times."


@dataclass(frozen=True)
class TrainConfig:
    """Train a landmark detector and autoencoder without labels.

    With no arguments: the small-64 model on the built-in puppets.
    """

    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Folder, .tar or .npz of images, or a built-in set (puppets, digits). May be given several times. Default: puppets."""
    preset: Preset = "small-64"
    """Sizes of the networks, and the losses that go with them."""
    landmarks: int = 10
    """Number of landmarks."""
    image_size: int = 64
    """Side in pixels to which images are brought."""
    images: int | None = None
    """Length of the run in images seen (the default: 27,000 for small-64)."""
    steps: int | None = None
    """Length of the run in steps, instead of --images."""
    minutes: float | None = None
    """Length of the run in minutes, instead of --images. Such a run cannot be repeated bit for bit."""
    batch_size: int = 16
    """Images in a step, over all processes; each brings its warped twin along."""
    out: str = ""
    """Folder of the run. Default: runs/ and the names of data and preset."""
    resume: str = "auto"
    """auto: go on where the run in --out stopped; none: start anew; or a checkpoint to start from."""
    seed: int = 0
    """Decides weights, order and augmentation."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the convolutions. auto: bf16 where the processor has instructions for it, fp32 elsewhere."""
    device: str = "auto"
    """auto: a GPU if there is one; or cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """Processor threads; 0: all cores. Results are repeatable for the same number of threads."""
    cache: str | None = None
    """Folder of the cache of decoded images (default: LMDIS_FAST_CACHE or ~/.cache/lmdis_fast)."""
    fit: Literal["crop", "squeeze", "pad"] = "crop"
    """How pictures become square: largest centred square, aspect ratio lost, or borders added."""
    appearance_from: Half = "warped"
    """Image of a pair that lends its descriptors to the reconstruction; published: the original."""
    reconstruct: Half = "original"
    """Image of a pair that is rebuilt, from its own landmarks; published: the original. Where the two options differ,
    descriptors cannot tell where things are, and landmarks have to."""
    padding_mode: Literal["border", "zeros"] = "border"
    """Row 11: what a warp shows beyond the image's border."""
    model: ModelConfig = field(default_factory=ModelConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)
    colour: ColourConfig = field(default_factory=ColourConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def total_steps(self) -> int | None:
        """Steps of the run; None where its length is given in minutes."""
        if self.minutes is not None:
            return None
        if self.steps is not None:
            return self.steps
        return -(-(self.images or 0) // self.batch_size)

    @property
    def halves(self) -> dict[str, Half]:
        """The arguments of `LandmarkAutoencoder.forward_pair`."""
        return {"appearance_from": self.appearance_from, "reconstruct": self.reconstruct}

    def identity(self) -> str:
        """Hash of everything that decides the run's numbers; runs with equal hashes may go on from each other."""
        return hashlib.sha256(json.dumps(_identifying(self), sort_keys=True).encode()).hexdigest()[:16]


def preset_config(preset: Preset, *, landmarks: int = 10, image_size: int | None = None) -> TrainConfig:
    """A preset's whole configuration. `small-64` holds the recipe of docs/recipes.md; the others the published settings for
    CelebA with 10 landmarks or, above 20, with 30. (For 30 the published reconstruction weight goes 0.1, 10, 100; here its
    middle is the geometric mean, 3.2.)"""
    model = model_preset(preset, landmarks=landmarks, image_size=image_size)
    base = TrainConfig(
        preset=preset, landmarks=landmarks, image_size=model.image_size, model=model, images=27_000
    )
    if preset == "small-64":
        return base
    many = landmarks > 20
    return replace(
        base,
        images=225_000 * 16,
        batch_size=8 if many else 16,
        appearance_from="original",
        # The spline of the published strength is the half-gain one, with the similarity acting before it.
        warp=WarpConfig(
            std=0.1,
            kernel_gain=0.5,
            log_scale=0.2231,
            translation=0.3,
            linear_jitter=0.0,
            order="affine_before",
        ),
        colour=ColourConfig(contrast=0.5, brightness=32 / 255, per_image=False),
        losses=LossConfig(
            reconstruction=(0.1, 100.0) if many else (0.1, 10.0),
            reconstruction_schedule="step",
            concentration=100.0,
            separation=(10.0, 10.0) if many else (20.0, 20.0),
            separation_bandwidth=(0.04, 0.04) if many else (0.08, 0.08),
            # 1e4 on squared distances of the padded frame over its ratio, in the un-padded frame (row 14).
            equivariance=1e4 / model.padding_ratio,
        ),
        optimizer=OptimizerConfig(
            lr=1e-2 if many else 1e-3, schedule="step", warmup_steps=0, weight_decay=1e-6, decoupled=False
        ),
    )


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dictionary of a configuration, tuples as lists, fields that are None left out."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {k: plain(v) for k, v in fields.items() if v is not None}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        return value

    result: dict[str, Any] = plain(config)
    return result


def to_toml(config: TrainConfig) -> str:
    """The configuration as TOML, which `--config` reads back."""
    return tomli_w.dumps(to_dict(config))


def check_config(config: TrainConfig) -> TrainConfig:
    """The configuration with its defaults filled in; ValueError, naming the field, where something cannot work."""
    lengths = [name for name in ("steps", "minutes") if getattr(config, name) is not None]
    if len(lengths) > 1:
        raise ValueError("give one of --images, --steps and --minutes, got --steps and --minutes")
    for name, value, default in (
        ("landmarks", config.model.landmarks, config.landmarks),
        ("image_size", config.model.image_size, config.image_size),
    ):
        if value != default:
            raise ValueError(
                f"model.{name} follows --{name.replace('_', '-')}: give that one, got {value} and {default}"
            )
    data = config.data or ("puppets",)
    config = replace(
        config,
        data=data,
        out=config.out
        or str(Path("runs") / f"{'+'.join(Path(d).stem for d in data)}-{config.preset}-{config.landmarks}"),
        images=None if lengths else config.images,
    )
    for name in ("images", "steps", "minutes"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be positive, got {value}")
    if not lengths and config.images is None:
        raise ValueError("give the length of the run: --images, --steps or --minutes")
    for name, value, least in (
        ("batch-size", config.batch_size, 1),
        ("seed", config.seed, 0),
        ("threads", config.threads, 0),
        ("log.every-steps", config.log.every_steps, 1),
        ("log.keep", config.log.keep, 1),
        ("log.statistics-batches", config.log.statistics_batches, 1),
        ("log.pictures", config.log.pictures, 1),
        ("log.snapshots", config.log.snapshots, 1),
    ):
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    for name in ("reconstruction", "separation", "separation_bandwidth"):
        if not all(0 < v < float("inf") for v in getattr(config.losses, name)):
            raise ValueError(f"losses.{name} must be positive and finite, got {getattr(config.losses, name)}")
    for name, number, positive in (
        ("losses.concentration", config.losses.concentration, False),
        ("losses.equivariance", config.losses.equivariance, False),
        ("losses.separation-until", config.losses.separation_until, True),
        ("optimizer.weight-decay", config.optimizer.weight_decay, False),
        ("optimizer.warmup-steps", config.optimizer.warmup_steps, False),
        ("optimizer.eps", config.optimizer.eps, True),
        ("warp.kernel-gain", config.warp.kernel_gain, True),
    ):
        if not (0 < number < float("inf") or (number == 0 and not positive)):
            raise ValueError(
                f"--{name} must be finite and {'positive' if positive else 'not negative'}, got {number}"
            )
    if not all(0 <= beta < 1 for beta in config.optimizer.betas):
        raise ValueError(f"optimizer.betas must be in [0, 1), got {config.optimizer.betas}")
    points = config.warp.grid**2
    if config.warp.landmark_share > 0 and not (3 <= config.landmarks <= points and config.warp.std > 0):
        raise ValueError(
            f"warp.landmark_share needs 3 to {points} landmarks (warp.grid squared) and a positive warp.std, "
            f"got {config.landmarks} landmarks and std {config.warp.std}"
        )
    if not config.optimizer.lr > 0:
        raise ValueError(f"optimizer.lr must be positive, got {config.optimizer.lr}")
    check_model_config(config.model)
    return config


def differences(before: TrainConfig, after: TrainConfig) -> list[str]:
    """What `identity` sees differently in two configurations, each as "field: old -> new"."""

    def flat(value: Any, where: str = "") -> dict[str, Any]:
        if isinstance(value, dict):
            return {
                k: v
                for name, inner in value.items()
                for k, v in flat(inner, f"{where}.{name}".lstrip(".")).items()
            }
        return {where: value}

    old, new = flat(_identifying(before)), flat(_identifying(after))
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]


def _identifying(config: TrainConfig) -> dict[str, Any]:
    values = to_dict(config)
    for name in ("out", "resume", "device", "threads", "cache", "log"):
        values.pop(name, None)
    return values
