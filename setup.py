"""Build script: the compiled extension. Everything declarative is in pyproject.toml.

LMDIS_FAST_BUILD=auto|none|cpu chooses what is compiled: what can be, nothing, or the CPU extension without which the
build fails. LMDIS_FAST_DEBUG=1 and LMDIS_FAST_SANITIZE=address,undefined make builds for looking into it. The README
has the table of variables.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from setuptools import setup

#: Oldest supported torch, 2.11: its stable ABI is what the extension may use, so that it runs with any later one.
TORCH_TARGET_VERSION = "0x020b000000000000"
OLDEST_TORCH = (2, 11)
BUILDS = ("auto", "none", "cpu")


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


def nothing(reason: str) -> dict[str, object]:
    """No extension. In an editable installation one of an earlier build would be found beside the sources."""
    say(f"{reason}: nothing is compiled, the operators run on plain PyTorch")
    if {"editable_wheel", "develop"} & set(sys.argv):
        for old in Path("lmdis_fast").glob("_C*.so"):
            say(f"{old} of an earlier build is removed")
            old.unlink()
    return {}


def extension_arguments() -> dict[str, object]:
    """`ext_modules` and `cmdclass` for setup(), or nothing where nothing is to be compiled."""
    build = os.environ.get("LMDIS_FAST_BUILD", "auto").strip().lower() or "auto"
    if build not in BUILDS:
        raise SystemExit(f"lmdis_fast: LMDIS_FAST_BUILD must be one of {', '.join(BUILDS)}, got {build!r}")
    if build == "none":
        return nothing("LMDIS_FAST_BUILD=none")
    if compiler_is_missing():
        if build == "cpu":
            raise SystemExit(
                "lmdis_fast: LMDIS_FAST_BUILD=cpu needs a C++ compiler: install g++ 11 or newer, or set CXX"
            )
        return nothing("no C++ compiler was found (install g++ 11 or newer, or set CXX)")
    missing = torch_is_missing()
    if missing is not None:
        raise SystemExit(
            f"lmdis_fast: {missing}: install torch>=2.11, setuptools, wheel and ninja first, or build without "
            "--no-build-isolation, or with LMDIS_FAST_BUILD=none for plain PyTorch"
        )
    from torch.utils.cpp_extension import BuildExtension, CppExtension

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
    extension = CppExtension(
        "lmdis_fast._C",
        sorted(str(path) for folder in ("csrc", "csrc/cpu") for path in Path(folder).glob("*.cpp")),
        depends=sorted(str(path) for path in Path("csrc").rglob("*.[hi]*")),
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)],
        extra_compile_args=flags,
        extra_link_args=link,
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**extension_arguments())
