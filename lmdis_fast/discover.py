"""Discover: `python -m lmdis_fast.discover RUN IMAGES... --out DIR`.

Finds a run's landmarks in images (files, folders, .tar) and writes them down, with pictures to look at. DIR gets

- landmarks.csv (or .json): for each image `file`, `width`, `height`, and for each landmark k
    - `landmark<k>_x`, `landmark<k>_y`: pixels of the original image, upright after the camera's rotation flag, (0, 0) being
      the centre of its top-left pixel;
    - `landmark<k>_confidence`: share of the heatmap's pixels that the landmark holds, in [0, 1]; the shares of all landmarks
      and of the background add up to 1, so a landmark that looks for a small part is sure of it at 0.01. Heatmaps
      normalised over space (--model.detector.over pixels or marginals) give every landmark 1;
    - `landmark<k>_spread`: standard deviation of the heatmap, the mean of those along x and y, in pixels of the original;
- overlays/: the original images with their landmarks;
- overview.png: some of them on one sheet, as the network sees them;
- skipped.txt: files that could not be used, and why, if there were any.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt
import torch
import tyro
from PIL import Image

from .checkpoint import CheckpointError, build_model, read_checkpoint
from .data import DataError, Fit, Frame
from .data.decoding import UnusablePicture, decode_picture, decode_upright
from .data.parallel import cores, in_order
from .data.progress import progress_bar
from .data.sources import IMAGE_SUFFIXES, ImageFile, find_images
from .models import LandmarkAutoencoder
from .pictures import Picture, contact_sheet, draw_landmarks
from .precision import resolve_device

BATCH = 32
OVERLAY_SIDE = 1024
"""Overlays of larger images are scaled down to this longer side."""
SHEET_ROWS, SHEET_COLUMNS, SHEET_SIDE = 6, 8, 160

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DiscoverConfig:
    """Find a run's landmarks in images: a table of pixel coordinates, overlay pictures and an overview."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or a checkpoint."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES...")]
    """Image files, folders (searched to the bottom) and .tar files."""
    out: str
    """Folder to write to."""
    format: Literal["csv", "json"] = "csv"
    """Of the table."""
    overlays: Literal["all", "none"] | int = "all"
    """How many of the images to draw with their landmarks: all, none, or the first N."""
    fit: Annotated[Literal["crop", "squeeze", "pad"] | None, tyro.conf.arg(aliases=("--data-fit",))] = None
    """How pictures become square; default: as in training."""
    views: Literal[1, 9] = 9
    """Landmarks are means over this many views of each image, shifted by a pixel; 1: the image alone, nine times faster."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


class Found(NamedTuple):
    """One image's landmarks, in pixels of the upright original."""

    name: str
    width: int
    height: int
    points: Points
    """(K, 2)"""
    confidence: Points
    """(K,)"""
    spread: Points
    """(K,)"""


class Decoded(NamedTuple):
    """One image on its way to the network."""

    name: str
    file: ImageFile
    square: Picture
    frame: Frame


def list_images(
    arguments: Sequence[str], out: Path
) -> tuple[list[tuple[str, ImageFile]], list[tuple[str, str]]]:
    """The image files that arguments mean, each once and under a name of its own, and (name, reason) of what is none.

    Names are relative to a folder or tar that is the only argument, and paths as given elsewhere. What lies in `out`
    does not count.

    Raises:
        DataError: an argument does not exist.
    """
    files: list[tuple[str, ImageFile]] = []
    skipped: list[tuple[str, str]] = []
    seen: set[tuple[str, int]] = set()
    names: set[str] = set()
    inside = os.path.realpath(out) + os.sep
    for argument in arguments:
        path = Path(argument)
        if not path.exists():
            raise DataError(f"IMAGES: {argument!r} does not exist")
        if path.is_file() and path.suffix.lower() not in {*IMAGE_SUFFIXES, ".tar"}:
            skipped.append((argument, "neither an image file nor a .tar"))
            continue
        single = path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
        prefix = "" if len(arguments) == 1 or single else argument.rstrip("/") + "/"
        try:
            found = find_images(argument)
        except DataError as error:
            skipped.append((argument, str(error).removeprefix("data: ")))
            continue
        skipped += [(prefix + name, reason) for name, reason in found.skipped]
        for file in found.files:
            real = os.path.realpath(file.path)
            if real.startswith(inside) or (real, file.offset) in seen:
                continue
            seen.add((real, file.offset))
            wanted = argument if single else prefix + file.name
            name = next(n for n in itertools.chain([wanted], _numbered(wanted)) if n not in names)
            names.add(name)
            files.append((name, file))
    return files, skipped


def _numbered(name: str) -> Iterator[str]:
    return (f"{name}#{number}" for number in itertools.count(2))


@torch.no_grad()
def find_landmarks(
    model: LandmarkAutoencoder, batch: Sequence[Decoded], views: int
) -> Iterator[tuple[Found, npt.NDArray[np.float32]]]:
    """Each image's landmarks in pixels of its original, and as (K, 2) points in [-1, 1] of its square."""
    images = torch.from_numpy(np.stack([item.square for item in batch])).permute(0, 3, 1, 2)
    detection = model.detect(images.to(model.device), views=views)
    coords, variance, mass = (np.asarray(t.double().cpu()) for t in detection)
    for item, points, var, share in zip(batch, coords, variance, mass, strict=True):
        left, top, right, bottom = item.frame.box
        spread = np.sqrt(var) @ np.array([right - left, bottom - top]) / 4
        found = Found(
            item.name, item.frame.width, item.frame.height, item.frame.to_pixels(points), share, spread
        )
        yield found, points.astype(np.float32)


class Table:
    """Writes landmarks as they come: one csv row, or one object of the json's list, each."""

    def __init__(self, file: TextIO, kind: str, landmarks: int, run: str) -> None:
        self.file, self.kind, self.count = file, kind, 0
        self.landmarks = [f"landmark{k}" for k in range(landmarks)]
        if kind == "csv":
            parts = ("x", "y", "confidence", "spread")
            columns = [f"{name}_{part}" for name in self.landmarks for part in parts]
            self._row(["file", "width", "height", *columns])
        else:
            units = {
                "x, y": "pixels of the upright original image, (0, 0) is the centre of its top-left pixel",
                "confidence": "share of the heatmap's pixels that the landmark holds, in [0, 1]",
                "spread": "standard deviation of the heatmap in pixels of the original image",
            }
            head = {"run": run, "landmarks": self.landmarks, "units": units}
            file.write(json.dumps(head, indent=1)[:-2] + ',\n "images": [')

    def _row(self, values: Iterable[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        self.file.write(line.getvalue())

    def add(self, found: Found) -> None:
        """Write one image's landmarks."""
        rows = [
            (round(x, 3), round(y, 3), float(f"{confidence:.6g}"), round(spread, 3))
            for (x, y), confidence, spread in zip(
                found.points.tolist(), found.confidence.tolist(), found.spread.tolist(), strict=True
            )
        ]
        if self.kind == "csv":
            self._row([found.name, found.width, found.height, *itertools.chain(*rows)])
        else:
            keys = ("x", "y", "confidence", "spread")
            entry = {
                "file": found.name,
                "width": found.width,
                "height": found.height,
                "landmarks": {
                    name: dict(zip(keys, row, strict=True))
                    for name, row in zip(self.landmarks, rows, strict=True)
                },
            }
            self.file.write((",\n  " if self.count else "\n  ") + json.dumps(entry))
        self.count += 1

    def finish(self) -> None:
        """Write what comes after the last image."""
        if self.kind == "json":
            self.file.write("\n ]\n}\n")


@contextmanager
def written_at_once(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name, in place of an older one, when it is complete."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def decode_all(
    files: Sequence[tuple[str, ImageFile]], size: int, fit: Fit, skipped: list[tuple[str, str]]
) -> Iterator[Decoded]:
    """Decoded images in the files' order; what cannot be used goes to `skipped`."""

    def one(item: tuple[str, ImageFile]) -> Decoded | tuple[str, str]:
        name, file = item
        try:
            square, (width, height) = decode_picture(file.read(), size, fit)
        except UnusablePicture as reason:
            return name, str(reason)
        except OSError as error:
            return name, f"cannot be read ({error.strerror})"
        return Decoded(name, file, square, Frame(width, height, fit, size))

    for result in in_order(one, files, cores()):
        if isinstance(result, Decoded):
            yield result
        else:
            skipped.append(result)


def draw_overlay(item: Decoded, found: Found, path: Path) -> str | None:
    """The original image with its landmarks, as a JPEG; the reason where it cannot be drawn."""
    try:
        picture, size = decode_upright(item.file.read(), OVERLAY_SIDE)
    except UnusablePicture as reason:
        return str(reason)
    coords = (2 * found.points + 1) / np.array(size) - 1
    drawn = draw_landmarks(picture, coords.astype(np.float32), numbers=max(size) >= 256)
    Image.fromarray(drawn).save(path, quality=95, subsampling=0)
    return None


def overlay_name(number: int, name: str) -> str:
    """File name of an overlay: the row in the table, and as much of the image's name as file systems like."""
    return f"{number:06d}_{re.sub(r'[^A-Za-z0-9-]+', '_', os.path.splitext(name)[0])[-80:]}.jpg"


def discover(config: DiscoverConfig) -> int:
    """Discover as configured; return the number of images that landmarks were found in."""
    out = Path(config.out)
    if not config.images:
        raise ValueError("IMAGES: give at least one image file, folder or .tar")
    if isinstance(config.overlays, int) and config.overlays < 0:
        raise ValueError(f"--overlays must be all, none or a number of at least 0, got {config.overlays}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {config.out} is a file; give a folder")
    checkpoint = read_checkpoint(config.run)
    model = build_model(checkpoint, resolve_device(config.device))
    files, skipped = list_images(config.images, out)
    unusable = len(skipped)
    fit, size = config.fit or checkpoint.config.fit, checkpoint.config.image_size
    wanted = {"all": len(files), "none": 0}.get(str(config.overlays), config.overlays)
    drawn = min(int(wanted), len(files))
    decoded = decode_all(files, size, fit, skipped)
    first = next(decoded, None)
    if first is None:
        name, reason = skipped[0] if skipped else (config.images[0], "holds no image")
        raise DataError(f"none of the {len(skipped)} files can be used; the first is {name}: {reason}")

    overlays = out / "overlays"
    overlays.mkdir(parents=True, exist_ok=True) if drawn else out.mkdir(parents=True, exist_ok=True)
    for old in overlays.glob("[0-9][0-9][0-9][0-9][0-9][0-9]_*.jpg"):
        old.unlink()  # of an earlier run into the same folder
    sheet: list[Picture] = []
    undrawn: list[tuple[str, str]] = []
    stride = max(1, len(files) // (SHEET_ROWS * SHEET_COLUMNS))
    begun = time.monotonic()
    stream = itertools.chain([first], decoded)
    with (
        written_at_once(out / f"landmarks.{config.format}") as file,
        progress_bar("discovering", len(files), None) as advance,
    ):
        table = Table(file, config.format, model.config.landmarks, config.run)
        while batch := list(itertools.islice(stream, BATCH)):
            pending: list[tuple[Decoded, Found, Path]] = []
            for item, (found, points) in zip(batch, find_landmarks(model, batch, config.views), strict=True):
                if table.count % stride == 0 and len(sheet) < SHEET_ROWS * SHEET_COLUMNS:
                    sheet.append(draw_landmarks(item.square, points, side=SHEET_SIDE))
                if table.count < drawn:
                    pending.append((item, found, overlays / overlay_name(table.count, found.name)))
                table.add(found)
            for _ in range(len(batch) + len(skipped) - unusable):
                advance()
            unusable = len(skipped)
            reasons = in_order(lambda args: draw_overlay(*args), pending, cores())
            undrawn += [(item.name, why) for (item, _, _), why in zip(pending, reasons, strict=True) if why]
        table.finish()
    seconds = max(time.monotonic() - begun, 1e-9)
    rows = [sheet[i : i + SHEET_COLUMNS] for i in range(0, len(sheet), SHEET_COLUMNS)]
    Image.fromarray(contact_sheet(rows)).save(out / "overview.png")
    print(
        f"{table.count:,} images, {model.config.landmarks} landmarks each: {out / f'landmarks.{config.format}'} "
        f"({table.count / seconds:,.0f} images/s)."
    )
    list_skipped(out, skipped)
    if undrawn:
        print(f"{len(undrawn):,} overlays could not be drawn; the first is {undrawn[0][0]}: {undrawn[0][1]}")
    return table.count


def list_skipped(out: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """Write skipped.txt and say so; remove an old one where nothing was skipped."""
    path = out / "skipped.txt"
    if not skipped:
        path.unlink(missing_ok=True)
        return
    with written_at_once(path) as file:
        file.writelines(f"{name}: {reason}\n" for name, reason in skipped)
    plural = "file was" if len(skipped) == 1 else "files were"
    print(f"{len(skipped):,} {plural} skipped: see {path}.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    try:
        discover(tyro.cli(DiscoverConfig, prog="python -m lmdis_fast.discover", args=argv))
        return 0
    except (ValueError, DataError, CheckpointError, OSError) as error:
        print(f"lmdis_fast.discover: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
