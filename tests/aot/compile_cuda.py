"""Compile every CUDA kernel with nvcc and report what became of it: ``python -m tests.aot.compile_cuda``.

Runs without a GPU. Each room's calls are compiled for each architecture with warnings as errors; of each kernel the
result says registers, stack (where spilled registers go), shared memory, and 16-byte loads and stores in its machine
code. With ``--write`` the results become part of ``expected.toml``. What one content of the sources gave is kept, so that
compiling again costs nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..gpu_emulation.build import cache_folder
from .table import load_table, write_table

CSRC = Path(__file__).parents[2] / "csrc"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
FLAGS = ["-std=c++20", "-O3", "-Werror", "all-warnings", "-cubin"]
#: The calls of a room, which launch all of its kernels.
CALLS = {
    "heatmap_moments": ("HeatmapMoments", "HeatmapMomentsBackward"),
    "landmark_pool": ("LandmarkPool", "LandmarkPoolBackward", "GaussianPool", "GaussianPoolBackward"),
    "gaussian_splat": ("GaussianSplat", "GaussianSplatBackward"),
    "tps_warp": ("TpsWarp", "TpsWarpBackward"),
}
DTYPES = {"float": "float32", "__nv_bfloat16": "bfloat16", "__half": "float16"}


class CannotCompile(Exception):
    """Something is missing on this machine; the message says what."""


def tool(name: str) -> str:
    """A program of the CUDA toolkit, or of those that Triton brings along."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    found = shutil.which(name, path=f"{home}/bin") or shutil.which(name)
    if found is None:
        try:
            import triton
        except ImportError:
            triton = None
        bundled = triton and Path(triton.__file__).parent / "backends/nvidia/bin" / name
        found = str(bundled) if bundled and bundled.exists() else None
    if found is None:
        raise CannotCompile(f"{name} is not installed")
    return found


def output(*command: str, stdin: str | None = None) -> str:
    """Standard output of a program that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-6000:]}")
    return done.stdout


def release() -> str:
    """CUDA's, as nvcc says it."""
    found = re.search(r"release ([\d.]+)", output(tool("nvcc"), "--version"))
    return found[1] if found else "unknown"


def source_of(room: str) -> str:
    """A file that launches everything a room has."""
    arguments = ", ".join(f"const lmdis::{name}& c{i}" for i, name in enumerate(CALLS[room]))
    runs = " ".join(f"lmdis::run(c{i}, stream);" for i in range(len(CALLS[room])))
    return f'#include "cuda/{room}.cuh"\nvoid launch({arguments}, cudaStream_t stream) {{ {runs} }}\n'


def compiled(room: str, arch: str) -> list[dict[str, Any]]:
    """The room's kernels on one architecture; from the cache where the sources and nvcc are the same."""
    nvcc = tool("nvcc")
    digest = hashlib.sha256("\0".join([output(nvcc, "--version"), *FLAGS, source_of(room), arch]).encode())
    digest.update(Path(__file__).read_bytes())
    for path in sorted(CSRC.glob("*.h")) + sorted((CSRC / "cuda").glob("*.cuh")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    kept = cache_folder() / f"{room}-{arch}-{digest.hexdigest()[:20]}.json"
    if kept.exists():
        found: list[dict[str, Any]] = json.loads(kept.read_text())
        return found
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / f"{room}.cu", Path(folder) / f"{room}.cubin"
        source.write_text(source_of(room))
        output(nvcc, *FLAGS, f"-arch={arch}", f"-I{CSRC}", str(source), "-o", str(cubin))
        found = [{"room": room, "arch": arch, "stack": 0, **entry} for entry in resources(str(cubin))]
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(found))
    os.replace(draft, kept)
    return found


def resources(cubin: str) -> Iterator[dict[str, Any]]:
    """Of each kernel in a file of machine code."""
    cuobjdump = tool("cuobjdump")
    usage = re.findall(
        r"Function (\S+):\n\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)",
        output(cuobjdump, "--dump-resource-usage", cubin),
    )
    codes = re.split(r"\n\s*Function : (\S+)\n", output(cuobjdump, "-sass", cubin))
    code = dict(zip(codes[1::2], codes[2::2], strict=True))
    names = output(tool("cu++filt") if shutil.which("cu++filt") else "c++filt", *(u[0] for u in usage))
    for (symbol, registers, stack, shared, local), name in zip(usage, names.splitlines(), strict=True):
        match = re.match(r"(?:void )?lmdis::(\w+)(?:<([^>]*)>)?\(", name)
        assert match is not None, name
        arguments = [a.strip() for a in (match[2] or "").split(",") if a.strip()]
        yield {
            "kernel": match[1],
            "dtype": next((DTYPES[a] for a in arguments if a in DTYPES), "float32"),
            "call": ", ".join(a for a in arguments if a not in DTYPES) or "-",
            "registers": int(registers),
            "stack": int(stack) + int(local),
            "shared": int(shared),
            "wide_loads": len(re.findall(r"\bLDG\.E\.(?:\w+\.)*128\b", code[symbol])),
            "wide_stores": len(re.findall(r"\bSTG\.E\.(?:\w+\.)*128\b", code[symbol])),
        }


def compile_rooms(rooms: list[str], archs: list[str]) -> list[dict[str, Any]]:
    """All kernels, as many compilers at a time as there are processors."""
    tasks = [(room, arch) for room in rooms for arch in archs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [entry for part in pool.map(lambda task: compiled(*task), tasks) for entry in part]


def ceilings(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """For each kernel, and for dtype and architecture: the most that any of its instances takes."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for entry in results:
        row = table.setdefault(entry["kernel"], {}).setdefault(f"{entry['dtype']}.{entry['arch']}", {})
        for name in ("registers", "shared"):
            row[name] = max(row.get(name, 0), entry[name])
        for name in ("wide_loads", "wide_stores"):
            row[name] = min(row.get(name, entry[name]), entry[name])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.aot.compile_cuda", description=__doc__)
    parser.add_argument("--rooms", nargs="*", default=list(CALLS), choices=list(CALLS))
    parser.add_argument("--archs", nargs="*", default=list(ARCHITECTURES), choices=list(ARCHITECTURES))
    parser.add_argument("--write", action="store_true", help="make the results part of expected.toml")
    options = parser.parse_args()
    if options.write and (set(options.rooms) != set(CALLS) or set(options.archs) != set(ARCHITECTURES)):
        parser.error("--write takes all rooms and architectures: others would be lost from the table")
    results = compile_rooms(options.rooms, options.archs)
    if options.write:
        write_table({**load_table(), "nvcc": release(), "cuda": ceilings(results)})
    columns = ("kernel", "arch", "dtype", "call", "registers", "stack", "shared", "wide_loads", "wide_stores")
    for entry in results:
        print("  ".join(str(entry[c]).ljust(12) for c in columns))


if __name__ == "__main__":
    sys.exit(main())
