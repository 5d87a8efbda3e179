"""What is compiled when, said in one sentence; a package without an extension; a wheel that other releases run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
#: A supported release of torch other than the one that the tests run with.
OTHER_TORCH = "2.13.0"


def python(
    *arguments: str | Path, cwd: Path = ROOT, executable: str | Path = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A Python process; variables of the build are unset unless given."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LMDIS_FAST_") and k != "CXX"}
    command = [str(executable), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, check=False
    )


def sentences(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the build script said."""
    return [line for line in done.stderr.splitlines() if line.startswith("lmdis_fast: ")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what is needed to build, without anything built."""
    for name in ("lmdis_fast", "csrc"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_unknown_build_is_an_error() -> None:
    done = python("setup.py", "--version", LMDIS_FAST_BUILD="gpu")
    assert done.returncode != 0
    assert sentences(done) == ["lmdis_fast: LMDIS_FAST_BUILD must be one of auto, none, cpu, cuda, got 'gpu'"]


def test_none_compiles_nothing() -> None:
    done = python("setup.py", "--version", LMDIS_FAST_BUILD="none")
    assert done.returncode == 0
    (said,) = sentences(done)
    assert said.endswith("LMDIS_FAST_BUILD=none: nothing is compiled, the operators run on plain PyTorch")


@pytest.mark.parametrize("way", ["CXX", "PATH"])
def test_missing_compiler_is_said_or_an_error(way: str, tmp_path: Path) -> None:
    environment = {"CXX": "/nonexistent/g++"} if way == "CXX" else {"PATH": str(tmp_path)}
    done = python("setup.py", "--version", **environment)
    assert done.returncode == 0
    (said,) = sentences(done)
    assert "no C++ compiler was found" in said and "run on plain PyTorch" in said
    done = python("setup.py", "--version", LMDIS_FAST_BUILD="cpu", **environment)
    assert done.returncode != 0
    (said,) = sentences(done)
    assert "LMDIS_FAST_BUILD=cpu needs a C++ compiler" in said


@pytest.mark.skipif(torch.version.cuda is None, reason="torch is built without CUDA")
@pytest.mark.skipif(shutil.which("c++") is None, reason="c++ is not installed")
@pytest.mark.parametrize(
    ("nvcc", "reason"),
    [
        (None, "nvcc was not found"),
        ("Cuda compilation tools, release 11.8, V11.8.89", "nvcc is of CUDA 11.8, torch"),
        ("nothing", "does not say its version"),
    ],
)
def test_missing_cuda_is_said_or_an_error(nvcc: str | None, reason: str, tmp_path: Path) -> None:
    if nvcc is not None:
        program = tmp_path / "bin" / "nvcc"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho '{nvcc}'\n")
        program.chmod(0o755)
    done = python("setup.py", "--version", CUDA_HOME=str(tmp_path))
    assert done.returncode == 0
    (said,) = sentences(done)
    assert reason in said and said.endswith("no CUDA extension; on a GPU the operators run on Triton")
    done = python("setup.py", "--version", CUDA_HOME=str(tmp_path), LMDIS_FAST_BUILD="cuda")
    assert done.returncode != 0
    (said,) = sentences(done)
    assert said.startswith("lmdis_fast: LMDIS_FAST_BUILD=cuda cannot be:") and reason in said


@pytest.mark.skipif(shutil.which("c++") is None, reason="c++ is not installed")
@pytest.mark.parametrize(
    ("release", "architectures"),
    [("12.6", "8.0;9.0+PTX"), ("12.8", "8.0;9.0;10.0+PTX"), ("13.0", "8.0;9.0;10.0+PTX")],
)
def test_architectures_are_those_that_nvcc_knows(release: str, architectures: str, tmp_path: Path) -> None:
    """Beside a torch of the same CUDA: only the versions differ."""
    program = tmp_path / "bin" / "nvcc"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.20'\n")
    program.chmod(0o755)
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart.so").touch()
    script = f"import os, torch, sys; os.environ.pop('TORCH_CUDA_ARCH_LIST', None); torch.version.cuda = '{release}'; sys.argv = ['setup.py', '--version']; "
    script += "exec(open('setup.py').read()); print(os.environ['TORCH_CUDA_ARCH_LIST'])"
    done = python("-c", script, CUDA_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == architectures
    assert sentences(done) == []


def test_torch_without_cuda_has_no_cuda_extension(tmp_path: Path) -> None:
    """As in a build beside torch for CPUs: only the version differs."""
    program = "import torch, sys; torch.version.cuda = None; sys.argv = ['setup.py', '--version']; "
    done = python("-c", program + "exec(open('setup.py').read())")
    assert done.returncode == 0, done.stderr
    (said,) = sentences(done)
    assert "is built without CUDA: no CUDA extension" in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("raise ImportError", "lmdis_fast: torch is not installed where the build runs: install torch>=2.11"),
        (
            "__version__ = '2.10.1+cpu'",
            "lmdis_fast: torch 2.10.1+cpu is older than 2.11: install torch>=2.11",
        ),
    ],
)
@pytest.mark.skipif(shutil.which("c++") is None, reason="c++ is not installed")
def test_missing_torch_is_an_error(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(content)
    done = python("setup.py", "--version", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    (said,) = sentences(done)
    assert said.startswith(sentence) and "LMDIS_FAST_BUILD=none" in said


def test_package_without_extension_warns_once_and_works(tree: Path) -> None:
    program = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in f.__module__]  # it would find the extension
import torch
from lmdis_fast import backends
from lmdis_fast.ops import heatmap_moments, landmark_pool
z = torch.zeros(1, 3, 4, 5, requires_grad=True)
for _ in range(2):
    heatmap_moments(z).coords.sum().backward()
    landmark_pool(z, z).sum().backward()
print(backends.last_backend("heatmap_moments_backward"), backends.why_not("cpu", "heatmap_moments"))
"""
    done = python("-W", "always", "-c", program, cwd=tree)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reference not built: this installation has no compiled CPU extension")
    assert done.stderr.count("UserWarning: lmdis_fast: the operators run on plain PyTorch") == 1
    quiet = python("-W", "error", "-c", program, cwd=tree, LMDIS_FAST_BACKEND="reference")
    assert quiet.returncode == 0, quiet.stderr


def test_editable_installation_of_none_forgets_an_earlier_extension(tree: Path) -> None:
    old = tree / "lmdis_fast" / "_C.abi3.so"
    old.write_bytes(b"")
    done = python("setup.py", "-q", "editable_wheel", "-d", tree / "dist", cwd=tree, LMDIS_FAST_BUILD="none")
    assert done.returncode == 0, done.stderr
    assert not old.exists()
    assert any("of an earlier build is removed" in said for said in sentences(done))


def test_source_distribution_has_the_sources(tree: Path) -> None:
    done = python("setup.py", "-q", "sdist", "--formats", "tar", cwd=tree, LMDIS_FAST_BUILD="none")
    assert done.returncode == 0, done.stderr
    (archive,) = (tree / "dist").glob("*.tar")
    unpacked = tree / "unpacked"
    shutil.unpack_archive(archive, unpacked)
    (top,) = unpacked.iterdir()
    wanted = {path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*.*") if path.is_file()}
    assert {path for path in wanted if not (top / path).is_file()} == set()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="c++ is not installed")
def test_wheel_runs_in_a_fresh_environment_with_another_torch(tree: Path) -> None:
    done = python("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", "dist", ".", cwd=tree)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    fresh = tree / "fresh" / "bin" / "python"
    assert python("-m", "venv", tree / "fresh").returncode == 0
    needed = [f"torch=={OTHER_TORCH}", "numpy", "pytest", "hypothesis"]
    installed = python("-m", "pip", "install", "-q", *needed, executable=fresh, cwd=tree)
    if installed.returncode != 0:
        pytest.skip(f"pip cannot install torch {OTHER_TORCH}: {installed.stderr.strip().splitlines()[-1]}")
    done = python("-m", "pip", "install", "-q", "--no-deps", wheel, executable=fresh, cwd=tree)
    assert done.returncode == 0, done.stderr
    away = tree / "away"  # where no sources lie
    shutil.copytree(ROOT / "tests", away / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", away)
    rooms = [str(path.relative_to(away)) for path in away.glob("tests/*/test_backends.py")]
    command = ["-m", "pytest", "-p", "no:cacheprovider", "-k", "agrees or threads or best", *rooms]
    done = python(*command, executable=fresh, cwd=away, HYPOTHESIS_PROFILE="brief")
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
