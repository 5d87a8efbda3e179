"""The vector code compiled without torch: for another processor, and with sanitizers, against loops in double."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / "tests/vector_code/check.cpp", ROOT / "csrc/cpu/baseline.cpp"]
FLAGS = ["-std=c++20", "-Wall", "-Wno-psabi", "-Wno-unused-function", "-fno-math-errno", "-fno-trapping-math"]


def needs(tool: str) -> str:
    """A program's path; skips where it is missing."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


def compiled(compiler: str, target: Path, *flags: str) -> Path:
    """The checking program."""
    command = [compiler, *FLAGS, *flags, *map(str, SOURCES), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return target


def test_on_aarch64(tmp_path: Path) -> None:
    program = compiled(needs("aarch64-linux-gnu-g++"), tmp_path / "check", "-O0")
    emulator = needs("qemu-aarch64")
    done = subprocess.run(
        [emulator, "-L", "/usr/aarch64-linux-gnu", str(program)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stdout + done.stderr


@pytest.mark.slow
def test_here_under_sanitizers(tmp_path: Path) -> None:
    flags = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = compiled(needs("g++"), tmp_path / "check", *flags)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stdout + done.stderr
