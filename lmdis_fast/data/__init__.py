"""Images in: folders, archives and built-in sets, a packed cache, and the order and randomness of training.

Depends on nothing else in the package.
"""

from lmdis_fast.data.augment import (
    ColourConfig,
    ColourDraws,
    WarpConfig,
    WarpDraws,
    random_colour,
    random_warp,
)
from lmdis_fast.data.batches import Batch, BatchLoader, gather
from lmdis_fast.data.frame import Fit, Frame
from lmdis_fast.data.image_data import ImageData
from lmdis_fast.data.open_dataset import open_dataset
from lmdis_fast.data.order import epoch_order, global_batch, sample_rng, shard
from lmdis_fast.data.sources import DataError

__all__ = [
    "Batch",
    "BatchLoader",
    "ColourConfig",
    "ColourDraws",
    "DataError",
    "Fit",
    "Frame",
    "ImageData",
    "WarpConfig",
    "WarpDraws",
    "epoch_order",
    "gather",
    "global_batch",
    "open_dataset",
    "random_colour",
    "random_warp",
    "sample_rng",
    "shard",
]
