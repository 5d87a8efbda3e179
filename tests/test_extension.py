"""The compiled extension as a file: what it asks of torch and Python, what it defines, and how its sources are laid out."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import lmdis_fast
from lmdis_fast import backends
from lmdis_fast.ops.registration import SCHEMAS

from .test_rooms import OPERATORS, ROOMS

SOURCES = Path(__file__).parent.parent / "csrc"
#: What knows torch; kernels do not, so that any compiler takes them: g++ for any processor, nvcc, the emulator's.
ENTRIES = {
    *("module.cpp", "cpu/parallel.cpp", "cpu/backend.h", "cuda/module.cpp", "cuda/backend.h"),
    *("entries/tensors.h", "cpu/batch_norm.cpp"),
}
#: Rooms with CUDA kernels.
GPU_ROOMS = ["heatmap_moments", "landmark_pool"]
#: Names of the limited API, all that a file for every Python from 3.10 on may ask for.
PYTHON_NAMES = {"PyModule_Create2", "PyModuleDef_Init"}


def extension() -> Path:
    """The built extension; skips where there is none."""
    if backends.UNAVAILABLE["cpu"] is not None:
        pytest.skip(f"backend cpu: {backends.UNAVAILABLE['cpu']}")
    (found,) = Path(lmdis_fast.__file__).parent.glob("_C*.so")
    return found


def undefined_symbols() -> set[str]:
    """What the extension takes from other libraries."""
    path = extension()
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(path)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}


def test_takes_only_stable_symbols_from_torch() -> None:
    symbols = undefined_symbols()
    unstable = {name for name in symbols if re.match(r"_ZN?K?(T[VIS])?N?K?(2at|3c10|5torch|5caffe2)", name)}
    unstable |= {name for name in symbols if name.startswith("THP") or "c10" in name}
    assert not unstable
    of_torch = {name for name in symbols if name.startswith(("aoti_torch_", "torch_"))}
    assert "aoti_torch_library_impl" in of_torch or "torch_library_impl" in of_torch
    # The rest is the runtime of C++, mangled names in namespace std, and plain names of C.
    mangled = {name for name in symbols - of_torch if name.startswith("_Z")}
    assert all(
        re.match(r"_Z(T[IVS])?(N[OK]?K?R?)?S|_Z(dl|nw|na|da)|_ZT[IVS]N10__cxxabiv1", n) for n in mangled
    ), mangled


def test_takes_only_the_limited_api_from_python() -> None:
    assert extension().name == "_C.abi3.so"
    of_python = {name for name in undefined_symbols() if re.match("_?Py", name)}
    assert of_python <= PYTHON_NAMES


def test_offers_nothing_but_its_module() -> None:
    """No symbol that could stand for another library's, such as vector code compiled for this processor alone."""
    path = extension()
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert "PyInit__C" in names
    assert not {name for name in names if "lmdis" in name}


def test_has_a_kernel_for_every_operator() -> None:
    extension()
    assert set(SCHEMAS) == set(OPERATORS)
    assert [op for op in OPERATORS if not backends.can_run_cpu(op)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_sources_of_a_room(room: str) -> None:
    for ending in ("h", "inc", "cpp"):
        assert (SOURCES / "cpu" / f"{room}.{ending}").is_file()
    if room in GPU_ROOMS:
        for place in ("entries/{}.h", "cuda/{}.cuh", "cuda/{}.cu"):
            assert (SOURCES / place.format(room)).is_file()


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.*")), ids=lambda p: str(p.relative_to(SOURCES)))
def test_kernels_do_not_include_torch(path: Path) -> None:
    if path.suffix not in (".h", ".inc", ".cpp", ".cuh", ".cu"):
        return
    name = str(path.relative_to(SOURCES))
    includes = re.findall(r"#include\s+[<\"]([^>\"]+)", path.read_text())
    foreign = [n for n in includes if n.startswith(("torch", "ATen", "c10", "Python"))]
    assert bool(foreign) <= (name in ENTRIES), foreign
    if (
        name in ENTRIES
        or (path.stem in ROOMS and path.suffix in (".cpp", ".cu"))
        or path.parent.name == "entries"
    ):
        return
    assert not [n for n in includes if n.endswith(("tensors.h", "backend.h")) or "entries/" in n]
