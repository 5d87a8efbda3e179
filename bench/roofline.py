"""`python -m bench.roofline`: what every GPU kernel moves and computes, and the time below which it cannot be.

Nothing is measured: bytes and operations are counted (:mod:`.kernel_costs`), registers and shared memory are those of
the compiled code (tests/aot/expected.toml, the most of any call), and times are the slowest of memory, multiply-adds
and special functions at the devices' full rates, without launches.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from . import cuda_launches
from .kernel_costs import OPERATORS
from .kernel_model import LARGEST_RATIO, Cost, Kernel, Launch, Operator, Size
from .report import markdown

RESOURCES = Path(__file__).parents[1] / "tests" / "aot" / "expected.toml"
BYTES = {"float32": 4, "bfloat16": 2}
BACKENDS = ("triton", "cuda")
LANDMARKS, SIDES, FEATURES = (10, 30), (64, 80, 128), (16, 64)


@dataclass(frozen=True)
class Device:
    """Rates per second."""

    name: str
    bytes: float
    madds: float
    special: float

    def seconds(self, cost: Cost) -> tuple[float, str]:
        """The slowest of the three, and which one that is."""
        times = {
            "memory": cost.moved / self.bytes,
            "multiply-adds": cost.madds / self.madds,
            "special": cost.special / self.special,
        }
        binding = max(times, key=lambda name: times[name])
        return times[binding], binding


DEVICES = (
    Device("H100", 3.35e12, 66.9e12 / 2, 3.7e12),
    Device("H200", 4.8e12, 66.9e12 / 2, 3.7e12),
)


@dataclass(frozen=True)
class Multiprocessor:
    """What one has, and takes for a block beside what the block asks for."""

    shared: int
    registers: int = 65536
    warps: int = 64
    blocks: int = 32
    shared_of_block: int = 1024

    def occupancy(self, registers: int, shared: int, threads: int) -> tuple[int, float]:
        """Resident blocks, and their warps over the most there can be.

        Registers are handed out to warps by 256, in each of four quarters of the file.
        """
        warps = -(-threads // 32)
        of_warp = -(-registers * 32 // 256) * 256
        by_registers = self.registers // 4 // of_warp * 4 // warps
        by_shared = self.shared // (shared + self.shared_of_block)
        blocks = min(by_registers, by_shared, self.warps // warps, self.blocks)
        return blocks, blocks * warps / self.warps


ARCHITECTURES = {
    "sm_80": Multiprocessor(164 * 1024),
    "sm_90": Multiprocessor(228 * 1024),
    "sm_100": Multiprocessor(228 * 1024),
}


def load_resources(path: Path = RESOURCES) -> dict[str, Any]:
    """``{kernel: {dtype: {arch: {registers, shared, ...}}}}``, empty where there is no such file or no reader."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            return {}
    return tomllib.loads(path.read_text()) if path.exists() else {}


def launch_of(kernel: str, backend: str, arch: str, size: Size) -> Launch:
    """The launch table's entry, or how CUDA's kernels are cut; empty where Triton is missing or has no such kernel."""
    if backend == "cuda":
        return cuda_launches.launch_of(kernel, size)
    if importlib.util.find_spec("triton") is None:
        return {}
    from lmdis_fast.kernels.launch_table import TABLE, configuration

    if kernel not in TABLE:
        return {}
    return configuration(kernel, arch, size.channels, size.side * size.side, size.bytes)


#: CUDA's kernels whose launch asks for shared memory: all that hold tiles of several channels.
ASK_FOR_SHARED = ("_channels", "_many", "_partials", "_map", "_maps")

HEAD = (
    "kernel",
    "backend",
    "size",
    "least MB",
    "moved MB",
    "moved / least",
    "M multiply-adds",
    "M special",
    "launches",
    "registers",
    "shared",
    "threads",
    "blocks",
    "occupancy",
)
RATIO = HEAD.index("moved / least")


@dataclass(frozen=True)
class Table:
    """Rows for one architecture and dtype."""

    arch: str
    dtype: str
    resources: dict[str, Any]

    def sizes(self, operator: Operator) -> Iterator[tuple[str, Size]]:
        """The sizes that an operator depends on, with their names."""
        for landmarks in LANDMARKS if "landmarks" in operator.varies else LANDMARKS[:1]:
            for features in FEATURES if "features" in operator.varies else FEATURES[:1]:
                for side in SIDES:
                    words = [f"K={landmarks}"] if "landmarks" in operator.varies else []
                    words += [f"S={features}"] if "features" in operator.varies else []
                    yield " ".join([*words, f"{side}px"]), Size(landmarks, side, features, BYTES[self.dtype])

    def rows(self, operator: Operator) -> Iterator[list[str]]:
        """A row for the whole operator at each size, then one for each of its kernels."""
        for name, size in self.sizes(operator):
            launched = [
                (kernel, cost)
                for kernel in operator.kernels
                if (
                    cost := kernel.cost(
                        size, launch_of(kernel.partials or kernel.name, kernel.backend, self.arch, size)
                    )
                ).moved
            ]
            costs = [cost for _, cost in launched]
            total = reduce(Cost.__add__, costs)
            ratio = total.moved / total.least
            mark = " (!)" if ratio > LARGEST_RATIO[operator.way] else ""
            title = f"**{operator.name}, {operator.way}**"
            head = [title, operator.kernels[0].backend, name, *amounts(total), str(len(costs)), *[""] * 5]
            head[RATIO] = f"{ratio:.2f}{mark}"
            yield [*head, *times(costs)]
            for kernel, cost in launched:
                row = [kernel.name, kernel.backend, name, *amounts(cost), "1", *self.resident(kernel, size)]
                yield [*row, *times([cost])]

    def resident(self, kernel: Kernel, size: Size) -> list[str]:
        """Registers, shared memory, threads, blocks of a multiprocessor and occupancy, as far as they are known."""
        entry = launch_of(kernel.partials or kernel.name, kernel.backend, self.arch, size)
        if kernel.backend == "triton":
            entry = launch_of(kernel.name, "triton", self.arch, size)
        threads = kernel.threads or 32 * entry.get("num_warps", 0)
        resources = self.resources.get("cuda", {}) if kernel.backend == "cuda" else self.resources
        of_kernel = resources.get(kernel.name, {})
        # kernels that see no map are of one dtype
        found = of_kernel.get(self.dtype, of_kernel.get("float32", {})).get(self.arch)
        if found is None or not threads:
            return ["", "", str(threads or ""), "", ""]
        registers, shared = int(found["registers"]), int(found["shared"])
        if kernel.backend == "cuda" and kernel.name.endswith(ASK_FOR_SHARED):
            shared += entry["shared"]
        blocks, share = ARCHITECTURES[self.arch].occupancy(registers, shared, threads)
        return [str(registers), str(shared), str(threads), str(blocks), f"{share:.0%}"]

    def markdown(self, operators: list[Operator]) -> str:
        """The whole table."""
        head = [*HEAD, *(f"{d.name} us" for d in DEVICES), "bound by"]
        rows = [row for operator in operators for row in self.rows(operator)]
        return "\n".join([f"\n## {self.dtype}, {self.arch}\n", *markdown(head, rows, left=3)])


def amounts(cost: Cost) -> list[str]:
    """Bytes and operations as cells; the ratio is left to the operator's row."""
    return [
        f"{cost.least / 1e6:.2f}",
        f"{cost.moved / 1e6:.2f}",
        "",
        f"{cost.madds / 1e6:.1f}",
        f"{cost.special / 1e6:.1f}",
    ]


def times(costs: list[Cost]) -> list[str]:
    """Microseconds on each device, kernel after kernel, and what binds the longest of them on the first device."""
    cells = [f"{1e6 * sum(d.seconds(cost)[0] for cost in costs):.2f}" for d in DEVICES]
    return [*cells, max(DEVICES[0].seconds(cost) for cost in costs)[1]]


def report(rooms: list[str], dtypes: list[str], arch: str, backends: Sequence[str] = BACKENDS) -> str:
    """The tables as Markdown."""
    pairs = [(o, cuda_launches.on_cuda(o)) for o in OPERATORS if o.room in rooms]
    operators = [o for pair in pairs for o in pair if o.kernels[0].backend in backends]
    resources = load_resources()
    limits = ", ".join(f"{LARGEST_RATIO[way]} {way}" for way in LARGEST_RATIO)
    size = Size(landmarks=1, side=1, features=1, bytes=4)
    text = [
        "# Roofline of the GPU kernels\n",
        f"N={size.batch}, L={size.levels}, {size.points} control points, {size.colours} colours. Counted, not "
        f"measured. (!): moves more than {limits} times the least. Times are those of the slowest resource at its "
        "full rate, kernel after kernel, without launches.",
    ]
    return "\n".join([*text, *(Table(arch, dtype, resources).markdown(operators) for dtype in dtypes)]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
    rooms = list(dict.fromkeys(o.room for o in OPERATORS))
    add = parser.add_argument
    add("--room", choices=rooms, help="default: all")
    add("--dtype", choices=list(BYTES), help="of maps, features and images; default: both")
    add("--backend", choices=BACKENDS, help="default: both, one under the other")
    add("--arch", choices=list(ARCHITECTURES), default="sm_90", help="whose compiled code (default: sm_90)")
    add("--out", type=Path, metavar="FILE", help="default: standard output")
    options = parser.parse_args(arguments)
    text = report(
        [options.room] if options.room else rooms,
        [options.dtype] if options.dtype else list(BYTES),
        options.arch,
        [options.backend] if options.backend else BACKENDS,
    )
    if options.out:
        options.out.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
