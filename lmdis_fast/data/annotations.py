"""landmarks.csv: which picture belongs to which split and group, and where its points lie.

One line per picture. Columns: ``file`` (name or path inside the source), optionally ``split`` and ``group``,
any other columns, and for every point ``<point>_x, <point>_y`` in pixels of the upright picture with (0, 0)
in the centre of the top-left pixel. Two empty cells: this point is not annotated.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmdis_fast.data.sources import DataError, ImageFile


@dataclass(frozen=True)
class LandmarkTable:
    """The parsed table; every list has one entry per line."""

    files: list[str]
    split: list[str] | None
    """None where the table has no such column."""
    groups: list[str] | None
    point_names: list[str]
    points: npt.NDArray[np.float64]
    """(lines, points, 2) in pixels, NaN where not annotated."""
    attributes: dict[str, list[str]]
    """The other columns, as written."""


def parse_landmark_table(content: bytes, path: str = "landmarks.csv") -> LandmarkTable:
    """Parse the bytes of a landmarks.csv (UTF-8).

    Raises:
        DataError: no ``file`` column, a point with one coordinate only, a cell that is not a number, a line
            of the wrong
            length, a file listed twice, or no line at all. The message names the line.
    """
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a UTF-8 table ({error})") from error
    header = [name.strip() for name in rows[0]] if rows else []
    if "file" not in header:
        raise DataError(
            f"{path}: the first line must name the columns and one must be 'file', got {header[:8]}"
        )
    if len(set(header)) != len(header):
        raise DataError(f"{path}: a column name appears twice in {header[:8]}")
    names = _point_names(header, path)
    lines = [
        (number, row) for number, row in enumerate(rows[1:], start=2) if any(cell.strip() for cell in row)
    ]
    if not lines:
        raise DataError(f"{path}: lists no file")
    column = {name: index for index, name in enumerate(header)}
    points = np.full((len(lines), len(names), 2), np.nan)
    first_line: dict[str, int] = {}
    for entry, (number, row) in enumerate(lines):
        if len(row) != len(header):
            raise DataError(f"{path}: line {number} has {len(row)} cells, the first line has {len(header)}")
        file = row[column["file"]].strip().replace("\\", "/").removeprefix("./")
        if not file:
            raise DataError(f"{path}: line {number} names no file")
        if file in first_line:
            raise DataError(f"{path}: line {number} lists {file!r} again, after line {first_line[file]}")
        first_line[file] = number
        for index, name in enumerate(names):
            cells = [row[column[f"{name}_{axis}"]] for axis in "xy"]
            points[entry, index] = _point(cells, name, f"{path}: line {number}")
    coordinates = {f"{name}_{axis}" for name in names for axis in "xy"}

    def texts(name: str) -> list[str]:
        return [row[column[name]].strip() for _, row in lines]

    return LandmarkTable(
        files=list(first_line),
        split=texts("split") if "split" in column else None,
        groups=texts("group") if "group" in column else None,
        point_names=names,
        points=points,
        attributes={n: texts(n) for n in header if n not in coordinates | {"file", "split", "group"}},
    )


def _point_names(header: Sequence[str], path: str) -> list[str]:
    present = set(header)
    for name in header:
        partner = name[:-1] + ("y" if name.endswith("_x") else "x")
        if name.endswith(("_x", "_y")) and partner not in present:
            raise DataError(f"{path}: column {name!r} has no partner {partner!r}")
    return [name[:-2] for name in header if name.endswith("_x")]


def _point(cells: Sequence[str], name: str, where: str) -> tuple[float, float]:
    x, y = (cell.strip() for cell in cells)
    if not x and not y:
        return math.nan, math.nan
    if not x or not y:
        raise DataError(f"{where}: {name} has only one of its two coordinates")
    try:
        point = float(x), float(y)
    except ValueError:
        raise DataError(f"{where}: {name} must be two numbers or empty, got {x!r}, {y!r}") from None
    if math.isinf(point[0]) or math.isinf(point[1]) or math.isnan(point[0]) != math.isnan(point[1]):
        raise DataError(f"{where}: {name} must be two finite numbers or empty, got {x!r}, {y!r}")
    return point


def match_files(
    table: LandmarkTable, files: Sequence[ImageFile], path: str
) -> tuple[list[tuple[int, ImageFile]], list[tuple[str, str]]]:
    """Pair the table's lines with the source's files.

    A line names a file by its path inside the source or by the end of it (``a.jpg`` finds ``images/a.jpg``).

    Returns:
        ((line index, file) in the table's order, (name, reason) of files and lines without a partner).

    Raises:
        DataError: a line fits several files, or no line fits any.
    """
    by_base: dict[str, list[ImageFile]] = {}
    for file in files:
        by_base.setdefault(file.name.rsplit("/", 1)[-1], []).append(file)
    pairs: list[tuple[int, ImageFile]] = []
    left_out: list[tuple[str, str]] = []
    used: set[str] = set()
    for line, name in enumerate(table.files):
        candidates = [
            f for f in by_base.get(name.rsplit("/", 1)[-1], ()) if f"/{f.name}".endswith(f"/{name}")
        ]
        exact = [f for f in candidates if f.name == name]
        candidates = exact or candidates
        if len(candidates) > 1:
            raise DataError(
                f"{path}: {name!r} fits {candidates[0].name!r} and {candidates[1].name!r}; name the folder too"
            )
        if not candidates:
            left_out.append((name, f"listed in {path} but not there"))
        else:
            pairs.append((line, candidates[0]))
            used.add(candidates[0].name)
    left_out += [(file.name, "not in landmarks.csv") for file in files if file.name not in used]
    if not pairs:
        raise DataError(
            f"{path}: none of its {len(table.files)} files is there (the first is {table.files[0]!r})"
        )
    return pairs, left_out
