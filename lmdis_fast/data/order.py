"""Which samples a step sees, and its random numbers: pure functions, no state anywhere.

Everything follows from (seed, epoch, sample, step): a run that is resumed, or spread over several processes,
sees exactly what one uninterrupted process sees. Randomness is Philox with these numbers as key and counter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

ORDER_STREAM = 0
"""Stream of the epochs' orders. Streams below 16 are the package's own."""
_WORD = 2**64


def _check(function: str, minimum: int = 0, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not minimum <= value < _WORD:
            raise ValueError(
                f"{function}: {name} must be a whole number in [{minimum}, 2**64), got {value!r}"
            )


class SampleRng:
    """One generator for many samples: to move it takes a tenth of the time that a new one takes."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._philox)
        self._state: Any = self._philox.state
        self._counter, self._key = self._state["state"]["counter"], self._state["state"]["key"]

    def at(self, seed: int, epoch: int, sample: int, step: int, stream: int) -> np.random.Generator:
        """The generator in the state of :func:`sample_rng`, until it is asked for the next sample's."""
        _check("sample_rng", seed=seed, epoch=epoch, sample=sample, step=step, stream=stream)
        # The lowest counter word runs as numbers are drawn; the other three and the key are ours.
        self._counter[:] = 0, sample, step, epoch
        self._key[:] = seed, stream
        self._philox.state = self._state
        return self._generator


def sample_rng(seed: int, epoch: int, sample: int, step: int, stream: int) -> np.random.Generator:
    """The random numbers of one sample at one step for one purpose.

    Args:
        seed, epoch, sample, step: whole numbers in [0, 2**64).
        stream: the purpose; different streams of the same sample are independent.

    Returns:
        A new generator, in the same state whenever it is asked for with the same numbers.
    """
    return SampleRng().at(seed, epoch, sample, step, stream)


@lru_cache(maxsize=8)
def _epoch_order(seed: int, epoch: int, n: int) -> IntArray:
    # Raw Philox words are the same in every numpy; Generator.permutation is not promised to be.
    words = sample_rng(seed, epoch, 0, 0, ORDER_STREAM).bit_generator.random_raw(n)
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def epoch_order(seed: int, epoch: int, n: int) -> IntArray:
    """The order of ``n`` samples in one epoch: a permutation, (n,) int64, read-only."""
    _check("epoch_order", seed=seed, epoch=epoch)
    _check("epoch_order", 1, n=n)
    return _epoch_order(int(seed), int(epoch), int(n))


def global_batch(seed: int, step: int, batch_size: int, n: int) -> tuple[IntArray, IntArray]:
    """The samples of one step, over all processes together.

    The epochs' orders follow each other in one endless sequence; step s takes places s B to (s + 1) B - 1,
    so no sample is dropped or seen twice where an epoch does not divide by the batch.

    Args:
        seed: whole number in [0, 2**64).
        step: number of steps before this one.
        batch_size: B, at least 1; may exceed n.
        n: number of samples, at least 1.

    Returns:
        (samples, epochs), each (B,) int64: samples in [0, n), and the epoch each belongs to.
    """
    _check("global_batch", seed=seed, step=step)
    _check("global_batch", 1, batch_size=batch_size, n=n)
    places = np.arange(int(step) * int(batch_size), (int(step) + 1) * int(batch_size), dtype=np.int64)
    epochs, within = np.divmod(places, int(n))
    samples = np.empty_like(places)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        samples[here] = epoch_order(seed, epoch, n)[within[here]]
    return samples, epochs


def shard(batch: IntArray, rank: int, world_size: int) -> IntArray:
    """One process' share of a global batch: a contiguous slice; the shares of all ranks in order are the
    batch.

    Raises:
        ValueError: rank is not in [0, world_size), or the batch does not divide by world_size.
    """
    _check("shard", 1, world_size=world_size)
    if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or not 0 <= rank < world_size:
        raise ValueError(f"shard: rank must be in [0, {world_size}), got {rank!r}")
    if len(batch) % world_size:
        raise ValueError(f"shard: batch of {len(batch)} must be a multiple of world_size {world_size}")
    share = len(batch) // world_size
    return batch[rank * share : (rank + 1) * share]
