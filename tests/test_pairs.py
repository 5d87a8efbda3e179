"""Pairs: what a training step sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmdis_fast.config import TrainConfig, check_config, preset_config
from lmdis_fast.data import BatchLoader, ImageData, open_dataset
from lmdis_fast.models import LandmarkAutoencoder
from lmdis_fast.pairs import make_pair


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return open_dataset(["puppets:24"], 64, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def setting(**warp: float | str) -> tuple[TrainConfig, LandmarkAutoencoder]:
    config = check_config(preset_config("small-64"))
    config = replace(config, batch_size=4, warp=replace(config.warp, **warp))
    torch.manual_seed(0)
    return config, LandmarkAutoencoder(config.model)


def test_pure_function_of_the_step(data: ImageData) -> None:
    config, model = setting()
    loader = BatchLoader(data, data.train_indices(), 4, config.seed)
    first, again = (make_pair(model, loader.batch(3), config, 3) for _ in range(2))
    other = make_pair(model, loader.batch(3), config, 4)
    assert torch.equal(first.padded, again.padded)
    assert not torch.equal(first.padded, other.padded)


def test_sharded_batch_is_a_part_of_the_whole(data: ImageData) -> None:
    config, model = setting()
    whole = make_pair(model, BatchLoader(data, data.train_indices(), 4, 0).batch(2), config, 2)
    for rank in range(2):
        loader = BatchLoader(data, data.train_indices(), 4, 0, rank=rank, world_size=2)
        part = make_pair(model, loader.batch(2), config, 2)
        own = slice(2 * rank, 2 * rank + 2)
        torch.testing.assert_close(part.images, whole.images[own])
        torch.testing.assert_close(part.half("warped"), whole.half("warped")[own])


def test_no_warp_gives_equal_halves(data: ImageData) -> None:
    still = {"std": 0.0, "rotation_degrees": 0.0, "log_scale": 0.0, "translation": 0.0, "linear_jitter": 0.0}
    config, model = setting(**still)
    pair = make_pair(model, BatchLoader(data, data.train_indices(), 4, 0).batch(0), config, 0)
    torch.testing.assert_close(pair.half("original"), pair.half("warped"), atol=1e-5, rtol=0)
    points = torch.rand(4, 5, 2) * 2 - 1
    torch.testing.assert_close(pair.spline.transform(points), points, atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", ["affine_after", "affine_before"])
def test_spline_takes_points_of_a_twin_to_its_original(data: ImageData, order: str) -> None:
    """A smooth picture of x and y is warped: the twin's colour at p must say where the spline sends p."""
    config, model = setting(order=order, translation=0.1, log_scale=0.05)
    config = replace(config, colour=replace(config.colour, contrast=0.0, brightness=0.0))
    ramp = np.linspace(40, 215, 64).round()
    images = np.zeros((len(data), 64, 64, 3), np.uint8)
    images[..., 0], images[..., 1] = ramp[None, None, :], ramp[None, :, None]
    painted = replace(data, images=images)
    pair = make_pair(model, BatchLoader(painted, data.train_indices(), 4, 0).batch(0), config, 0)
    rows, columns = torch.meshgrid(torch.arange(24, 40), torch.arange(24, 40), indexing="ij")
    points = torch.stack([(2 * columns + 1) / 64 - 1, (2 * rows + 1) / 64 - 1], -1).reshape(1, -1, 2)
    sent = pair.spline.transform(points.expand(4, -1, -1))
    colours = pair.half("warped")[:, :2, 24:40, 24:40].reshape(4, 2, -1).transpose(1, 2)
    # 40 + 175 i / 63 is the value of pixel i, whose centre is at (2 i + 1) / 64 - 1.
    seen = ((colours * 255 - 40) * 63 / 175 * 2 + 1) / 64 - 1
    assert float((seen - sent).abs().max()) < 0.02


def test_landmark_splines(data: ImageData) -> None:
    config, model = setting(landmark_share=1.0)
    pair = make_pair(model, BatchLoader(data, data.train_indices(), 4, 0).batch(0), config, 0)
    assert pair.spline.centers.shape == (4, config.landmarks, 2)
    assert bool(torch.isfinite(pair.padded).all())
    config, model = setting(landmark_share=0.0)
    pair = make_pair(model, BatchLoader(data, data.train_indices(), 4, 0).batch(0), config, 0)
    assert pair.spline.centers.shape[-2] == config.warp.grid**2


def test_published_padding_is_warped_with_the_image(data: ImageData, tmp_path: Path) -> None:
    config = check_config(preset_config("paper-80"))
    config = replace(config, batch_size=2)
    wide = open_dataset(["puppets:6"], 80, cache_dir=tmp_path, progress=False)
    pair = make_pair(
        LandmarkAutoencoder(config.model), BatchLoader(wide, wide.train_indices(), 2, 0).batch(0), config, 0
    )
    assert pair.images.shape == (2, 3, 80, 80)
    assert pair.padded.shape == (4, 3, 96, 96)
    torch.testing.assert_close(pair.padded[:2, :, 8:88, 8:88], pair.images)
    assert pair.half("warped").shape == (2, 3, 80, 80)
