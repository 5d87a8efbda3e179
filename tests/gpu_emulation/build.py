"""Compiles bindings of emulated kernels when a test first needs them, and keeps them by the content they came from."""

import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
#: Where includes in angle brackets are looked for; of these files the content counts, of others the version.
FOLDERS = [HERE, CSRC]
FLAGS = [
    "-std=c++20",
    "-O2",
    "-g0",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-unknown-pragmas",
]
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^">]+)[">]', re.MULTILINE)


class CannotBuild(Exception):
    """Something is missing on this machine; the message says what."""


def compiler() -> list[str]:
    """The C++ compiler's command: ``CXX``, or c++."""
    command = shlex.split(os.environ.get("CXX", "c++"))
    if not command or shutil.which(command[0]) is None:
        raise CannotBuild(f"there is no C++ compiler ({' '.join(command) or 'CXX is empty'})")
    return command


def includes() -> list[Path]:
    """Folders with the headers of pybind11 and Python."""
    if importlib.util.find_spec("pybind11") is None:
        raise CannotBuild("pybind11 is not installed")
    import pybind11

    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").exists():
        raise CannotBuild(f"the headers of Python are not installed ({python}/Python.h)")
    return [Path(pybind11.get_include()), python]


def files_of(source: Path) -> list[Path]:
    """The source and this project's files that it includes, in turn."""
    found = {source.resolve(): None}
    for file in (pending := [source.resolve()]):
        for name in _INCLUDE.findall(file.read_text()):
            for folder in (file.parent, *FOLDERS):
                candidate = (folder / name).resolve()
                if candidate.is_file():
                    if candidate not in found:
                        found[candidate] = None
                        pending.append(candidate)
                    break
    return list(found)


@functools.cache
def _version(*command: str) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout


def cache_folder() -> Path:
    """``LMDIS_FAST_EMULATION_CACHE``, or a folder of the user's cache."""
    named = os.environ.get("LMDIS_FAST_EMULATION_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmdis_fast" / "gpu_emulation"


def built(source: Path) -> Path:
    """The compiled module; raises CannotBuild where this machine lacks something."""
    command = compiler()
    flags = [*FLAGS, *shlex.split(os.environ.get("LMDIS_FAST_EMULATION_FLAGS", ""))]
    folders = includes()
    import pybind11

    digest = hashlib.sha256()
    for part in (sys.version, pybind11.__version__, sys.platform, *command, _version(*command), *flags):
        digest.update(part.encode() + b"\0")
    for file in files_of(source):
        digest.update(os.path.relpath(file, HERE).encode() + b"\0" + file.read_bytes() + b"\0")
    target = cache_folder() / f"{source.stem}-{digest.hexdigest()[:20]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        paths = [f"-I{path}" for path in FOLDERS] + [f"-isystem{path}" for path in folders]
        done = subprocess.run(
            [*command, *flags, *paths, str(source), "-o", str(made)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{source.name} does not compile:\n{done.stderr[-6000:]}")
        os.replace(made, target)  # whole or not at all, whoever builds beside
    return target


@functools.cache
def module(source: Path) -> ModuleType:
    """The module that ``source`` binds, of the name of its file."""
    loader = ExtensionFileLoader(source.stem, str(built(source)))
    spec = importlib.util.spec_from_loader(source.stem, loader)
    assert spec is not None
    loaded = importlib.util.module_from_spec(spec)
    loader.exec_module(loaded)
    return loaded
