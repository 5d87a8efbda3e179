"""The compiled extension as a file: what it asks of torch and Python, what it defines, and how its sources are laid out."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import lmdis_fast
from lmdis_fast import backends
from lmdis_fast.ops.registration import SCHEMAS

from .test_rooms import LAYERS, OPERATORS, ROOMS

SOURCES = Path(__file__).parent.parent / "csrc"
#: What knows torch; kernels do not, so that any compiler takes them: g++ for any processor, nvcc, the emulator's.
ENTRIES = {
    *("module.cpp", "cpu/parallel.cpp", "cpu/backend.h", "cuda/module.cpp", "cuda/backend.h"),
    *("entries/tensors.h", "cpu/halved_tensors.h", "cpu/batch_norm.cpp", "cpu/resampling.cpp"),
}
#: Rooms with CUDA kernels.
GPU_ROOMS = [room for room in ROOMS if room not in LAYERS]
#: Names of the limited API, all that a file for every Python from 3.10 on may ask for.
PYTHON_NAMES = {"PyModule_Create2", "PyModuleDef_Init"}


NAMES = ["_C", "_C_cuda"]


def extension(name: str) -> Path:
    """The built extension; skips where there is none."""
    found = list(Path(lmdis_fast.__file__).parent.glob(f"{name}.*so"))
    if not found:
        backend = "cuda" if name == "_C_cuda" else "cpu"
        pytest.skip(f"backend {backend}: {backends.UNAVAILABLE[backend]}")
    return found[0]


def undefined_symbols(name: str) -> set[str]:
    """What the extension takes from other libraries."""
    path = extension(name)
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(path)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}


@pytest.mark.parametrize("name", NAMES)
def test_takes_only_stable_symbols_from_torch(name: str) -> None:
    symbols = undefined_symbols(name)
    unstable = {name for name in symbols if re.match(r"_ZN?K?(T[VIS])?N?K?(2at|3c10|5torch|5caffe2)", name)}
    # the C function that words CUDA's errors is part of the stable interface, whatever its name
    stable = {"torch_c10_cuda_check_msg", "torch_c10_cuda_free_error_msg"}
    unstable |= {name for name in symbols - stable if name.startswith("THP") or "c10" in name}
    assert not unstable
    of_torch = {name for name in symbols if name.startswith(("aoti_torch_", "torch_"))}
    assert {"aoti_torch_library_impl", "torch_library_impl"} & of_torch
    # The rest is the runtime of C++, mangled names in namespace std, and plain names of C.
    mangled = {name for name in symbols - of_torch if name.startswith("_Z")}
    assert all(
        re.match(r"_Z(T[IVS])?(N[OK]?K?R?)?S|_Z(dl|nw|na|da)|_ZT[IVS]N10__cxxabiv1", n) for n in mangled
    ), mangled


@pytest.mark.parametrize("name", NAMES)
def test_takes_only_the_limited_api_from_python(name: str) -> None:
    assert extension(name).name == f"{name}.abi3.so"
    of_python = {symbol for symbol in undefined_symbols(name) if re.match("_?Py", symbol)}
    assert of_python <= PYTHON_NAMES


@pytest.mark.parametrize("name", NAMES)
def test_offers_nothing_but_its_module(name: str) -> None:
    """No symbol that could stand for another library's, such as vector code compiled for this processor alone."""
    path = extension(name)
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert f"PyInit_{name}" in names
    assert not {symbol for symbol in names if "lmdis" in symbol}


def test_has_a_kernel_for_every_operator() -> None:
    extension("_C")
    assert set(SCHEMAS) == set(OPERATORS)
    assert [op for op in OPERATORS if not backends.can_run_cpu(op)] == []


def test_operators_that_an_extension_lacks_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 raises where it is asked for a kernel of an operator that nobody has defined."""
    asked = torch._C._dispatch_has_kernel_for_dispatch_key

    def as_of_2_11(name: str, key: str) -> bool:
        if not torch._C._dispatch_has_kernel(name):
            raise RuntimeError(f"operator {name} does not exist")
        return bool(asked(name, key))

    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", as_of_2_11)
    monkeypatch.setitem(backends.UNAVAILABLE, "cuda", None)
    monkeypatch.setitem(backends.UNAVAILABLE, "cpu", None)
    assert not backends.register_cuda("not_there")
    assert not backends.register_compiled("not_there")


def test_cuda_extension_loads_without_a_gpu_and_has_the_kernels() -> None:
    """Where torch is built for CUDA; whether there is a GPU is another question."""
    extension("_C_cuda")
    if torch.version.cuda is None:
        pytest.skip("torch is built without CUDA")
    importlib.import_module("lmdis_fast._C_cuda")
    gpu_operators = [op for room in GPU_ROOMS for name in ROOMS[room] for op in (name, name + "_backward")]
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert [op for op in gpu_operators if not has(f"lmdis_fast::{op}", "CUDA")] == []
    if torch.cuda.device_count() == 0:
        assert backends.UNAVAILABLE["cuda"] == "not usable: torch sees no NVIDIA GPU"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_cuda_extension_takes_the_splines_that_its_kernels_take(dtype: torch.dtype) -> None:
    """Tensors without memory stand for those of a GPU: a call gets past the checks, as far as torch's stream."""
    extension("_C_cuda")
    if torch.version.cuda is None or torch.cuda.device_count() > 0:
        pytest.skip("torch is built without CUDA, or there is a GPU, which would be used")
    importlib.import_module("lmdis_fast._C_cuda")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with FakeTensorMode():
        image = torch.empty(2, 3, 8, 8, device="cuda")
        spline = [torch.empty(s, device="cuda", dtype=dtype) for s in ((5, 2), (2, 5, 2), (2, 2, 3))]
        options = {
            "tps_warp": (image, *spline, None, [8, 8], "border", False),
            "tps_warp_backward": (image, image, *spline, None, "border", False, True, True, True),
        }
        for op, args in options.items():
            assert backends.not_for_cuda(op, args) is None
            wanted = (
                "must be float32 or float64"
                if dtype == torch.float16
                else "aoti_torch_get_current_cuda_stream"
            )
            with pytest.raises(RuntimeError, match=wanted):
                torch.library.get_kernel(f"lmdis_fast::{op}", "CUDA").call_boxed(keys, *args)


def test_cuda_extension_is_left_alone_by_a_torch_without_cuda() -> None:
    """The package works there and says why that backend does not."""
    extension("_C_cuda")
    program = (
        "import torch; torch.version.cuda = None; import lmdis_fast.ops; from lmdis_fast import backends; "
    )
    done = subprocess.run(
        [sys.executable, "-c", program + "print(backends.UNAVAILABLE['cuda'])"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is a build without CUDA" in done.stdout, done.stderr


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
