"""What a model of a GPU kernel consists of: the sizes of a call, what a kernel costs there, an operator's kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Way = Literal["forward", "backward"]
Launch = Mapping[str, int]
"""A launch table's entry: TILE, STEPS, num_warps and so on; empty where there is none."""
LARGEST_RATIO: dict[Way, float] = {"forward": 1.25, "backward": 1.5}
"""Bytes moved over the least, summed over the kernels of an operator, beyond which a row is marked."""


@dataclass(frozen=True)
class Size:
    """Sizes of a call: N images of ``side`` squared pixels, K landmarks, S features, L levels; bytes of an element."""

    landmarks: int
    side: int
    features: int
    bytes: int
    batch: int = 32
    levels: int = 3
    points: int = 49
    colours: int = 3

    @property
    def pixels(self) -> int:
        """Of the whole batch."""
        return self.batch * self.side * self.side

    @property
    def channels(self) -> int:
        """Landmarks and the background."""
        return self.landmarks + 1

    def maps(self, channels: int) -> float:
        """Bytes of maps of so many channels."""
        return float(self.pixels * channels * self.bytes)

    def tiles(self, launch: Launch) -> int:
        """Tiles of the whole batch."""
        return self.batch * -(-self.side * self.side // (launch.get("TILE", 256) * launch.get("STEPS", 1)))


@dataclass(frozen=True)
class Cost:
    """Bytes, float32 multiply-adds (anything alone counts as one), and exponentials, logarithms and reciprocals."""

    least: float
    moved: float
    madds: float = 0.0
    special: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.least + other.least,
            self.moved + other.moved,
            self.madds + other.madds,
            self.special + other.special,
        )


@dataclass(frozen=True)
class Kernel:
    """One kernel. ``cost`` takes the launch table's entry of the kernel named ``partials`` (its own where None).

    A cost that moves nothing means that the kernel is not launched.
    """

    name: str
    cost: Callable[[Size, Launch], Cost]
    partials: str | None = None
    backend: str = "triton"
    threads: int | None = None
    """Of a block; None for what the launch table says."""


@dataclass(frozen=True)
class Operator:
    """The kernels of one operator, way and backend in the order of their launches, and the sizes that count for them."""

    room: str
    name: str
    way: Way
    kernels: tuple[Kernel, ...]
    varies: tuple[Literal["landmarks", "features"], ...] = ()
