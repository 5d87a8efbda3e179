"""Folders, archives, tables and several sources become one ImageData."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lmdis_fast.data import DataError, open_dataset
from lmdis_fast.data.annotations import parse_landmark_table
from lmdis_fast.data.image_data import hashed_split, unique_labels
from lmdis_fast.data.sources import find_images, natural_key
from tests.data.pictures import picture, write_folder, write_tar


def test_folder_is_recursive_and_in_natural_order(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 12)
    picture(50).save(tmp_path / "data/f4.jpg")
    (tmp_path / "data/deep/er").mkdir(parents=True)
    picture(51).save(tmp_path / "data/deep/er/x.WEBP")
    (tmp_path / "data/notes.txt").write_text("not data")
    (tmp_path / "data/.hidden").mkdir()
    picture(52).save(tmp_path / "data/.hidden/y.png")
    (tmp_path / "data/._f1.png").write_bytes(b"resource fork")
    data = open_dataset(str(tmp_path / "data"), 16, cache_dir=tmp_path / "cache")
    expected = [f"f{i}.png" for i in range(12)] + ["f4.jpg", "deep/er/x.WEBP"]
    assert data.names == sorted(expected, key=natural_key) and data.names[-2:] == ["f10.png", "f11.png"]
    assert data.images.shape == (14, 16, 16, 3) and data.images.dtype == np.uint8 and not data.skipped
    assert data.landmarks.shape == (14, 0, 2) and data.visible.shape == (14, 0) and data.landmark_names == []
    np.testing.assert_array_equal(data.original_size, np.full((14, 2), 40))
    assert len(data.test_indices()) == 1 and len(data.train_indices()) == 13
    assert "14 images of 16x16 (1 test, 13 train)" in data.summary()
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0


def test_links_are_followed_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", 2)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "data")
    assert [file.name for file in find_images(tmp_path / "data").files] == ["link/f0.png", "link/f1.png"]


def test_unusable_files_are_listed(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 3)
    (tmp_path / "data/empty.jpg").touch()
    (tmp_path / "data/broken.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    picture(1, 8, 8).save(tmp_path / "data/small.png")
    data = open_dataset([tmp_path / "data"], 16, cache_dir=tmp_path / "cache")
    assert data.names == ["f0.png", "f1.png", "f2.png"]
    reasons = dict(data.skipped)
    assert set(reasons) == {"empty.jpg", "broken.jpg", "small.png"} and "3 files skipped" in data.summary()
    assert reasons["empty.jpg"] == "empty file" and reasons["small.png"].startswith("too small (8x8")
    assert data.skipped == open_dataset([tmp_path / "data"], 16, cache_dir=tmp_path / "cache").skipped


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "'.*missing' does not exist; expected a folder"),
        ("void", r"holds no image files \(.bmp, "),
        ("bad", "none of the 2 files is usable; the first: empty file"),
        ("clip.mp4", r"is not a folder, .tar, .npz or picture"),
        ("set.tar.gz", "is compressed and cannot be read in place"),
        ("torn.tar", "cannot be read as a plain tar"),
        ("flat.npz", "cannot be read as .npz"),
    ],
)
def test_nothing_usable_is_one_clear_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "void").mkdir()
    (tmp_path / "bad").mkdir()
    for file in ("bad/a.jpg", "bad/b.png", "clip.mp4", "set.tar.gz"):
        (tmp_path / file).touch()
    for file in ("torn.tar", "flat.npz"):
        (tmp_path / file).write_bytes(b"\x01" * 700)
    with pytest.raises(DataError, match=message):
        open_dataset(str(tmp_path / name), 16, cache_dir=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*.images")) and not list(tmp_path.glob("cache/*.tmp"))


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one data set"):
        open_dataset([], 16)
    with pytest.raises(ValueError, match=r"image_size must be in \[8, 4096\], got 4"):
        open_dataset("puppets", 4)
    with pytest.raises(ValueError, match="fit must be one of"):
        open_dataset("puppets", 16, fit="zoom")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="'puppets:N' needs a number"):
        open_dataset("puppets:many", 16, cache_dir=tmp_path)


TABLE = """file,split,group,frame,eye_x,eye_y,tail_x,tail_y
f2.png,test,cat_1,00,19.5,19.5,0,39
f0.png,train,cat_0,01,-0.5,-0.5,,
gone.png,train,cat_0,02,1,1,1,1
"""


@pytest.mark.parametrize("kind", ["folder", "tar in folder", "tar", "tar with table"])
def test_table(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    paths = write_folder(tmp_path / "raw" if "tar" in kind else folder, 3, "images")
    source = folder
    folder.mkdir(exist_ok=True)
    if "tar" in kind:
        members = {path.name: path.read_bytes() for path in paths}
        if kind == "tar with table":
            members["./landmarks.csv"] = TABLE.encode()
        write_tar(folder / "images.tar", members)
        source = folder if kind == "tar in folder" else folder / "images.tar"
    if kind != "tar with table":
        (folder / "landmarks.csv").write_text(TABLE)
    data = open_dataset(source, 20, cache_dir=tmp_path / "cache")
    prefix = "images/" if kind == "folder" else ""
    assert data.names == [f"{prefix}f2.png", f"{prefix}f0.png"]
    assert data.split.tolist() == ["test", "train"] and data.groups.tolist() == ["cat_1", "cat_0"]
    assert data.landmark_names == ["eye", "tail"] and data.landmarks.dtype == np.float32
    np.testing.assert_allclose(data.landmarks[0], [[0, 0], [-0.975, 0.975]], atol=1e-6)
    np.testing.assert_allclose(data.landmarks[1], [[-1, -1], [np.nan, np.nan]])
    np.testing.assert_array_equal(data.visible, [[True, True], [True, False]])
    assert data.attributes["frame"].tolist() == ["00", "01"]
    assert [name for name, _ in data.skipped] == ["gone.png", f"{prefix}f1.png"]
    assert data.skipped[0][1].endswith("but not there") and data.skipped[1][1] == "not in landmarks.csv"
    assert data.subset("test").names == [f"{prefix}f2.png"]
    np.testing.assert_allclose(data.frame(0).to_pixels(data.landmarks[0]), [[19.5, 19.5], [0, 39]], atol=1e-4)


def test_table_follows_the_fit(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    picture(0, 80, 40).save(tmp_path / "data/a.png")
    (tmp_path / "data/landmarks.csv").write_text("file,p_x,p_y\na.png,59.5,29.5\n")
    for fit, expected in {"crop": [1, 0.5], "squeeze": [0.5, 0.5], "pad": [0.5, 0.25]}.items():
        data = open_dataset(tmp_path / "data", 16, fit=fit, cache_dir=tmp_path / "cache")  # type: ignore[arg-type]
        np.testing.assert_allclose(data.landmarks[0, 0], expected, atol=1e-6)
        np.testing.assert_allclose(data.frame(0).to_pixels(data.landmarks[0]), [[59.5, 29.5]], atol=1e-4)


def test_changing_the_table_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "data", 3)
    (tmp_path / "data/landmarks.csv").write_text(
        "file,p_x,p_y\n" + "".join(f"f{i}.png,1,2\n" for i in range(3))
    )
    open_dataset(tmp_path / "data", 16, cache_dir=tmp_path / "cache")
    monkeypatch.setattr("lmdis_fast.data.decoding.decode_picture", None)
    (tmp_path / "data/landmarks.csv").write_text(
        "file,p_x,p_y\n" + "".join(f"f{i}.png,3,2\n" for i in range(3))
    )
    data = open_dataset(tmp_path / "data", 16, cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(data.landmarks[:, 0, 0], 2 * 3.5 / 40 - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name the columns"),
        ("image,p_x,p_y\na,1,2\n", "one must be 'file'"),
        ("file,p_x\na,1\n", "column 'p_x' has no partner 'p_y'"),
        ("file,p_x,p_y,p_x\na,1,2,3\n", "appears twice"),
        ("file,p_x,p_y\n", "lists no file"),
        ("file,p_x,p_y\na,1,2\n\nb,1\n", "line 4 has 2 cells, the first line has 3"),
        ("file,p_x,p_y\na,1,2\na,1,2\n", "line 3 lists 'a' again, after line 2"),
        ("file,p_x,p_y\na,one,2\n", "line 2: p must be two numbers or empty, got 'one', '2'"),
        ("file,p_x,p_y\na,,2\n", "line 2: p has only one"),
        ("file,p_x,p_y\na,inf,2\n", "two finite numbers"),
        ("file,p_x,p_y\n,1,2\n", "line 2 names no file"),
    ],
)
def test_table_errors(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_landmark_table(text.encode())


def test_table_kindness() -> None:
    table = parse_landmark_table(
        "\ufefffile, split ,p_x,p_y\r\nsub\\a.png, test ,1.5,nan\r\n".replace("nan", "2").encode()
    )
    assert table.files == ["sub/a.png"] and table.split == ["test"] and table.groups is None
    np.testing.assert_array_equal(table.points, [[[1.5, 2]]])


def test_ambiguous_and_foreign_tables(tmp_path: Path) -> None:
    write_folder(tmp_path, 2, "a")
    write_folder(tmp_path, 2, "b")
    (tmp_path / "landmarks.csv").write_text("file\nf0.png\n")
    with pytest.raises(DataError, match=r"'f0\.png' fits 'a/f0\.png' and 'b/f0\.png'; name the folder too"):
        open_dataset(tmp_path, 16, cache_dir=tmp_path / "cache")
    (tmp_path / "landmarks.csv").write_text("file\nb/f0.png\n")
    assert open_dataset(tmp_path, 16, cache_dir=tmp_path / "cache").names == ["b/f0.png"]
    (tmp_path / "landmarks.csv").write_text("file\nzebra.png\n")
    with pytest.raises(DataError, match="none of its 1 files is there"):
        open_dataset(tmp_path, 16, cache_dir=tmp_path / "cache")


def test_several_sources(tmp_path: Path) -> None:
    for name in ("x/set", "y/set"):
        write_folder(tmp_path / name, 3)
    (tmp_path / "y/set/landmarks.csv").write_text("file,group,p_x,p_y\nf1.png,g,1,2\n")
    single = tmp_path / "x/set/f2.png"
    sources = [str(tmp_path / "x/set"), str(tmp_path / "y/set"), "puppets:2", str(single)]
    data = open_dataset(sources, 16, cache_dir=tmp_path / "cache")
    assert len(data) == 3 + 1 + 3 + 1 and data.source.tolist() == [0, 0, 0, 1, 2, 2, 2, 3]
    assert data.names[0] == "set/f0.png" and data.names[3] == "set_2/f1.png" and data.source_names == sources
    assert data.groups[3] == "set_2/g" and data.landmark_names[:2] == ["p", "eye_left"]
    assert np.isfinite(data.landmarks[3, 0]).all() and np.isnan(data.landmarks[3, 1:]).all()
    assert np.isnan(data.landmarks[4:7, 0]).all() and np.isfinite(data.landmarks[4:7, 1:]).all()
    np.testing.assert_array_equal(data.images[2], data.images[7])
    assert ("set_2/f0.png", "not in landmarks.csv") in data.skipped


def test_npz(tmp_path: Path) -> None:
    images = np.stack([np.asarray(picture(i)) for i in range(6)])
    np.savez(tmp_path / "a.npz", images=images, test=np.arange(6) > 3, kind=np.arange(6))
    data = open_dataset(tmp_path / "a.npz", 40, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(data.images, images)
    assert data.test_indices().tolist() == [4, 5] and data.attributes["kind"].tolist() == list("012345")
    np.savez(tmp_path / "b.npz", images=images.astype(np.float32))
    with pytest.raises(DataError, match=r"must hold 'images' .* got \(6, 40, 40, 3\) float32"):
        open_dataset(tmp_path / "b.npz", 40, cache_dir=tmp_path / "cache")


def test_hashed_split() -> None:
    hashes = [f"{i}" for i in range(1000)]
    split = np.array(hashed_split(hashes))
    assert (split == "test").sum() == 100
    assert hashed_split(hashes[::-1]) == split.tolist()[::-1]
    assert hashed_split(["a"]) == ["train"] and sorted(hashed_split(["a", "b"])) == ["test", "train"]
    twins = hashed_split(["a", "b"] * 50)
    assert len(set(twins[::2])) == 1 and len(set(twins[1::2])) == 1
    assert hashed_split([f"{i}" for i in range(20000)]).count("test") == 500
    groups = [f"g{i // 10}" for i in range(1000)]
    split = np.array(hashed_split(hashes, groups)).reshape(100, 10)
    assert (split == split[:, :1]).all() and 90 <= (split == "test").sum() <= 200


def test_labels() -> None:
    assert unique_labels(["a/x", "b/x/", "x", "puppets"]) == ["x", "x_2", "x_3", "puppets"]


@pytest.mark.skipif(
    "LMDIS_FAST_TEST_DATA" not in os.environ, reason="LMDIS_FAST_TEST_DATA names no folder of real sets"
)
def test_real_sets(tmp_path: Path) -> None:
    root = Path(os.environ["LMDIS_FAST_TEST_DATA"])
    data = open_dataset([root / "faces_web", root / "cats_heads"], 64, cache_dir=tmp_path)
    assert len(data) == 3524 and len(data.train_indices()) == 2976 and data.landmark_names[2] == "nose"
