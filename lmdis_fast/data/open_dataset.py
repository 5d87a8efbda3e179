"""Open data sets by name or path: the one function that the command lines call."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lmdis_fast.data import decoding, digits, puppets
from lmdis_fast.data.annotations import LandmarkTable, match_files, parse_landmark_table
from lmdis_fast.data.cache import PackedImages, cache_key, default_cache_dir, open_packed
from lmdis_fast.data.contents import content_hashes
from lmdis_fast.data.decoding import Picture
from lmdis_fast.data.frame import Fit, check_fit, fit_boxes, pixels_to_frame
from lmdis_fast.data.image_data import ImageData, hashed_split, joined
from lmdis_fast.data.parallel import cores, in_order
from lmdis_fast.data.progress import progress_bar, short_label
from lmdis_fast.data.sources import DataError, Found, ImageFile, find_images


def open_dataset(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    image_size: int,
    *,
    fit: Fit = "crop",
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> ImageData:
    """Open one or several sources as one data set; decode what is not in the cache yet.

    Args:
        sources: each a folder (recursive), a ``.tar``, one picture, an ``.npz`` with ``images`` (n, H, W[,
            3]) uint8 and
            optionally ``test`` (n,) bool and other (n,) columns, or a built-in set: "puppets" (8,000 train,
            500 test; "puppets:N" for N), "digits".
        image_size: S, the side of the images, at least 8.
        fit: how pictures become square; see ``lmdis_fast.data.frame.Fit``.
        cache_dir: where decoded images are kept; default: ``default_cache_dir()``.
        progress: show a bar while decoding; None: where stderr is a terminal.
        seed: of the puppets.

    Returns:
        The data set, in the sources' order. Files that cannot be used are listed in ``skipped``.

    Raises:
        DataError: a source does not exist or holds nothing usable, a landmark table is wrong, the cache
        cannot be written. ValueError: another argument is out of its range.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    names = [os.fspath(source) for source in sources]
    if not names:
        raise ValueError("open_dataset: sources must name at least one data set, got none")
    if not 8 <= image_size <= 4096:
        raise ValueError(f"open_dataset: image_size must be in [8, 4096], got {image_size}")
    check_fit(fit)
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    opened = [_open_one(name, image_size, fit, folder, progress, seed) for name in names]
    parts = [part for part, _ in opened]
    if len(parts) == 1:
        return parts[0]

    def rows() -> Iterator[Picture]:
        for part in parts:
            yield from ((image, (image_size, image_size)) for image in part.images)

    total = sum(len(part) for part in parts)
    packed = open_packed(cache_key("joined", [key for _, key in opened]), image_size, total, rows, folder)
    return joined(parts, packed.images)


def _open_one(
    name: str, size: int, fit: Fit, folder: Path, progress: bool | None, seed: int
) -> tuple[ImageData, str]:
    """One source and the key of its cache."""
    built_in, _, argument = name.partition(":")
    if built_in == "puppets" and not Path(name).exists():
        return _open_puppets(name, argument, size, folder, progress, seed)
    if name == "digits" and not Path(name).exists():
        images, labels, test = digits.load_digits()
        return _open_array(name, images, test, {"label": labels.astype(np.str_)}, size, fit, folder)
    if name.lower().endswith(".npz"):
        return _open_npz(name, size, fit, folder)
    return _open_files(name, size, fit, folder, progress)


def _open_files(name: str, size: int, fit: Fit, folder: Path, progress: bool | None) -> tuple[ImageData, str]:
    found = find_images(name)
    table, lines, files = _listed(found)
    workers = cores()
    hashes = content_hashes(files, os.path.abspath(name), folder, workers, progress)
    key = cache_key("files", size, fit, hashes)

    def pictures() -> Iterator[Picture | str]:
        with progress_bar(f"decoding {short_label(name)}", len(files), progress) as advance:

            def one(file: ImageFile) -> Picture | str:
                try:
                    return decoding.decode_picture(file.read(), size, fit)
                except decoding.UnusablePicture as reason:
                    return str(reason)
                except OSError as error:
                    return f"cannot be read ({error.strerror})"
                finally:
                    advance()

            yield from in_order(one, files, workers)

    try:
        packed = open_packed(key, size, len(files), pictures, folder)
    except DataError as error:
        if "usable" in str(error):
            raise DataError(f"data: {name!r}: {error}") from error
        raise
    kept = packed.kept.tolist()
    skipped = found.skipped + [(files[item].name, reason) for item, reason in packed.skipped]
    names = [files[item].name for item in kept]
    groups = names
    if table is None:
        split = hashed_split([hashes[item] for item in kept])
        points = np.zeros((len(kept), 0, 2))
        attributes: dict[str, npt.NDArray[np.str_]] = {}
    else:
        rows = [lines[item] for item in kept]
        groups = (
            [table.groups[row] or own for row, own in zip(rows, names, strict=True)]
            if table.groups
            else names
        )
        if table.split is None:
            split = hashed_split([hashes[item] for item in kept], groups if table.groups else None)
        else:
            split = [table.split[row] or "train" for row in rows]
        points = pixels_to_frame(table.points[rows], fit_boxes(packed.sizes, fit))
        attributes = {
            column: np.array([values[row] for row in rows]) for column, values in table.attributes.items()
        }
    point_names = table.point_names if table else []
    return _image_data(name, packed, names, split, groups, points, point_names, fit, skipped, attributes), key


def _listed(found: Found) -> tuple[LandmarkTable | None, list[int], list[ImageFile]]:
    """The table, and the files it lists with the lines that do; all files where there is no table."""
    if found.table is None:
        return None, [], found.files
    table = parse_landmark_table(found.table, found.table_path)
    pairs, left_out = match_files(table, found.files, found.table_path)
    found.skipped.extend(left_out)
    return table, [line for line, _ in pairs], [file for _, file in pairs]


def _open_npz(name: str, size: int, fit: Fit, folder: Path) -> tuple[ImageData, str]:
    try:
        with np.load(name, allow_pickle=False) as archive:
            arrays = {entry: np.asarray(archive[entry]) for entry in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"data: {name!r} cannot be read as .npz ({error})") from error
    images = arrays.pop("images", None)
    if (
        images is None
        or images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:] not in ((), (3,))
    ):
        got = "none" if images is None else f"{images.shape} {images.dtype}"
        raise DataError(f"data: {name!r} must hold 'images' (n, H, W) or (n, H, W, 3) uint8, got {got}")
    if not len(images) or min(images.shape[1:3]) < decoding.MIN_SIDE:
        raise DataError(
            f"data: {name!r} holds no image of at least {decoding.MIN_SIDE} pixels a side, got {images.shape}"
        )
    test = arrays.pop("test", None)
    if test is not None and (test.shape != (len(images),) or test.dtype != np.bool_):
        raise DataError(
            f"data: {name!r}: 'test' must be ({len(images)},) bool, got {test.shape} {test.dtype}"
        )
    columns = {entry: v.astype(np.str_) for entry, v in arrays.items() if v.shape == (len(images),)}
    return _open_array(name, images, test, columns, size, fit, folder)


def _open_array(
    name: str,
    images: npt.NDArray[np.uint8],
    test: npt.NDArray[np.bool_] | None,
    columns: dict[str, npt.NDArray[np.str_]],
    size: int,
    fit: Fit,
    folder: Path,
) -> tuple[ImageData, str]:
    hashes = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images]
    key = cache_key("array", size, fit, images.shape, hashes)

    def pictures() -> Iterator[Picture]:
        yield from in_order(lambda image: decoding.square_array(image, size, fit), images, cores())

    packed = open_packed(key, size, len(images), pictures, folder)
    split = hashed_split(hashes) if test is None else np.where(test, "test", "train").tolist()
    names = [f"{i:06d}" for i in range(len(images))]
    points = np.zeros((len(images), 0, 2))
    return _image_data(name, packed, names, split, names, points, [], fit, [], columns), key


def _open_puppets(
    name: str, argument: str, size: int, folder: Path, progress: bool | None, seed: int
) -> tuple[ImageData, str]:
    if argument and (not argument.isdecimal() or int(argument) < 1):
        raise DataError(f"data: 'puppets:N' needs a number of training images N of at least 1, got {name!r}")
    train = int(argument) if argument else puppets.TRAIN_COUNT
    test = min(puppets.TEST_COUNT, max(1, train // 16))
    # Test puppets have the same indices whatever the number of training puppets is.
    index = np.concatenate([np.arange(train), puppets.FIRST_TEST_INDEX + np.arange(test)])
    key = cache_key("puppets", puppets.VERSION, size, seed, train, test)

    def pictures() -> Iterator[Picture]:
        with progress_bar("drawing puppets", len(index), progress) as advance:
            chunks = [index[start : start + 64] for start in range(0, len(index), 64)]
            for images in in_order(lambda chunk: puppets.generate(chunk, size, seed)[0], chunks, cores()):
                for image in images:
                    advance()
                    yield image, (size, size)

    packed = open_packed(key, size, len(index), pictures, folder)
    points, visible = puppets.landmarks(index, seed)
    split = ["train"] * train + ["test"] * test
    names = [f"puppet_{i:07d}" for i in index.tolist()]
    data = _image_data(name, packed, names, split, names, points, puppets.LANDMARK_NAMES, "crop", [], {})
    return replace(data, visible=visible), key


def _image_data(
    source: str,
    packed: PackedImages,
    names: Sequence[str],
    split: Sequence[str],
    groups: Sequence[str],
    points: npt.NDArray[np.floating],
    point_names: Sequence[str],
    fit: Fit,
    skipped: Sequence[tuple[str, str]],
    attributes: dict[str, npt.NDArray[np.str_]],
) -> ImageData:
    return ImageData(
        images=packed.images,
        names=list(names),
        split=np.array(split, dtype=np.str_),
        groups=np.array(groups, dtype=np.str_),
        landmarks=points.astype(np.float32),
        visible=np.isfinite(points).all(axis=2),
        landmark_names=list(point_names),
        original_size=packed.sizes,
        fit=fit,
        skipped=list(skipped),
        attributes=attributes,
        source=np.zeros(len(names), np.int64),
        source_names=[source],
    )
