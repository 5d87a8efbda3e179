"""Discovery from the command line: whose pixels the numbers are, and what is written."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmdis_fast import discover, load
from lmdis_fast.data.decoding import decode_picture, decode_upright
from lmdis_fast.models import Detection, LandmarkAutoencoder
from lmdis_fast.pictures import landmark_colours
from tests.data.pictures import picture, write_folder, write_tar

POINTS = [(-0.5, -0.5), (0.5, -0.25), (0.0, 0.75), (0.25, 0.0)]
"""Where the fixed detector below puts its landmarks."""


def read_table(out: Path) -> list[dict[str, str]]:
    with open(out / "landmarks.csv", newline="") as file:
        return list(csv.DictReader(file))


def run(finished: Path, out: Path, *arguments: str | Path) -> int:
    return discover.main([str(finished), *map(str, arguments), "--out", str(out), "--device", "cpu"])


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Landmarks at `POINTS` of the network's square, whatever it shows."""

    def detect(self: LandmarkAutoencoder, images: torch.Tensor, *, views: int) -> Detection:
        count = len(images)
        variance = torch.tensor([0.04, 0.16]).expand(
            count, 4, 2
        )  # standard deviations 0.2 and 0.4 half sides
        return Detection(torch.tensor(POINTS).expand(count, -1, -1), variance, torch.full((count, 4), 0.125))

    monkeypatch.setattr(LandmarkAutoencoder, "detect", detect)


def save_turned(path: Path, orientation: int, width: int, height: int) -> None:
    """A JPEG whose stored picture is width x height, with the camera's rotation flag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(3, width, height).save(path, exif=exif)


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize(
    ("fit", "orientation", "size", "origin", "sides"),
    [
        ("crop", 1, (120, 80), (20, 0), (80, 80)),
        ("crop", 6, (80, 120), (0, 20), (80, 80)),
        ("squeeze", 8, (80, 120), (0, 0), (80, 120)),
        ("pad", 6, (80, 120), (-20, 0), (120, 120)),
    ],
)
def test_pixels_of_the_upright_original(
    fit: str,
    orientation: int,
    size: tuple[int, int],
    origin: tuple[int, int],
    sides: tuple[int, int],
    finished: Path,
    tmp_path: Path,
) -> None:
    save_turned(tmp_path / "photo.jpg", orientation, 120, 80)
    assert run(finished, tmp_path / "out", tmp_path / "photo.jpg", "--fit", fit) == 0
    (row,) = read_table(tmp_path / "out")
    assert (int(row["width"]), int(row["height"])) == size
    for k, (x, y) in enumerate(POINTS):
        # -1 is the outer edge of the first pixel, whose centre is pixel coordinate 0.
        assert float(row[f"landmark{k}_x"]) == pytest.approx(
            (x + 1) / 2 * sides[0] + origin[0] - 0.5, abs=1e-3
        )
        assert float(row[f"landmark{k}_y"]) == pytest.approx(
            (y + 1) / 2 * sides[1] + origin[1] - 0.5, abs=1e-3
        )
        assert float(row[f"landmark{k}_spread"]) == pytest.approx(
            (0.1 * sides[0] + 0.2 * sides[1]) / 2, abs=1e-3
        )
        assert float(row[f"landmark{k}_confidence"]) == 0.125


@pytest.mark.usefixtures("fixed")
def test_overlays_are_the_originals(finished: Path, tmp_path: Path) -> None:
    save_turned(tmp_path / "photo.jpg", 6, 300, 200)
    picture(1, 3000, 1500).save(tmp_path / "large.jpg")
    assert run(finished, tmp_path / "out", tmp_path / "photo.jpg", tmp_path / "large.jpg") == 0
    first, second = (np.asarray(Image.open(path)) for path in sorted((tmp_path / "out/overlays").iterdir()))
    assert first.shape == (300, 200, 3) and second.shape == (512, 1024, 3)
    photo = decode_upright((tmp_path / "photo.jpg").read_bytes(), 1024)[0]
    rows = read_table(tmp_path / "out")
    drawn = np.zeros(first.shape[:2], bool)
    for k, colour in enumerate(landmark_colours(4)):
        for image, row, scale in ((first, rows[0], 1.0), (second, rows[1], 512 / 1500)):
            x, y = (round((float(row[f"landmark{k}_{axis}"]) + 0.5) * scale - 0.5) for axis in "xy")
            assert np.abs(image[y, x].astype(int) - colour).max() < 30
            if image is first:
                drawn[max(y - 30, 0) : y + 30, max(x - 30, 0) : x + 50] = True
    assert np.abs(first[~drawn].astype(int) - photo[~drawn]).mean() < 3


def test_landmarks_are_those_of_the_model(finished: Path, tmp_path: Path) -> None:
    paths = write_folder(tmp_path / "in", 5)
    assert run(finished, tmp_path / "out", tmp_path / "in") == 0
    rows = read_table(tmp_path / "out")
    assert [row["file"] for row in rows] == [path.name for path in paths]
    model = load(finished)
    with torch.no_grad():
        for row, path in zip(rows, paths, strict=True):
            square, _ = decode_picture(path.read_bytes(), 16, "crop")
            found = model.detect(torch.from_numpy(square).permute(2, 0, 1)[None], views=9)
            for k in range(4):
                x, y = ((found.coords[0, k] + 1) * 20 - 0.5).tolist()
                assert (float(row[f"landmark{k}_x"]), float(row[f"landmark{k}_y"])) == pytest.approx(
                    (x, y), abs=2e-3
                )
                assert float(row[f"landmark{k}_confidence"]) == pytest.approx(
                    found.mass[0, k].item(), rel=1e-3
                )
                spread = 20 * found.variance[0, k].sqrt().mean().item()
                assert float(row[f"landmark{k}_spread"]) == pytest.approx(spread, abs=2e-3)
    assert sum(float(rows[0][f"landmark{k}_confidence"]) for k in range(4)) < 1


def test_what_is_written(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "in", 3)
    assert run(finished, tmp_path / "out", tmp_path / "in") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "landmarks.csv",
        "overlays",
        "overview.png",
    ]
    names = sorted(path.name for path in (tmp_path / "out/overlays").iterdir())
    assert names == ["000000_f0.jpg", "000001_f1.jpg", "000002_f2.jpg"]
    with Image.open(tmp_path / "out/overview.png") as sheet:
        assert sheet.size == (3 * 160 + 2 * 4, 160)
    header = (tmp_path / "out/landmarks.csv").read_text().splitlines()[0].split(",")
    parts = ("x", "y", "confidence", "spread")
    assert header == ["file", "width", "height", *(f"landmark{k}_{part}" for k in range(4) for part in parts)]
    said = capsys.readouterr().out
    assert (
        said.startswith(f"3 images, 4 landmarks each: {tmp_path / 'out/landmarks.csv'}")
        and "skipped" not in said
    )


def test_json_says_the_same(finished: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "in", 40)  # more than one batch
    for kind in ("csv", "json"):
        assert run(finished, tmp_path / "out", tmp_path / "in", "--format", kind, "--overlays", "none") == 0
    table = json.loads((tmp_path / "out/landmarks.json").read_text())
    assert table["landmarks"] == [f"landmark{k}" for k in range(4)] and set(table["units"]) >= {
        "confidence",
        "spread",
    }
    rows = read_table(tmp_path / "out")
    assert len(rows) == len(table["images"]) == 40
    for row, entry in zip(rows, table["images"], strict=True):
        assert (row["file"], int(row["width"]), int(row["height"])) == (
            entry["file"],
            entry["width"],
            entry["height"],
        )
        for name, values in entry["landmarks"].items():
            assert {key: float(row[f"{name}_{key}"]) for key in values} == values


@pytest.mark.parametrize(("overlays", "count"), [("all", 5), ("2", 2), ("0", 0), ("none", 0), ("99", 5)])
def test_number_of_overlays(overlays: str, count: int, finished: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "in", 5)
    assert run(finished, tmp_path / "out", tmp_path / "in", "--overlays", overlays) == 0
    assert len(list((tmp_path / "out").glob("overlays/*"))) == count


def test_second_run_replaces_the_first(finished: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "in", 4)
    (tmp_path / "in/broken.jpg").write_bytes(b"x")
    out = tmp_path / "in/out"  # inside the images' own folder: what is written there is none of them
    assert run(finished, out, tmp_path / "in") == 0
    assert len(read_table(out)) == 4 and (out / "skipped.txt").exists()
    (tmp_path / "in/broken.jpg").unlink()
    (tmp_path / "in/f3.png").unlink()
    (out / "overlays/mine.jpg").write_bytes(b"kept")
    assert run(finished, out, tmp_path / "in") == 0
    assert len(read_table(out)) == 3 and not (out / "skipped.txt").exists()
    assert len(list((out / "overlays").glob("0*"))) == 3 and (out / "overlays/mine.jpg").exists()


def test_an_interrupted_run_leaves_the_old_table(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "in", 2)
    assert run(finished, tmp_path / "out", tmp_path / "in") == 0
    before = (tmp_path / "out/landmarks.csv").read_bytes()

    def full_disk(self: object, found: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(discover.Table, "add", full_disk)
    assert run(finished, tmp_path / "out", tmp_path / "in") == 2
    assert "lmdis_fast.discover: [Errno 28] No space left" in capsys.readouterr().err
    assert (tmp_path / "out/landmarks.csv").read_bytes() == before
    assert list((tmp_path / "out").glob("*tmp*")) == []


def test_unusable_files_are_listed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_folder(tmp_path / "in", 2)
    (tmp_path / "in/empty.jpg").touch()
    picture(1, 8, 8).save(tmp_path / "in/small.png")
    (tmp_path / "in/notes.txt").write_text("no image")
    arguments = sorted((tmp_path / "in").iterdir())
    assert run(finished, tmp_path / "out", *arguments) == 0
    assert [row["file"] for row in read_table(tmp_path / "out")] == [str(path) for path in paths]
    listed = dict(line.split(": ", 1) for line in (tmp_path / "out/skipped.txt").read_text().splitlines())
    assert {Path(name).name: reason for name, reason in listed.items()} == {
        "empty.jpg": "empty file",
        "small.png": "too small (8x8, at least 16 pixels a side are needed)",
        "notes.txt": "neither an image file nor a .tar",
    }
    assert f"3 files were skipped: see {tmp_path / 'out/skipped.txt'}" in capsys.readouterr().out


def test_names_of_many_arguments(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    paths = write_folder(folder, 2)
    write_folder(folder, 2, "deep")
    buffer = io.BytesIO()
    picture(9).save(buffer, "PNG")
    write_tar(tmp_path / "pack.tar", {"f0.png": buffer.getvalue(), "sub/f0.png": buffer.getvalue()})
    # A file that is named twice, and again by its folder, counts once.
    assert run(finished, tmp_path / "out", paths[1], paths[1], folder, tmp_path / "pack.tar") == 0
    names = [row["file"] for row in read_table(tmp_path / "out")]
    assert names == [
        str(paths[1]),
        *(f"{folder}/{name}" for name in ("deep/f0.png", "deep/f1.png", "f0.png")),
        *(f"{tmp_path}/pack.tar/{name}" for name in ("f0.png", "sub/f0.png")),
    ]
    assert len(set(names)) == len(names)


def test_equal_names_in_a_tar_are_told_apart(finished: Path, tmp_path: Path) -> None:
    import tarfile

    buffer = io.BytesIO()
    picture(9).save(buffer, "PNG")
    with tarfile.open(tmp_path / "pack.tar", "w") as archive:
        for _ in range(2):
            info = tarfile.TarInfo("a.png")
            info.size = len(buffer.getvalue())
            archive.addfile(info, io.BytesIO(buffer.getvalue()))
    assert run(finished, tmp_path / "out", tmp_path / "pack.tar") == 0
    assert [row["file"] for row in read_table(tmp_path / "out")] == ["a.png", "a.png#2"]


def test_many_files_leave_no_cache(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMDIS_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths = write_folder(tmp_path / "in", 20)
    assert run(finished, tmp_path / "out", *paths, "--overlays", "none") == 0
    assert len(read_table(tmp_path / "out")) == 20
    assert not (tmp_path / "cache").exists() and not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "IMAGES: give at least one image file, folder or .tar"),
        (["{tmp}/missing"], "IMAGES: '{tmp}/missing' does not exist"),
        (["{tmp}/bad"], "none of the 1 files can be used; the first is broken.jpg: not an image"),
        (
            ["{tmp}/empty"],
            "none of the 1 files can be used; the first is {tmp}/empty: '{tmp}/empty' holds no image files",
        ),
        (["{tmp}/bad", "--overlays", "-1"], "--overlays must be all, none or a number of at least 0, got -1"),
        (["{tmp}/bad", "--device", "tpu"], "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (
            ["{tmp}/bad", "--out", "{tmp}/bad/broken.jpg"],
            "--out {tmp}/bad/broken.jpg is a file; give a folder",
        ),
    ],
)
def test_errors(
    arguments: list[str], message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/broken.jpg").write_bytes(b"nonsense")
    (tmp_path / "empty").mkdir()
    words = [word.replace("{tmp}", str(tmp_path)) for word in arguments]
    if "--device" not in words:
        words += ["--device", "cpu"]
    assert (
        discover.main(
            [str(finished), *(["--out", str(tmp_path / "out")] if "--out" not in words else []), *words]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert said.startswith("lmdis_fast.discover: " + message.replace("{tmp}", str(tmp_path))), said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "in", 1)
    assert run(tmp_path / "in", tmp_path / "out", tmp_path / "in") == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_decoding_upright() -> None:
    encoded = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (60, 40))
    stored.paste(
        (255, 0, 0), (0, 0, 20, 20)
    )  # top left of the stored picture is top right of the upright one
    stored.save(encoded, "PNG", exif=exif)
    whole, size = decode_upright(encoded.getvalue(), 100)
    assert whole.shape == (60, 40, 3) and size == (40, 60)
    assert whole[5, 35].tolist() == [255, 0, 0] and whole[5, 5].tolist() == [0, 0, 0]
    smaller, size = decode_upright(encoded.getvalue(), 30)
    assert smaller.shape == (30, 20, 3) and size == (40, 60) and smaller[2, 17, 0] > 200
    assert math.isclose(float(whole.mean()), float(smaller.mean()), rel_tol=0.1)
