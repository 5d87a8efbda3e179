"""Batches for training: one gather from the mapped cache each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lmdis_fast.data.image_data import ImageData
from lmdis_fast.data.order import global_batch, shard


class Batch(NamedTuple):
    """One process' share of the batch of one step."""

    images: torch.Tensor
    """(b, 3, S, S) uint8, channels_last."""
    samples: npt.NDArray[np.int64]
    """(b,) indices into the data set."""
    epochs: npt.NDArray[np.int64]
    """(b,) the epoch each belongs to."""


def gather(data: ImageData, samples: npt.NDArray[np.int64]) -> torch.Tensor:
    """(b, 3, S, S) uint8 channels_last tensor of the images ``samples`` (b,)."""
    return torch.from_numpy(np.take(data.images, samples, axis=0)).permute(0, 3, 1, 2)


class BatchLoader:
    """The batches of a run: a pure function of the step.

    Args:
        data: the images.
        indices: (m,) which of them to train on.
        batch_size: images of one step over all processes together; a multiple of ``world_size``.
        seed: of the order.
        rank: this process' number.
        world_size: number of processes.

    Raises:
        ValueError: no indices, or an argument out of its range.
    """

    def __init__(
        self,
        data: ImageData,
        indices: npt.NDArray[np.int64],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data = data
        self.indices = np.asarray(indices, np.int64)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        if self.indices.ndim != 1 or not len(self.indices):
            raise ValueError(f"BatchLoader: indices must be (m,) with m at least 1, got {self.indices.shape}")
        if self.indices.min() < 0 or self.indices.max() >= len(data):
            raise ValueError(f"BatchLoader: indices must be in [0, {len(data)})")
        shard(global_batch(seed, 0, batch_size, len(self.indices))[0], rank, world_size)

    def batch(self, step: int) -> Batch:
        """This process' share of the batch of ``step``."""
        order, epochs = global_batch(self.seed, step, self.batch_size, len(self.indices))
        samples = shard(self.indices[order], self.rank, self.world_size)
        return Batch(gather(self.data, samples), samples, shard(epochs, self.rank, self.world_size))

    def epoch(self, step: int) -> float:
        """How many times each image has been seen, on average, before ``step``."""
        return step * self.batch_size / len(self.indices)
