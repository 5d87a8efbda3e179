"""Which image files a path holds: a folder (recursive), a .tar, a folder with .tar files, or one picture."""

from __future__ import annotations

import os
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

IMAGE_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
)
TABLE_NAME = "landmarks.csv"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


class DataError(ValueError):
    """The data given cannot be used; the message says which and why, in one sentence."""


@dataclass(frozen=True)
class ImageFile:
    """One encoded picture: a file of its own, or a member of a plain tar read in place."""

    name: str
    """Path relative to the source, with forward slashes; a tar's members are named as if the tar were
    unpacked."""
    path: Path
    """The file that holds the bytes."""
    size: int
    """Number of encoded bytes."""
    offset: int = 0
    """Where the bytes begin in ``path``."""

    def read(self) -> bytes:
        """The encoded bytes. Raises OSError."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


@dataclass
class Found:
    """What a path holds."""

    files: list[ImageFile] = field(default_factory=list)
    """In natural order of their names (frame_2 before frame_10)."""
    table: bytes | None = None
    """Content of the landmarks.csv that belongs to the files."""
    table_path: str = ""
    """Where it lies, for messages."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of files that cannot be read at all."""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that orders the numbers inside names by value."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts if part]


def find_images(source: str | os.PathLike[str]) -> Found:
    """List the image files of a folder, a .tar or a single picture.

    Hidden files and folders (".x") and "__MACOSX" are left out; links to folders are followed once. A
    ``landmarks.csv`` at the top of a folder, at the top of a tar, or beside a tar, belongs to the source.

    Raises:
        DataError: the path does not exist, is not of a known kind, or holds no image file.
    """
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"data: {str(source)!r} does not exist; expected a folder, .tar or .npz, 'puppets' or 'digits'"
        )
    found = Found()
    if path.is_dir():
        _walk(path, found)
        _take_table(path / TABLE_NAME, found)
    elif path.suffix.lower() == ".tar":
        _open_tar(path, "", found)
        _take_table(path.parent / TABLE_NAME, found)
    elif path.name.lower().endswith(_COMPRESSED):
        raise DataError(
            f"data: {str(source)!r} is compressed and cannot be read in place; unpack it to a folder or .tar"
        )
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        found.files.append(ImageFile(path.name, path, path.stat().st_size))
    else:
        raise DataError(
            f"data: {str(source)!r} is not a folder, .tar, .npz or picture "
            f"({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    found.files.sort(key=lambda file: natural_key(file.name))
    if not found.files:
        detail = f"; {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise DataError(
            f"data: {str(source)!r} holds no image files ({', '.join(sorted(IMAGE_SUFFIXES))}){detail}"
        )
    return found


def _take_table(path: Path, found: Found) -> None:
    if found.table is None and path.is_file():
        found.table, found.table_path = path.read_bytes(), str(path)


def _walk(root: Path, found: Found) -> None:
    seen = {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, followlinks=True):
        kept = []
        for name in folders:
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and name != "__MACOSX" and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = sorted(kept)
        here = Path(folder)
        relative = "" if here == root else here.relative_to(root).as_posix() + "/"
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                try:
                    size = (here / name).stat().st_size
                except OSError as error:
                    found.skipped.append((relative + name, f"cannot be read ({error.strerror})"))
                    continue
                found.files.append(ImageFile(relative + name, here / name, size))
            elif suffix == ".tar":
                try:
                    _open_tar(here / name, relative, found)
                except DataError as error:
                    found.skipped.append((relative + name, str(error)))


def _open_tar(path: Path, prefix: str, found: Found) -> None:
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name).as_posix()
                parts = PurePosixPath(name).parts
                if not member.isreg() or any(part.startswith(".") or part == "__MACOSX" for part in parts):
                    continue
                if name == TABLE_NAME and not prefix and found.table is None:
                    stream = archive.extractfile(member)
                    if stream is not None:
                        found.table, found.table_path = stream.read(), f"{path}:{name}"
                elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                    found.files.append(ImageFile(prefix + name, path, member.size, member.offset_data))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"data: {str(path)!r} cannot be read as a plain tar ({error})") from error
