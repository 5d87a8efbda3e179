"""Compile every Triton kernel ahead of time and report what became of it: ``python -m tests.aot.compile_kernels``.

Runs without a GPU, and only without Triton's interpreter. Each line of the result is one kernel, as one call launches it
on one architecture: registers, stack (where spilled registers go), shared memory, 16-byte loads and stores. With
``--write`` the results become ``expected.toml``, the ceilings that later results are held to.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lmdis_fast.kernels.launch import ALIGNMENT, Captured, captured

from .calls import ROOMS
from .table import EXPECTED, load_table, write_table

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def distinct_launches(arch: str, room: str, dtype: str) -> Iterator[tuple[str, Captured]]:
    """Each kernel with each set of constants that the room's calls launch, once, and the call that was the first."""
    seen = set()
    for name, call in ROOMS[room](DTYPES[dtype]):
        with captured(arch) as launches:
            call()
        for launch in launches:
            key = (launch.kernel.__name__, *specialised(launch))
            if key not in seen:
                seen.add(key)
                yield name, launch


def specialised(launch: Captured) -> tuple[Any, ...]:
    """What makes another machine code of the same kernel; numbers count as 1, divisible by 16, or other."""
    numbers = tuple(kind_of_number(n) for n in launch.numbers)
    return launch.tensors, numbers, launch.constants, launch.options


def kind_of_number(number: Any) -> tuple[Any, int]:
    """Type and specialisation, as Triton's launcher sees them; a tuple is one of float32."""
    if isinstance(number, tuple):
        return ("fp32",) * len(number), 0
    if isinstance(number, float):
        return "fp32", 0
    kind = "i32" if -(2**31) <= number < 2**31 else "i64"
    return kind, 1 if number == 1 else 16 if number % ALIGNMENT == 0 else 0


def compiled(launch: Captured, target: GPUTarget) -> Any:
    """The compiled kernel, given what the launcher would promise: aligned tensors, ones and multiples of 16."""
    names = launch.kernel.arg_names
    signature, constants, promises = {}, {}, {}
    for place, name in enumerate(names):
        if place < len(launch.tensors):
            dtype = launch.tensors[place]
            signature[name] = "constexpr" if dtype is None else NAMES[dtype]
            if dtype is None:
                constants[name] = None
            else:
                promises[(place,)] = [["tt.divisibility", ALIGNMENT]]
        elif place < len(launch.tensors) + len(launch.numbers):
            kind, special = kind_of_number(launch.numbers[place - len(launch.tensors)])
            signature[name] = "constexpr" if special == 1 else kind
            if special == 1:
                constants[name] = 1
            elif special == ALIGNMENT:
                promises[(place,)] = [["tt.divisibility", ALIGNMENT]]
        else:
            signature[name] = "constexpr"
            constants[name] = dict(launch.constants)[name]
    source = ASTSource(launch.kernel, signature, constants, promises)
    return triton.compile(source, target=target, options=dict(launch.options))


def resources_of_cubin(asm: dict[str, Any], arch: str) -> dict[str, int]:
    """Registers, stack and shared memory by cuobjdump; 16-byte accesses in the PTX."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        text = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = {k: int(v) for k, v in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text)}
    wide = r"\.global[.\w:]*\.(?:v4\.[a-z]+32|v2\.[a-z]+64)"
    to_shared = r"cp\.async\.c[ag]\.shared\.global[^;]*, 0x10,"
    return {
        "registers": usage["REG"],
        "stack": usage["STACK"] + usage["LOCAL"],
        "wide_loads": len(re.findall(f"ld{wide}|{to_shared}", asm["ptx"])),
        "wide_stores": len(re.findall("st" + wide, asm["ptx"])),
    }


def resources_of_hsaco(asm: dict[str, Any], arch: str) -> dict[str, int]:
    """The same from AMD's assembly."""
    text = asm["amdgcn"]

    def value(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s*(\d+)", text)[0])

    return {
        "registers": value("vgpr_count"),
        "stack": 4 * value("vgpr_spill_count"),  # spilled scalars go to vector registers
        "wide_loads": len(re.findall(r"(?:global|buffer)_load_dwordx4", text)),
        "wide_stores": len(re.findall(r"(?:global|buffer)_store_dwordx4", text)),
    }


def compile_room(task: tuple[str, str, str]) -> list[dict[str, Any]]:
    """All kernels of a room for one architecture and dtype."""
    room, arch, dtype = task
    found = []
    for call, launch in distinct_launches(arch, room, dtype):
        kernel = compiled(launch, TARGETS[arch])
        read = resources_of_cubin if arch.startswith("sm") else resources_of_hsaco
        found.append(
            {
                "room": room,
                "kernel": launch.kernel.__name__,
                "arch": arch,
                "dtype": dtype,
                "call": call,
                **read(kernel.asm, arch),
                "shared": kernel.metadata.shared,
                "constants": dict(launch.constants),
                "options": dict(launch.options),
            }
        )
    return found


def tasks_of(rooms: list[str], archs: list[str], dtypes: list[str]) -> list[tuple[str, str, str]]:
    """What to compile. float16 differs from bfloat16 in its conversions alone: one architecture will do."""
    return [(r, a, d) for r in rooms for a in archs for d in dtypes if d != "float16" or a == "sm_90"]


def ceilings(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """For each kernel, and for dtype and architecture: the most it takes, and the wide accesses of usual maps."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for entry in results:
        row = table.setdefault(entry["kernel"], {}).setdefault(f"{entry['dtype']}.{entry['arch']}", {})
        for name in ("registers", "shared"):
            row[name] = max(row.get(name, 0), entry[name])
        if usual(entry):
            for name in ("wide_loads", "wide_stores"):
                row[name] = min(row.get(name, entry[name]), entry[name])
    return table


def usual(entry: dict[str, Any]) -> bool:
    """Whether its maps are contiguous, and not of so many channels that a thread has no 16 bytes of one."""
    return (
        str(entry["call"]).startswith("contiguous")
        and "K=60" not in entry["call"]
        and "K=100" not in entry["call"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.aot.compile_kernels", description=__doc__)
    parser.add_argument("--rooms", nargs="*", default=list(ROOMS), choices=list(ROOMS))
    parser.add_argument("--archs", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--out", type=Path, help="of the results as JSON; without, a table is printed")
    parser.add_argument("--write", action="store_true", help=f"make the results {EXPECTED.name}")
    options = parser.parse_args()
    tasks = tasks_of(options.rooms, options.archs, options.dtypes)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = [entry for part in pool.map(compile_room, tasks) for entry in part]
    if options.write:
        cuda = {k: v for k, v in load_table().items() if k in ("cuda", "nvcc")}
        write_table({**ceilings(results), **cuda, "triton": triton.__version__})
    if options.out:
        options.out.write_text(json.dumps(results))
        return
    columns = ("kernel", "arch", "dtype", "call", "registers", "stack", "shared", "wide_loads", "wide_stores")
    for entry in results:
        print("  ".join(str(entry[c]).ljust(12) for c in columns))


if __name__ == "__main__":
    sys.exit(main())
