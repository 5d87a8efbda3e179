"""What the rest of the package sees of a data set: one array of images and what is known about each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lmdis_fast.data.frame import Fit, Frame
from lmdis_fast.data.sources import DataError

MAX_TEST = 500
"""The most test images that are set aside where a data set has no split of its own."""


@dataclass(frozen=True)
class ImageData:
    """n images of side S with L landmarks; every array has one entry per image.

    Points are (x, y) in [-1, 1], -1 and 1 being the image's outer edges.
    """

    images: npt.NDArray[np.uint8]
    """(n, S, S, 3) RGB, mapped from the cache and read-only."""
    names: list[str]
    """Path inside the source; with several sources, behind the source's own name."""
    split: npt.NDArray[np.str_]
    """(n,) "train", "test" or whatever the data set calls it."""
    groups: npt.NDArray[np.str_]
    """(n,) person, video or photograph an image comes from; the image's own name where nothing is known."""
    landmarks: npt.NDArray[np.float32]
    """(n, L, 2), NaN where not annotated. L may be 0."""
    visible: npt.NDArray[np.bool_]
    """(n, L) annotated and, where that is known, not hidden."""
    landmark_names: list[str]
    """L names."""
    original_size: npt.NDArray[np.int64]
    """(n, 2) width and height of the upright originals in pixels."""
    fit: Fit = "crop"
    """How originals became square."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(file, reason) of everything left out."""
    attributes: dict[str, npt.NDArray[np.str_]] = field(default_factory=dict)
    """Other columns of the landmark tables, (n,) text each, "" where a source has none."""
    source: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) index into ``source_names``."""
    source_names: list[str] = field(default_factory=list)
    """The sources as given."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def image_size(self) -> int:
        """S."""
        return int(self.images.shape[1])

    def indices(self, split: str) -> npt.NDArray[np.int64]:
        """Images of one split, in order; empty where there are none."""
        return np.flatnonzero(self.split == split).astype(np.int64)

    def train_indices(self) -> npt.NDArray[np.int64]:
        """Images to train on: split "train"; where no image has that, all that are not "test"."""
        train = self.indices("train")
        return train if len(train) else np.flatnonzero(self.split != "test").astype(np.int64)

    def test_indices(self) -> npt.NDArray[np.int64]:
        """Images of split "test"; empty where the data set has none."""
        return self.indices("test")

    def frame(self, index: int) -> Frame:
        """How image ``index`` was cut from its original: maps points back to original pixels."""
        width, height = self.original_size[index].tolist()
        return Frame(width, height, self.fit, self.image_size)

    def subset(self, which: str | npt.NDArray[np.int64]) -> ImageData:
        """A data set of some images alone. The pixels are copied unless the indices follow each other.

        Args:
            which: the name of a split, or (m,) indices.

        Raises:
            DataError: the split has no image.
        """
        index = self.indices(which) if isinstance(which, str) else np.asarray(which, np.int64)
        if not len(index):
            has = ", ".join(sorted(set(self.split.tolist())))
            raise DataError(f"subset: no image has split {which!r}; this data set has {has}")
        row = bool(np.all(np.diff(index) == 1)) and int(index[0]) >= 0
        return ImageData(
            images=self.images[index[0] : index[-1] + 1] if row else self.images[index],
            names=[self.names[i] for i in index],
            split=self.split[index],
            groups=self.groups[index],
            landmarks=self.landmarks[index],
            visible=self.visible[index],
            landmark_names=list(self.landmark_names),
            original_size=self.original_size[index],
            fit=self.fit,
            skipped=list(self.skipped),
            attributes={name: values[index] for name, values in self.attributes.items()},
            source=self.source[index],
            source_names=list(self.source_names),
        )

    def summary(self) -> str:
        """One sentence: how many images, of which splits, with which points, and what was left out."""
        splits, counts = np.unique(self.split, return_counts=True)
        parts = ", ".join(
            f"{count} {name}" for name, count in zip(splits.tolist(), counts.tolist(), strict=True)
        )
        pointed = int(np.isfinite(self.landmarks).all(axis=2).any(axis=-1).sum())
        text = f"{len(self)} images of {self.image_size}x{self.image_size} ({parts})"
        text += (
            f", {pointed} with some of {len(self.landmark_names)} landmarks" if self.landmark_names else ""
        )
        return text + (f", {len(self.skipped)} files skipped" if self.skipped else "")


def hashed_split(hashes: Sequence[str], groups: Sequence[str] | None = None) -> list[str]:
    """Set about one image in ten aside for testing, by content.

    Equal pictures, and pictures of one group, stay together.

    Args:
        hashes: one per image, equal where the content is equal.
        groups: names of groups, where known.

    Returns:
        "train" or "test" for every image: at least 1 test image where there are two different ones, at most
        about 500.
    """
    units = list(hashes) if groups is None or len(set(groups)) < 2 else list(groups)
    members: dict[str, int] = {}
    for unit in units:
        members[unit] = members.get(unit, 0) + 1
    wanted = min(MAX_TEST, max(1, len(units) // 10))
    drawn = sorted(
        members, key=lambda unit: hashlib.blake2b(f"split {unit}".encode(), digest_size=16).digest()
    )
    test: set[str] = set()
    count = 0
    for unit in drawn[:-1]:
        if count >= wanted:
            break
        # A group much larger than what is wanted stays in training unless nothing else can be taken.
        if count + members[unit] <= 2 * wanted:
            test.add(unit)
            count += members[unit]
    if not test and len(drawn) > 1:
        test.add(min(drawn, key=lambda unit: members[unit]))
    return ["test" if unit in test else "train" for unit in units]


def joined(parts: Sequence[ImageData], images: npt.NDArray[np.uint8]) -> ImageData:
    """Several data sets of one image size as one, over ``images`` that holds all their pixels in order."""
    if len(parts) == 1:
        return parts[0]
    labels = unique_labels([part.source_names[0] for part in parts])
    landmark_names = list(dict.fromkeys(name for part in parts for name in part.landmark_names))
    attribute_names = list(dict.fromkeys(name for part in parts for name in part.attributes))
    total = sum(len(part) for part in parts)
    landmarks = np.full((total, len(landmark_names), 2), np.nan, np.float32)
    visible = np.zeros((total, len(landmark_names)), np.bool_)
    start = 0
    for part in parts:
        columns = [landmark_names.index(name) for name in part.landmark_names]
        landmarks[start : start + len(part), columns] = part.landmarks
        visible[start : start + len(part), columns] = part.visible
        start += len(part)
    empty = {len(part): np.full(len(part), "", dtype=np.str_) for part in parts}
    return ImageData(
        images=images,
        names=[f"{label}/{name}" for label, part in zip(labels, parts, strict=True) for name in part.names],
        split=np.concatenate([part.split for part in parts]),
        groups=np.array(
            [f"{lb}/{g}" for lb, part in zip(labels, parts, strict=True) for g in part.groups.tolist()]
        ),
        landmarks=landmarks,
        visible=visible,
        landmark_names=landmark_names,
        original_size=np.concatenate([part.original_size for part in parts]),
        fit=parts[0].fit,
        skipped=[
            (f"{lb}/{name}", why)
            for lb, part in zip(labels, parts, strict=True)
            for name, why in part.skipped
        ],
        attributes={
            name: np.concatenate([part.attributes.get(name, empty[len(part)]) for part in parts])
            for name in attribute_names
        },
        source=np.repeat(np.arange(len(parts), dtype=np.int64), [len(part) for part in parts]),
        source_names=[part.source_names[0] for part in parts],
    )


def unique_labels(sources: Sequence[str]) -> list[str]:
    """Short, different names for sources: the last part of each path, numbered where two are the same."""
    labels: list[str] = []
    for source in sources:
        base = source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or "data"
        label, number = base, 2
        while label in labels:
            label, number = f"{base}_{number}", number + 1
        labels.append(label)
    return labels
