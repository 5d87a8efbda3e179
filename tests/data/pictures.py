"""Small pictures on disk for the tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int = 40, height: int = 40) -> Image.Image:
    """A picture that differs from every other number's."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_folder(root: Path, count: int, subfolder: str = "") -> list[Path]:
    """``count`` pictures f0.png, f1.png, ..."""
    folder = root / subfolder
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"f{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    return paths


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A plain tar with these members."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
