"""Build script: the compiled extensions. Everything declarative is in pyproject.toml.

LMDIS_FAST_BUILD=auto|none|cpu|cuda chooses what is compiled: what can be, nothing, the CPU extension alone, or that and
the CUDA extension; one that is named and cannot be built is an error. LMDIS_FAST_DEBUG=1 and
LMDIS_FAST_SANITIZE=address,undefined make builds for looking into it. The README has the table of variables.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

#: Oldest supported torch, 2.11: its stable ABI is what the extension may use, so that it runs with any later one.
TORCH_TARGET_VERSION = "0x020b000000000000"
OLDEST_TORCH = (2, 11)
BUILDS = ("auto", "none", "cpu", "cuda")
#: Architectures of NVIDIA's GPUs, where TORCH_CUDA_ARCH_LIST says nothing: A100, H100 and H200, B200, and later ones.
CUDA_ARCHITECTURES = "8.0;9.0;10.0+PTX"
#: The same for an nvcc older than 12.8, which does not know B200: that GPU compiles its kernels when it loads them.
OLDER_CUDA_ARCHITECTURES = "8.0;9.0+PTX"


def say(sentence: str) -> None:
    """A line that is seen with `pip install -v` and in a failed build."""
    print(f"lmdis_fast: {sentence}", file=sys.stderr)


def compiler_is_missing() -> bool:
    """Whether there is no C++ compiler where the build would look for one."""
    return shutil.which(shlex.split(os.environ.get("CXX", "c++"))[0]) is None


def torch_is_missing() -> str | None:
    """Why the headers of a supported torch are not here, or None where they are."""
    try:
        import torch
    except ImportError:
        return "torch is not installed where the build runs"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return None if version >= OLDEST_TORCH else f"torch {torch.__version__} is older than 2.11"


def nothing(reason: str) -> dict[str, Any]:
    """No extension."""
    say(f"{reason}: nothing is compiled, the operators run on plain PyTorch")
    remove_earlier("_C*.so")
    return {}


def remove_earlier(pattern: str) -> None:
    """In an editable installation an extension of an earlier build would be found beside the sources."""
    if {"editable_wheel", "develop"} & set(sys.argv):
        for old in Path("lmdis_fast").glob(pattern):
            say(f"{old} of an earlier build is removed")
            old.unlink()


def find_cuda_toolkit() -> None:
    """Set CUDA_HOME where it is not: nvcc on the path may be a script or a link to one that lies elsewhere.

    Torch takes the folder above it, in which the toolkit's libraries then are not found. Before torch is imported.
    """
    nvcc = shutil.which("nvcc")
    if os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or nvcc is None:
        return
    said = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-E", os.devnull], capture_output=True, text=True, check=False
    )
    top = re.search(r"^#\$ TOP=(.*)$", said.stderr, re.MULTILINE)
    if top is not None:
        os.environ["CUDA_HOME"] = str(Path(top[1]).resolve())


def nvcc_release() -> tuple[int, int] | None:
    """The release of CUDA that nvcc is of, or None where it does not say."""
    from torch.utils.cpp_extension import CUDA_HOME

    nvcc = str(Path(CUDA_HOME or "") / "bin" / "nvcc")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def cuda_is_missing() -> str | None:
    """Why the CUDA extension cannot be built here, or None where it can. Whether there is a GPU does not matter."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if os.environ.get("LMDIS_FAST_SANITIZE"):
        return "LMDIS_FAST_SANITIZE is for the CPU extension"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    nvcc = Path(CUDA_HOME or "") / "bin" / "nvcc"
    if CUDA_HOME is None or not nvcc.exists():
        return "nvcc was not found (install the CUDA toolkit, or set CUDA_HOME)"
    release = nvcc_release()
    if release is None:
        return f"{nvcc} does not say its version"
    if release[0] != int(torch.version.cuda.split(".")[0]):
        return f"nvcc is of CUDA {release[0]}.{release[1]}, torch {torch.__version__} of CUDA {torch.version.cuda}"
    folders = [Path(CUDA_HOME) / name for name in ("lib64", "lib", "targets/x86_64-linux/lib")]
    if not any((folder / "libcudart.so").exists() for folder in folders):
        return f"libcudart.so was not found in {CUDA_HOME} (set CUDA_HOME to the CUDA toolkit)"
    return None


def extension_arguments() -> dict[str, Any]:
    """`ext_modules` and `cmdclass` for setup(), or nothing where nothing is to be compiled."""
    build = os.environ.get("LMDIS_FAST_BUILD", "auto").strip().lower() or "auto"
    if build not in BUILDS:
        raise SystemExit(f"lmdis_fast: LMDIS_FAST_BUILD must be one of {', '.join(BUILDS)}, got {build!r}")
    if build == "none":
        return nothing("LMDIS_FAST_BUILD=none")
    if compiler_is_missing():
        if build != "auto":
            raise SystemExit(
                f"lmdis_fast: LMDIS_FAST_BUILD={build} needs a C++ compiler: install g++ 11 or newer, or set CXX"
            )
        return nothing("no C++ compiler was found (install g++ 11 or newer, or set CXX)")
    missing = torch_is_missing()
    if missing is not None:
        raise SystemExit(
            f"lmdis_fast: {missing}: install torch>=2.11, setuptools, wheel and ninja first, or build without "
            "--no-build-isolation, or with LMDIS_FAST_BUILD=none for plain PyTorch"
        )
    find_cuda_toolkit()
    from torch.utils.cpp_extension import BuildExtension

    extensions = [cpu_extension()]
    missing = "LMDIS_FAST_BUILD=cpu" if build == "cpu" else cuda_is_missing()
    if missing is None:
        extensions.append(cuda_extension())
    elif build == "cuda":
        raise SystemExit(f"lmdis_fast: LMDIS_FAST_BUILD=cuda cannot be: {missing}")
    else:
        say(f"{missing}: no CUDA extension; on a GPU the operators run on Triton")
        remove_earlier("_C_cuda*.so")
    return {
        "ext_modules": extensions,
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def headers() -> list[str]:
    """What every object depends on."""
    return sorted(str(path) for path in Path("csrc").rglob("*.*") if path.suffix in (".h", ".inc", ".cuh"))


def cpu_extension() -> Any:
    """The CPU operators, each instruction set of the vector code in an object of its own."""
    from torch.utils.cpp_extension import CppExtension

    debug = os.environ.get("LMDIS_FAST_DEBUG", "0") not in ("", "0")
    sanitizers = os.environ.get("LMDIS_FAST_SANITIZE", "")  # such as address,undefined
    # No -march and no -ffast-math: instruction sets are chosen at run time, and NaN and infinity mean something.
    flags = ["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
    if sanitizers:
        flags += ["-O1", "-g1"]  # lines alone: all of -g takes the compiler minutes here
    else:
        flags += ["-O1", "-g"] if debug else ["-O3", "-g0", "-DNDEBUG"]
    flags += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
    flags += [f"-ffile-prefix-map={Path.cwd()}/="]  # no folder of this machine in messages
    link = []
    if sanitizers:
        flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        link += [f"-fsanitize={sanitizers}"]
    return CppExtension(
        "lmdis_fast._C",
        sorted(str(path) for folder in ("csrc", "csrc/cpu") for path in Path(folder).glob("*.cpp")),
        depends=headers(),
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)],
        extra_compile_args=flags,
        extra_link_args=link,
        py_limited_api=True,
    )


def cuda_extension() -> Any:
    """The CUDA operators, in a library of their own: one with CUDA in it does not load beside a torch without."""
    from torch.utils.cpp_extension import CUDAExtension

    knows_all = (nvcc_release() or (0, 0)) >= (12, 8)
    os.environ.setdefault(
        "TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES if knows_all else OLDER_CUDA_ARCHITECTURES
    )
    debug = os.environ.get("LMDIS_FAST_DEBUG", "0") not in ("", "0")
    common = ["-std=c++20", "-O3"]
    host = ["-fvisibility=hidden", "-Wno-psabi", "-g" if debug else "-g0"]
    host += [f"-ffile-prefix-map={Path.cwd()}/="]
    device = [*common, *(f"-Xcompiler={flag}" for flag in host)]
    device += ["-lineinfo"] if debug else []
    return CUDAExtension(
        "lmdis_fast._C_cuda",
        sorted(str(path) for path in Path("csrc/cuda").iterdir() if path.suffix in (".cu", ".cpp")),
        depends=headers(),
        # USE_CUDA declares torch's stream in its stable headers
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION), ("USE_CUDA", None)],
        extra_compile_args={"cxx": [*common, *host], "nvcc": device},
        py_limited_api=True,
    )


setup(**extension_arguments())
