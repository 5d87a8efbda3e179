"""Build script: the compiled extension. Everything declarative is in pyproject.toml.

LMDIS_FAST_BUILD=auto|none|cpu chooses what is compiled; the README has the table of variables.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from setuptools import setup

#: Oldest supported torch, 2.11: its stable ABI is what the extension may use, so that it runs with any later one.
TORCH_TARGET_VERSION = "0x020b000000000000"
BUILDS = ("auto", "none", "cpu")


def say(sentence: str) -> None:
    """A line that is seen with `pip install -v` and in a failed build."""
    print(f"lmdis_fast: {sentence}", file=sys.stderr)


def compiler_is_missing() -> bool:
    """Whether there is no C++ compiler where the build would look for one."""
    return shutil.which(shlex.split(os.environ.get("CXX", "c++"))[0]) is None


def extension_arguments() -> dict[str, object]:
    """`ext_modules` and `cmdclass` for setup(), or nothing where nothing is to be compiled."""
    build = os.environ.get("LMDIS_FAST_BUILD", "auto").strip().lower() or "auto"
    if build not in BUILDS:
        raise SystemExit(f"LMDIS_FAST_BUILD must be one of {', '.join(BUILDS)}, got {build!r}")
    if build == "none":
        say("LMDIS_FAST_BUILD=none: nothing is compiled, the operators run on plain PyTorch")
        return {}
    if compiler_is_missing():
        if build == "cpu":
            raise SystemExit("LMDIS_FAST_BUILD=cpu needs a C++ compiler (g++ 11 or newer): install one or set CXX")
        say("no C++ compiler was found: nothing is compiled, the operators run on plain PyTorch; install g++ and again")
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    debug = os.environ.get("LMDIS_FAST_DEBUG", "0") not in ("", "0")
    sanitizers = os.environ.get("LMDIS_FAST_SANITIZE", "")  # such as address,undefined
    # No -march and no -ffast-math: instruction sets are chosen at run time, and NaN and infinity mean something.
    flags = ["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
    flags += ["-O1", "-g"] if debug else ["-O3", "-g0", "-DNDEBUG"]
    flags += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
    link = []
    if sanitizers:
        flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
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
