"""The packed cache: built once, never stale, never half there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmdis_fast.data import DataError, ImageData, decoding, open_dataset
from lmdis_fast.data import cache as cache_module
from lmdis_fast.data.cache import default_cache_dir, open_packed
from lmdis_fast.data.decoding import Picture
from tests.data.pictures import picture, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data", 7)
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files decoded so far."""
    calls: list[int] = []
    original = decoding.decode_picture

    def counting(encoded: bytes, *rest: Any) -> Picture:
        calls.append(len(encoded))
        return original(encoded, *rest)

    monkeypatch.setattr(decoding, "decode_picture", counting)
    return calls


def opened(folder: Path, size: int = 16, **options: Any) -> ImageData:
    return open_dataset(str(folder), size, cache_dir=folder.parent / "cache", **options)


def test_built_once(folder: Path, decoded: list[int]) -> None:
    first = opened(folder)
    assert len(decoded) == 7
    second = opened(folder)
    assert len(decoded) == 7
    np.testing.assert_array_equal(first.images, second.images)
    opened(folder, 24)
    opened(folder, fit="pad")
    assert len(decoded) == 21


def test_keyed_by_content(folder: Path, decoded: list[int]) -> None:
    data = opened(folder)
    shutil.copytree(folder, folder.parent / "copy")
    os.utime(folder / "f1.png")
    (folder / "f6.png").rename(folder / "f7.png")
    assert opened(folder.parent / "copy").names == data.names
    assert opened(folder).names[-1] == "f7.png"
    assert len(decoded) == 7
    size = (folder / "f0.png").stat().st_size
    picture(99).save(folder / "f0.png")
    with (folder / "f0.png").open("ab") as stream:  # same name, same length, other content
        stream.write(b"\0" * max(0, size - stream.tell()))
    changed = opened(folder)
    assert len(decoded) == 14 and (changed.images[0] != data.images[0]).any()
    np.testing.assert_array_equal(changed.images[1:], data.images[1:])


def test_settled_files_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmdis_fast.data.contents._UNSETTLED_NS", 0)
    time.sleep(0.02)
    opened(folder)
    monkeypatch.setattr("lmdis_fast.data.sources.ImageFile.read", None)
    assert len(opened(folder)) == 7


@pytest.mark.parametrize("damage", ["truncate", "zeros", "gone", "header", "header text", "other size"])
def test_damage_is_found_and_mended(folder: Path, decoded: list[int], damage: str) -> None:
    good = np.array(opened(folder).images)
    (data,) = (folder.parent / "cache").glob("*.images")
    header = data.with_suffix(".json")
    if damage == "truncate":
        os.truncate(data, data.stat().st_size - 1)
    elif damage == "zeros":
        data.write_bytes(bytes(data.stat().st_size))
    elif damage == "gone":
        data.unlink()
    elif damage == "header":
        header.write_text(header.read_text().replace("[40,40]", "[41,40]", 1))
    elif damage == "header text":
        header.write_bytes(b"\xff{")
    else:
        data.write_bytes(data.read_bytes() * 2)
    np.testing.assert_array_equal(opened(folder).images, good)
    assert len(decoded) == 14


def test_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.os, "fsync", full)
    with pytest.raises(DataError, match=r"cache: the disk of '.*cache' is full \(0 MB are needed\); choose"):
        opened(folder)
    cache = folder.parent / "cache"
    assert not [*cache.glob("*.images*"), *cache.glob("*.tmp")]
    monkeypatch.undo()
    assert len(opened(folder)) == 7


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> Iterator[Picture]:
        yield np.zeros((8, 8, 3), np.uint8), (8, 8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_packed("key", 8, 2, stopped, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_unusable_cache_folder(folder: Path) -> None:
    (folder.parent / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cache: '.*cache' cannot be written"):
        opened(folder)


def test_abandoned_files_are_swept(folder: Path) -> None:
    cache = folder.parent / "cache"
    cache.mkdir()
    old, young, foreign = (cache / name for name in ("a.lmdis_fast.tmp", "b.lmdis_fast.tmp", "c.tmp"))
    for path in (old, young, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (1e9, 1e9))
    opened(folder)
    assert not old.exists() and young.exists() and foreign.exists()


def test_wrong_image_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"image must be \(8, 8, 3\) uint8, got \(9, 8, 3\)"):
        open_packed("key", 8, 1, lambda: [(np.zeros((9, 8, 3), np.uint8), (8, 8))], tmp_path)


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LMDIS_FAST_CACHE", raising=False)
    assert default_cache_dir() == tmp_path / "lmdis_fast"
    monkeypatch.setenv("LMDIS_FAST_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"
    write_folder(tmp_path / "data", 2)
    open_dataset(tmp_path / "data", 16)
    assert list((tmp_path / "mine").glob("*.images"))


def _open_elsewhere(folder: str, results: Any) -> None:
    data = open_dataset(folder, 16, cache_dir=Path(folder).parent / "cache")
    results.put((len(data), int(data.images.sum())))


def test_two_processes(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_open_elsewhere, args=(str(folder), results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1] == (7, int(opened(folder).images.sum()))
    assert len(list((folder.parent / "cache").glob("*.images"))) == 1


def test_progress_bar(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(folder)
    assert capsys.readouterr() == ("", "")
    opened(folder, 24, progress=True)
    shown = capsys.readouterr()
    assert "decoding" in shown.err and "7/7" in shown.err and "images/s" in shown.err and not shown.out
