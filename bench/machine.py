"""What a table is worth depends on where it was measured: processor, instructions, versions, malloc."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from lmdis_fast.memory import keep_freed_memory

PEERS = ("kornia", "dsntnn")
"""Optional packages that the rooms compare with where they are installed."""

# (vendor, family, models) of /proc/cpuinfo, because virtual machines often hide the model's name.
_MICROARCHITECTURES: tuple[tuple[str, int, range, str], ...] = (
    ("AuthenticAMD", 23, range(0x00, 0x30), "zen1"),
    ("AuthenticAMD", 23, range(0x30, 0x100), "zen2"),
    ("AuthenticAMD", 25, range(0x10, 0x20), "zen4"),
    ("AuthenticAMD", 25, range(0x60, 0x80), "zen4"),
    ("AuthenticAMD", 25, range(0xA0, 0xB0), "zen4"),
    ("AuthenticAMD", 25, range(0x00, 0x60), "zen3"),
    ("AuthenticAMD", 26, range(0x00, 0x100), "zen5"),
    ("GenuineIntel", 6, range(63, 64), "haswell"),
    ("GenuineIntel", 6, range(79, 80), "broadwell"),
    ("GenuineIntel", 6, range(85, 86), "skylake"),
    ("GenuineIntel", 6, range(106, 109), "icelake"),
    ("GenuineIntel", 6, range(143, 144), "sapphirerapids"),
    ("GenuineIntel", 6, range(207, 208), "emeraldrapids"),
)


@dataclass(frozen=True)
class Machine:
    """Where the figures come from.

    Attributes:
        processor: the name that the system gives.
        kind: microarchitecture and vector instructions, such as ``zen4-avx512``; names the folder of results.
        cores: that this process may use.
        versions: of Python, torch and the peers; "missing" where one is not installed.
        malloc: how freed memory is treated, for all contenders alike.
        commit: of this repository, "-dirty" with changes; None outside one.
    """

    processor: str
    kind: str
    cores: int
    versions: dict[str, str]
    malloc: str
    commit: str | None

    def describe(self) -> str:
        """Two lines for the head of the tables."""
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        commit = "" if self.commit is None else f"; commit {self.commit}"
        return (
            f"{self.processor} ({self.kind}), {self.cores} cores; {packages}{commit}\n\nmalloc: {self.malloc}"
        )


def prepare_memory(fresh: bool) -> str:
    """Set malloc for the whole process, before large tensors exist, and say how it is set."""
    if fresh:
        return "the system's defaults (large tensors are fresh pages: page faults count)"
    if keep_freed_memory():
        return "freed memory is kept and reused (lmdis_fast.memory.keep_freed_memory)"
    given = ", ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("MALLOC_"))
    return f"as the environment says: {given}" if given else "the system's defaults (no glibc)"


def this_machine(malloc: str) -> Machine:
    """Ask the system."""
    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    level = torch.backends.cpu.get_cpu_capability().lower().replace("_", "-")
    return Machine(
        processor=name,
        kind=f"{_microarchitecture(info, name)}-{level}",
        cores=available_cores(),
        versions={"Python": platform.python_version(), "torch": torch.__version__}
        | {peer: _version(peer) for peer in PEERS},
        malloc=malloc,
        commit=_commit(),
    )


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _microarchitecture(info: dict[str, str], name: str) -> str:
    vendor, family, model = (info.get(key, "") for key in ("vendor_id", "cpu family", "model"))
    for known, number, models, word in _MICROARCHITECTURES:
        if vendor == known and family == str(number) and model.isdigit() and int(model) in models:
            return word
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _commit() -> str | None:
    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
