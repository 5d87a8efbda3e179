"""Hashes of the files' contents, remembered by size and time stamp so that an unchanged file is read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from lmdis_fast.data.parallel import in_order
from lmdis_fast.data.progress import progress_bar, short_label
from lmdis_fast.data.sources import ImageFile

# A file changed this shortly before its hash was taken may change again under the same time stamp.
_UNSETTLED_NS = 2_000_000_000


def content_hashes(
    files: Sequence[ImageFile],
    source: str,
    memory_dir: Path,
    workers: int,
    progress: bool | None = None,
) -> list[str]:
    """One hash per file, of its bytes alone: copying, touching or renaming files does not change it.

    Args:
        files: the files; one that cannot be read hashes to "".
        source: names the memory file.
        memory_dir: where hashes are remembered; a folder that cannot be written only costs time.
        workers: number of threads.
        progress: see ``progress_bar``.
    """
    memory_path = memory_dir / f"hashes-{hashlib.blake2b(source.encode(), digest_size=8).hexdigest()}.json"
    remembered: dict[str, list[str]] = {}
    with contextlib.suppress(OSError, ValueError):
        loaded = json.loads(memory_path.read_bytes())
        remembered = loaded if isinstance(loaded, dict) else {}
    stamps: dict[Path, str] = {}
    for path in {file.path for file in files}:
        with contextlib.suppress(OSError):
            stat = os.stat(path)
            if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _UNSETTLED_NS:
                stamps[path] = f"{stat.st_size}.{stat.st_mtime_ns}.{stat.st_ctime_ns}"

    stamp_of = [f"{stamps.get(file.path, '')}.{file.offset}.{file.size}" for file in files]
    hashes: list[str | None] = []
    for file, stamp in zip(files, stamp_of, strict=True):
        known = remembered.get(file.name) if file.path in stamps else None
        hashes.append(
            str(known[1]) if isinstance(known, list) and known[:1] == [stamp] and known[1:] else None
        )

    unknown = [file for file, known in zip(files, hashes, strict=True) if known is None]
    computed = iter(_computed(unknown, short_label(source), workers, progress))
    result = [next(computed) if known is None else known for known in hashes]
    fresh = {
        file.name: [stamp, digest]
        for file, stamp, digest in zip(files, stamp_of, result, strict=True)
        if file.path in stamps and digest
    }
    if fresh != remembered:
        with contextlib.suppress(OSError):
            memory_dir.mkdir(parents=True, exist_ok=True)
            temporary = memory_path.with_suffix(f".{os.getpid()}.lmdis_fast.tmp")
            temporary.write_text(json.dumps(fresh, separators=(",", ":")))
            os.replace(temporary, memory_path)
    return result


def _computed(files: Sequence[ImageFile], label: str, workers: int, progress: bool | None) -> list[str]:
    if not files:
        return []
    with progress_bar(f"reading {label}", len(files), progress, "files") as advance:

        def one(file: ImageFile) -> str:
            try:
                return hashlib.blake2b(file.read(), digest_size=16).hexdigest()
            except OSError:
                return ""
            finally:
                advance()

        return list(in_order(one, files, workers))
