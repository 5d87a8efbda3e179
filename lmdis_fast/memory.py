"""Page faults: how freed memory is kept for the next large tensor instead of being returned to the system."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Ask glibc to keep and reuse large freed blocks in this process; False where that is not possible.

    A tensor of more than 32 MB is otherwise mapped afresh each time, and every page of it is zeroed by the system at
    first touch, which can cost several times what an operator's own arithmetic does. The process keeps its peak memory
    until it ends. Settings that the user made in the environment (MALLOC_...) stand. Training and the
    benchmarks call this; a program that imports the operators decides for itself.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20))
    accepted = [mallopt(name, value) for name, value in settings]
    return all(accepted)
