"""The packed cache: decoded images as one file of raw uint8 that is mapped into memory, and a JSON header
beside it.

A cache is found by a key made of what goes in (content, size, version), so it never goes stale. Both files
appear by an atomic rename, the header last: a killed process or a full disk leaves nothing that could be
taken for a cache, and two processes that build the same one write the same bytes (where the system has file
locks, the second waits for the first).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lmdis_fast.data.decoding import Picture
from lmdis_fast.data.sources import DataError

CACHE_VERSION = 1
"""Raise it when decoding or the layout changes."""

_TEMPORARY = ".lmdis_fast.tmp"
_ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class PackedImages:
    """An opened cache."""

    images: npt.NDArray[np.uint8]
    """(n, S, S, 3), mapped read-only."""
    kept: npt.NDArray[np.int64]
    """(n,) which of the items offered each image is."""
    sizes: npt.NDArray[np.int64]
    """(n, 2) width and height of the originals."""
    skipped: list[tuple[int, str]]
    """(item, reason) of the items left out."""


def default_cache_dir() -> Path:
    """The environment's LMDIS_FAST_CACHE, or ~/.cache/lmdis_fast (XDG_CACHE_HOME is honoured)."""
    chosen = os.environ.get("LMDIS_FAST_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmdis_fast"


def cache_key(*parts: Any) -> str:
    """32 hexadecimal digits that stand for ``parts`` (JSON values) and the cache's version."""
    text = json.dumps([CACHE_VERSION, *parts], separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def open_packed(
    key: str, image_size: int, count: int, produce: Callable[[], Iterable[Picture | str]], cache_dir: Path
) -> PackedImages:
    """Open the cache of ``key``; build it first where there is none, or where it is damaged.

    Args:
        key: from ``cache_key``.
        image_size: S.
        count: number of items that ``produce`` yields, in order.
        produce: yields a picture or the reason why the item is left out. Called only when building.
        cache_dir: folder; made when missing.

    Raises:
        DataError: no item is usable, the disk is full, or the folder cannot be written.
    """
    packed = _read(key, image_size, cache_dir)
    if packed is not None:
        return packed
    needed = count * image_size * image_size * 3
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _lock(cache_dir / f"{key}.lock"):
            packed = _read(key, image_size, cache_dir)
            if packed is None:
                _sweep(cache_dir)
                _build(key, image_size, produce, cache_dir)
                packed = _read(key, image_size, cache_dir)
    except OSError as error:
        advice = "choose another folder with LMDIS_FAST_CACHE or the cache_dir argument"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"cache: the disk of {str(cache_dir)!r} is full ({needed / 1e6:.0f} MB are needed); {advice}"
            ) from error
        raise DataError(f"cache: {str(cache_dir)!r} cannot be written ({error}); {advice}") from error
    if packed is None:
        raise DataError(f"cache: what was written to {str(cache_dir)!r} reads back wrong; check that disk")
    return packed


def _build(key: str, size: int, produce: Callable[[], Iterable[Picture | str]], folder: Path) -> None:
    kept: list[int] = []
    sizes: list[tuple[int, int]] = []
    skipped: list[tuple[int, str]] = []
    with _appearing(folder / f"{key}.images") as (stream, temporary):
        for item, result in enumerate(produce()):
            if isinstance(result, str):
                skipped.append((item, result))
                continue
            image, original = result
            if image.shape != (size, size, 3) or image.dtype != np.uint8:
                raise TypeError(
                    f"cache: image must be ({size}, {size}, 3) uint8, got {image.shape} {image.dtype}"
                )
            # Plain writes: on a full disk they raise, where a write through a mapping would kill the process.
            stream.write(image.tobytes())
            kept.append(item)
            sizes.append(original)
        if not kept:
            first = f"; the first: {skipped[0][1]}" if skipped else ""
            raise DataError(f"none of the {len(skipped)} files is usable{first}")
        stream.flush()
        mark = _fingerprint(temporary, len(kept) * size * size * 3)
    body = {"version": CACHE_VERSION, "key": key, "image_size": size, "fingerprint": mark}
    body |= {"kept": kept, "sizes": sizes, "skipped": skipped}
    text = json.dumps(body, separators=(",", ":"))
    with _appearing(folder / f"{key}.json") as (stream, _):
        stream.write(json.dumps({"hash": _hash(text), "header": text}).encode())


def _read(key: str, size: int, folder: Path) -> PackedImages | None:
    """The cache, or None where it is missing or damaged."""
    data = folder / f"{key}.images"
    try:
        outer = json.loads((folder / f"{key}.json").read_bytes())
        if _hash(outer["header"]) != outer["hash"]:
            return None
        header = json.loads(outer["header"])
        count = len(header["kept"])
        if (header["version"], header["key"], header["image_size"]) != (
            CACHE_VERSION,
            key,
            size,
        ) or count < 1:
            return None
        if _fingerprint(data, count * size * size * 3) != header["fingerprint"]:
            return None
        images = np.memmap(data, np.uint8, mode="r", shape=(count, size, size, 3))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return PackedImages(
        images=images.view(np.ndarray),
        kept=np.array(header["kept"], np.int64),
        sizes=np.array(header["sizes"], np.int64).reshape(-1, 2),
        skipped=[(int(item), str(reason)) for item, reason in header["skipped"]],
    )


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _fingerprint(path: Path, expected: int) -> str:
    """Size and a hash of 64 pages spread over the file: finds cut, empty, swapped and half-written files at
    no cost."""
    size = path.stat().st_size
    if size != expected:
        return f"wrong size {size}"
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        for offset in sorted({int(place) for place in np.linspace(0, max(size - 4096, 0), 64)}):
            stream.seek(offset)
            digest.update(stream.read(4096))
    return digest.hexdigest()


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A stream, and its temporary path, that takes its name when the block ends well and is removed
    otherwise."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        with temporary.open("xb") as stream:
            yield stream, temporary
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process build at a time where the system can; elsewhere building twice is wasteful but
    harmless."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("ab") as stream:
        with contextlib.suppress(OSError):  # some network disks have no locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
    # The lock file stays: removing it while another process waits on it would let two builders in.


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed long ago left behind."""
    for leftover in folder.glob(f"*{_TEMPORARY}"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
                leftover.unlink()
