"""Checkpoints: one safetensors file each, written atomically, with the run's configuration inside. Nothing is pickled."""

from __future__ import annotations

import json
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import TrainConfig, to_dict
from .models import LandmarkAutoencoder
from .precision import resolve_device
from .read_config import config_from_dict

FORMAT = 1
PATTERN = "checkpoint-*.safetensors"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, found or read; the message says what to do."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's file is not whole."""


@dataclass
class Checkpoint:
    """What a checkpoint holds."""

    config: TrainConfig
    step: int
    seconds: float
    """Time spent in training until then."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    path: Path


def flat_optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Adam's moments and step counts by parameter name."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """The inverse of `flat_optimizer_state`."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter, key = name.rsplit("/", 1)
        target = parameters[parameter]
        if not target.requires_grad:  # a bias before a batch norm, which had moments once
            continue
        if key == "step":
            optimizer.state[target][key] = tensor.to(target.device if target.is_cuda else "cpu")
        else:
            # Adam's fused step walks through memory: moments must lie in the order of their weights.
            optimizer.state[target][key] = torch.empty_like(target).copy_(tensor)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step:08d}.safetensors"


def save_checkpoint(
    folder: Path,
    config: TrainConfig,
    model: LandmarkAutoencoder,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
    keep: int,
) -> Path:
    """Write the checkpoint of a step and delete all but the `keep` newest.

    The file appears under its name only when it is complete and on disk.

    Raises:
        CheckpointError: it could not be written; what was there before is untouched.
    """
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"optimizer/{k}": v for k, v in flat_optimizer_state(optimizer, model).items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {
        "format": FORMAT,
        "step": step,
        "images": step * config.batch_size,
        "seconds": seconds,
        "config": to_dict(config),
        "identity": config.identity(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    path = checkpoint_path(folder, step)
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={"lmdis_fast": json.dumps(header)})
        temporary.chmod(0o644)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write {path} ({error}); free some space and go on with --resume auto"
        ) from error
    # Later steps are of no concern: they are damaged files that this run has passed over, and will write again.
    for old in sorted(p for p in folder.glob(PATTERN) if p.name <= path.name)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint meant by a run folder (its newest one) or by a checkpoint's own path.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    found = sorted(path.glob(PATTERN)) if path.is_dir() else []
    if not found:
        what = "holds no checkpoint" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}; give the folder of a run or a {PATTERN} file")
    return found[-1]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the checkpoint that `find_checkpoint` finds.

    Raises:
        CheckpointError: it is missing, damaged, or of another program or version.
    """
    path = find_checkpoint(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "lmdis_fast" not in metadata:
                raise CheckpointError(f"{path} is not a checkpoint of lmdis_fast")
            header: dict[str, Any] = json.loads(metadata["lmdis_fast"])
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} has format {header.get('format')}, this version reads {FORMAT}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (OSError, SafetensorError, json.JSONDecodeError, struct.error) as error:
        if not path.match(PATTERN):
            raise CheckpointError(f"{path} is not a checkpoint of lmdis_fast ({error})") from error
        raise DamagedCheckpointError(
            f"{path} is damaged ({error}); delete it to go on from the checkpoint before it"
        ) from error
    try:
        config = config_from_dict(header["config"])
    except ValueError as error:
        raise CheckpointError(f"{path} was written by another version: {error}") from error

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return Checkpoint(
        config, int(header["step"]), float(header["seconds"]), part("model/"), part("optimizer/"), path
    )


def newest_readable(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run folder that is whole; None where there is none.

    Damaged ones are named on the way, and left in place. One of another version is an error, not a reason to start anew.
    """
    for path in sorted(folder.glob(PATTERN), reverse=True):
        try:
            return read_checkpoint(path)
        except DamagedCheckpointError as error:
            print(f"Passing over {error}")
    return None


def load(run: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> LandmarkAutoencoder:
    """A trained model, ready to use (in evaluation mode, in float32).

    Args:
        run: the folder of a run (its newest checkpoint is taken) or a checkpoint.
        device: where to put it.

    Returns:
        The model; its `config` says the image size it wants.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
    """
    if not isinstance(run, (str, os.PathLike)):
        raise TypeError(f"load: run must be a path, got {type(run).__name__}")
    return build_model(read_checkpoint(run), resolve_device(str(device)))


def build_model(checkpoint: Checkpoint, device: torch.device) -> LandmarkAutoencoder:
    """The model of a checkpoint, in evaluation mode."""
    model = LandmarkAutoencoder(checkpoint.config.model)
    model.load_state_dict(checkpoint.model)
    return model.to(device).eval()
