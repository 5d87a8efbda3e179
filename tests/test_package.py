"""What the package itself offers."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

import pytest
import torch

import lmdis_fast
from lmdis_fast.checkpoint import CheckpointError, save_checkpoint
from lmdis_fast.config import TrainConfig, check_config
from lmdis_fast.models import LandmarkAutoencoder, model_preset
from lmdis_fast.train import build_optimizer


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    model = model_preset("small-64", landmarks=3, image_size=32)
    return check_config(TrainConfig(landmarks=3, image_size=32, steps=1, model=model))


def test_loading_what_was_saved(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LandmarkAutoencoder(config.model)
    model(torch.rand(4, 3, 32, 32))  # batch statistics other than the initial ones
    save_checkpoint(tmp_path, config, model, build_optimizer(model, config.optimizer), 7, 1.5, keep=2)
    images = torch.rand(2, 3, 32, 32)
    loaded = lmdis_fast.load(tmp_path)
    assert isinstance(loaded, LandmarkAutoencoder) and not loaded.training and loaded.precision == "fp32"
    assert loaded.config == config.model
    code = loaded.encode(images)
    assert isinstance(code, lmdis_fast.LandmarkCode)
    assert torch.equal(code.coords, model.eval().encode(images).coords)
    assert torch.equal(loaded.decode(code), model(images))
    assert torch.equal(
        lmdis_fast.load(tmp_path / "checkpoint-00000007.safetensors").detect(images).coords, code.coords
    )


def test_only_the_newest_are_kept(config: TrainConfig, tmp_path: Path) -> None:
    model = LandmarkAutoencoder(config.model)
    for step in (1, 2, 30):
        save_checkpoint(tmp_path, config, model, build_optimizer(model, config.optimizer), step, 0.0, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-00000002.safetensors",
        "checkpoint-00000030.safetensors",
    ]


def test_what_was_just_written_stays(config: TrainConfig, tmp_path: Path) -> None:
    model = LandmarkAutoencoder(config.model)
    for step in (16, 24):
        (tmp_path / f"checkpoint-{step:08d}.safetensors").write_bytes(b"damaged")
    path = save_checkpoint(tmp_path, config, model, build_optimizer(model, config.optimizer), 8, 0.0, keep=2)
    assert path.exists()


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint; give the folder of a run"):
        lmdis_fast.load(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        lmdis_fast.load(tmp_path / "missing")


def test_weights_of_another_program(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "checkpoint-00000001.safetensors")
    with pytest.raises(CheckpointError, match="is not a checkpoint of lmdis_fast"):
        lmdis_fast.load(tmp_path)


def test_version_and_types() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", lmdis_fast.__version__)
    assert importlib.resources.files("lmdis_fast").joinpath("py.typed").is_file()
    assert all(hasattr(lmdis_fast, name) for name in lmdis_fast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'landmarks'"):
        lmdis_fast.landmarks  # type: ignore[attr-defined]  # noqa: B018
