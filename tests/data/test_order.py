"""Order, shares and random numbers are pure functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmdis_fast.data import (
    BatchLoader,
    ColourConfig,
    ImageData,
    WarpConfig,
    epoch_order,
    global_batch,
    open_dataset,
    random_colour,
    random_warp,
    sample_rng,
    shard,
)
from lmdis_fast.data.order import SampleRng


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return open_dataset("puppets:40", 16, cache_dir=tmp_path_factory.mktemp("cache"))


def test_epoch_order() -> None:
    order = epoch_order(3, 5, 100)
    assert sorted(order.tolist()) == list(range(100)) and order.dtype == np.int64
    np.testing.assert_array_equal(order, epoch_order(3, 5, 100))
    others = [epoch_order(4, 5, 100), epoch_order(3, 6, 100), epoch_order(5, 3, 100)]
    assert all((other != order).sum() > 80 for other in others)
    # Every sample comes at every place equally often.
    places = np.stack([epoch_order(0, epoch, 5) for epoch in range(4000)])
    counts = np.stack([np.bincount(places[:, place], minlength=5) for place in range(5)])
    assert np.abs(counts - 800).max() < 120


def test_order_does_not_change_with_releases() -> None:
    assert epoch_order(0, 0, 8).tolist() == FIRST_ORDER


FIRST_ORDER = [0, 2, 1, 5, 4, 3, 6, 7]


@pytest.mark.parametrize(("batch", "n"), [(8, 20), (7, 7), (13, 5), (1, 3), (64, 1)])
def test_steps_are_the_endless_sequence(batch: int, n: int) -> None:
    steps = [global_batch(11, step, batch, n) for step in range(9)]
    samples, epochs = (np.concatenate([step[part] for step in steps]) for part in (0, 1))
    np.testing.assert_array_equal(epochs, np.arange(9 * batch) // n)
    for epoch in range(int(epochs[-1])):
        np.testing.assert_array_equal(samples[epochs == epoch], epoch_order(11, epoch, n))


def test_shares_are_the_global_batch() -> None:
    samples, _ = global_batch(0, 3, 24, 100)
    for world in (1, 2, 3, 8, 24):
        parts = [shard(samples, rank, world) for rank in range(world)]
        np.testing.assert_array_equal(np.concatenate(parts), samples)
        assert len({len(part) for part in parts}) == 1
    with pytest.raises(ValueError, match="batch of 24 must be a multiple of world_size 5"):
        shard(samples, 0, 5)
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        shard(samples, 2, 2)
    with pytest.raises(ValueError, match="world_size must be"):
        shard(samples, 0, 0)


def test_order_errors() -> None:
    with pytest.raises(
        ValueError, match=r"epoch_order: seed must be a whole number in \[0, 2\*\*64\), got -1"
    ):
        epoch_order(-1, 0, 5)
    with pytest.raises(ValueError, match="epoch_order: n must be"):
        epoch_order(0, 0, 0)
    with pytest.raises(ValueError, match="global_batch: batch_size must be"):
        global_batch(0, 0, 0, 5)
    with pytest.raises(ValueError, match=r"sample_rng: step must be .* got 1\.5"):
        sample_rng(0, 0, 0, 1.5, 0)  # type: ignore[arg-type]


def test_sample_rng() -> None:
    state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    reference = sample_rng(1, 2, 3, 4, 5).random(4)
    np.testing.assert_array_equal(reference, sample_rng(1, 2, 3, 4, 5).random(4))
    seen = {tuple(reference)}
    for position in range(5):
        numbers = [1, 2, 3, 4, 5]
        numbers[position] += 1
        seen.add(tuple(sample_rng(*numbers).random(4)))
    seen.add(tuple(sample_rng(2, 1, 3, 4, 5).random(4)))
    seen.add(tuple(sample_rng(1, 4, 3, 2, 5).random(4)))
    assert len(seen) == 8
    largest = 2**64 - 1
    sample_rng(largest, largest, largest, largest, largest).random()
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


def test_warps_do_not_depend_on_the_company() -> None:
    samples, epochs = global_batch(0, 7, 12, 40)
    whole = random_warp(5, epochs, samples, 7, WarpConfig())
    assert whole.displacements.shape == (12, 49, 2) and whole.affine.shape == (12, 2, 3)
    assert whole.displacements.dtype == whole.affine.dtype == np.float32
    colours = random_colour(5, epochs, samples, 7, ColourConfig())
    for rank in range(3):
        share = slice(4 * rank, 4 * rank + 4)
        part = random_warp(5, shard(epochs, rank, 3), shard(samples, rank, 3), 7, WarpConfig())
        np.testing.assert_array_equal(part.displacements, whole.displacements[share])
        np.testing.assert_array_equal(part.affine, whole.affine[share])
        tint = random_colour(5, shard(epochs, rank, 3), shard(samples, rank, 3), 7, ColourConfig())
        np.testing.assert_array_equal(tint.contrast, colours.contrast[share])
    second = random_warp(5, epochs, samples, 7, WarpConfig(), image=1)
    assert (second.displacements != whole.displacements).all()


def test_warp_distribution() -> None:
    samples = np.arange(4000)
    given = {"log_scale": 0.22, "translation": 0.3, "linear_jitter": 0.067}
    config = WarpConfig(grid=3, **given)
    warp = random_warp(0, np.zeros_like(samples), samples, 0, config)
    assert warp.displacements.shape == (4000, 9, 2)
    assert abs(warp.displacements.std() - 0.05) < 0.001 and abs(warp.displacements.mean()) < 0.001
    linear, shift = warp.affine[:, :, :2], warp.affine[:, :, 2]
    assert np.abs(shift).max() <= 0.3 and abs(shift.std() - 0.3 / np.sqrt(3)) < 0.005
    plain = random_warp(0, 0 * samples, samples, 0, WarpConfig(**{**given, "linear_jitter": 0.0})).affine[
        :, :, :2
    ]
    log_scale = 0.5 * np.log(np.linalg.det(plain))
    angle = np.rad2deg(np.arctan2(plain[:, 1, 0], plain[:, 0, 0]))
    assert abs(log_scale.std() - 0.22) < 0.01 and abs(angle.std() - 10) < 0.4
    wobble = random_warp(
        0, 0 * samples, samples, 0, WarpConfig(**{**given, "rotation_degrees": 0.0, "log_scale": 0.0})
    ).affine[:, :, :2]
    assert abs((wobble - np.eye(2)).std() - 0.067) < 0.003
    assert abs(linear[:, 0, 1].mean() + linear[:, 1, 0].mean()) < 0.02
    still = WarpConfig(std=0, rotation_degrees=0, log_scale=0, translation=0, linear_jitter=0)
    nothing = random_warp(0, 0 * samples[:2], samples[:2], 0, still)
    np.testing.assert_array_equal(nothing.affine, np.tile([[[1, 0, 0], [0, 1, 0]]], (2, 1, 1)))
    assert not nothing.displacements.any()


def test_colours() -> None:
    samples = np.arange(3000)
    colours = random_colour(0, 0 * samples, samples, 0, ColourConfig())
    assert 0.6 <= colours.contrast.min() < 0.61 and 1.39 < colours.contrast.max() <= 1.4
    assert -0.12 <= colours.brightness.min() < -0.119 and 0.119 < colours.brightness.max() <= 0.12
    assert colours.contrast.dtype == colours.brightness.dtype == np.float32
    one = random_colour(0, 0 * samples, samples, 0, ColourConfig(per_image=False))
    assert len(set(one.contrast.tolist())) == 1
    assert (
        one.contrast[0]
        == random_colour(0, samples[:3], samples[5:8], 0, ColourConfig(per_image=False)).contrast[0]
    )
    assert one.contrast[0] != random_colour(0, samples, samples, 1, ColourConfig(per_image=False)).contrast[0]
    assert (
        one.contrast[0]
        != random_colour(0, samples, samples, 0, ColourConfig(per_image=False), image=1).contrast[0]
    )


def test_configuration_errors() -> None:
    with pytest.raises(ValueError, match="WarpConfig: grid must be at least 2, got 1"):
        WarpConfig(grid=1)
    with pytest.raises(ValueError, match="WarpConfig: std must be finite and not negative, got -1"):
        WarpConfig(std=-1)
    with pytest.raises(ValueError, match="WarpConfig: order must be"):
        WarpConfig(order="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ColourConfig: contrast must be in \[0, 1\], got 2"):
        ColourConfig(contrast=2)
    with pytest.raises(ValueError, match=r"epochs and samples must be \(B,\) both, got \(2,\) and \(3,\)"):
        random_warp(0, np.zeros(2, np.int64), np.zeros(3, np.int64), 0, WarpConfig())


def test_batches(data: ImageData) -> None:
    train = data.train_indices()
    loader = BatchLoader(data, train[5:], 12, 9)
    batch = loader.batch(4)
    assert batch.images.shape == (12, 3, 16, 16) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for image, sample in zip(batch.images, batch.samples, strict=True):
        np.testing.assert_array_equal(image.numpy().transpose(1, 2, 0), data.images[sample])
    assert set(batch.samples.tolist()) <= set(train[5:].tolist())
    assert torch.equal(batch.images, loader.batch(4).images)
    parts = [BatchLoader(data, train[5:], 12, 9, rank, 3).batch(4) for rank in range(3)]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    np.testing.assert_array_equal(np.concatenate([part.epochs for part in parts]), batch.epochs)
    assert loader.epoch(35) == 12
    untouched = data.images[batch.samples[0]].copy()
    batch.images.zero_()
    np.testing.assert_array_equal(data.images[batch.samples[0]], untouched)


def test_batch_errors(data: ImageData) -> None:
    with pytest.raises(ValueError, match="multiple of world_size"):
        BatchLoader(data, data.train_indices(), 10, 0, 0, 4)
    with pytest.raises(ValueError, match=r"indices must be \(m,\) with m at least 1"):
        BatchLoader(data, np.zeros(0, np.int64), 10, 0)
    with pytest.raises(ValueError, match=r"indices must be in \[0, "):
        BatchLoader(data, np.array([0, 10**6]), 10, 0)


def test_subsets(data: ImageData) -> None:
    test = data.subset("test")
    assert len(test) == 2 and np.shares_memory(test.images, data.images)
    picked = data.subset(np.array([5, 1]))
    np.testing.assert_array_equal(picked.images[1], data.images[1])
    np.testing.assert_array_equal(picked.landmarks[0], data.landmarks[5])
    with pytest.raises(ValueError, match="no image has split 'val'; this data set has test, train"):
        data.subset("val")


def test_one_generator_for_many_samples_draws_what_philox_draws_for_each() -> None:
    rngs = SampleRng()
    for seed, epoch, sample, step, stream in [
        (1, 2, 3, 4, 5),
        (2**64 - 1, 0, 2**64 - 1, 7, 16),
        (1, 2, 3, 4, 5),
    ]:
        rng = rngs.at(seed, epoch, sample, step, stream)
        counter = epoch << 192 | step << 128 | sample << 64
        new = np.random.Generator(np.random.Philox(key=stream << 64 | seed, counter=counter))
        np.testing.assert_array_equal(rng.standard_normal(7), new.standard_normal(7))
        # half a word is left over: the next sample must not see it
        np.testing.assert_array_equal(rng.integers(0, 9, 3, np.int32), new.integers(0, 9, 3, np.int32))
    with pytest.raises(ValueError, match=r"sample_rng: step must be .* got -1"):
        rngs.at(0, 0, 0, -1, 0)
