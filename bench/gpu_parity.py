"""Operators on a GPU against the float64 definition, for `gpu_check`; Triton compiles in several processes at once."""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lmdis_fast import backends

from .gpu_budget import Budget
from .gpu_calls import Call, calls

Size = tuple[int, int]
Rows = list[dict[str, Any]]
#: Odd sizes with tails, a small one, one whose rows are read by 16 bytes; K in registers and in chunks.
SIZES = (((64, 64), 10), ((33, 17), 10), ((48, 80), 30), ((16, 16), 70), ((1, 7), 3))
#: Error allowed beside twice that of plain PyTorch in the same dtype, relative to the largest value.
FLOOR = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
#: Wrong calls that a failure names.
NAMED = 20
#: The golden angle: its multiples fall on the circle like random ones.
TURN = 2.399963229728653


class Wrong(Exception):
    """A backend computed something else than the definition, or not the same twice."""


def gpu_backends(device: str) -> list[str]:
    """Backends beside the definition that run on the device, at least for one operator."""
    names = ("triton", "cuda")
    probe = torch.zeros(1, 2, 4, 4, device=device), "channels"
    return [n for n in names if backends.why_not(n, "heatmap_moments", probe) is None]


@dataclass(frozen=True)
class Turn:
    """All operators once: at one size, in one dtype and layout."""

    size: Size
    landmarks: int
    dtype: torch.dtype
    channels_last: bool

    def __str__(self) -> str:
        return f"K={self.landmarks} {self.size} {self.dtype} channels_last={self.channels_last}"


@dataclass
class Compared:
    """What a turn found: the largest error of each (backend, operator), and what is wrong; whether time was enough."""

    errors: dict[tuple[str, str], float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    complete: bool = True


def turns(sizes: Sequence[tuple[Size, int]], dtypes: Sequence[torch.dtype]) -> list[Turn]:
    """Each size once before any comes again with another dtype or layout: time may end before all are done."""
    kinds = list(itertools.product(dtypes, (False, True)))
    return [
        Turn(size, landmarks, *kinds[(place + turn) % len(kinds)])
        for turn in range(len(kinds))
        for place, (size, landmarks) in enumerate(sizes)
    ]


def parity(
    device: str,
    budget: Budget,
    sizes: Sequence[tuple[Size, int]] = SIZES,
    dtypes: Sequence[torch.dtype] = tuple(FLOOR),
    processes: int = 1,
) -> Rows:
    """Results and gradients of every operator and backend; one row for an operator in a dtype.

    Raises:
        Wrong: where an error is larger than allowed, or a call failed.
    """
    asked = turns(sizes, dtypes)
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    wrong: list[str] = []
    done = 0
    for turn, compared in _compared(device, budget, asked, processes):
        done += compared.complete
        wrong += compared.wrong
        for (backend, operator), error in compared.errors.items():
            key = backend, operator, str(turn.dtype).removeprefix("torch.")
            row = rows.setdefault(
                key, dict(zip(("backend", "operator", "dtype"), key, strict=True), cases=0, worst=0.0)
            )
            row["cases"] += 1
            row["worst"] = max(row["worst"], error)
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise Wrong("; ".join(wrong[:NAMED]) + more)
    found = [rows[key] for key in sorted(rows)]
    if done < len(asked):
        note = f"time was up: {done} of {len(asked)} sizes, dtypes and layouts were checked"
        found.append({"backend": "", "operator": note, "dtype": "", "cases": 0, "worst": 0.0})
    return found


def _compared(
    device: str, budget: Budget, asked: Sequence[Turn], processes: int
) -> Iterator[tuple[Turn, Compared]]:
    if processes == 1:
        yield from ((turn, compare(device, turn, budget)) for turn in asked)
        return
    # the clock of all processes; each turn stops by itself when the time is up
    deadline = time.monotonic() + budget.left
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        begun = {pool.submit(compare_until, device, turn, deadline): turn for turn in asked}
        for future in concurrent.futures.as_completed(begun):
            turn, error = begun[future], future.exception()
            lost = Compared(wrong=[f"{turn}: {error!r}"], complete=False)  # a process that was killed, say
            yield turn, lost if error is not None else future.result()


def compare_until(device: str, turn: Turn, deadline: float) -> Compared:
    """`compare` in a process of its own: until ``deadline`` seconds of the system's monotonic clock."""
    torch.set_num_threads(1)
    return compare(device, turn, Budget(deadline - time.monotonic()))


def compare(device: str, turn: Turn, budget: Budget) -> Compared:
    """All operators of a turn, each by itself: a call that fails is one that is wrong, and named before what fails with it."""
    found = Compared()
    try:
        _compare_calls(device, turn, budget, found)
    except Exception as error:  # a GPU's fault is told again by whatever comes next
        found.wrong.append(f"{turn}: {type(error).__name__}: {error}")
        found.complete = False
    return found


def _compare_calls(device: str, turn: Turn, budget: Budget, found: Compared) -> None:
    for call in calls(device, turn.dtype, turn.landmarks, turn.size, turn.channels_last):
        if budget.left == 0:
            found.complete = False
            break
        with backends.use_backend("reference"):
            exact = results_and_gradients(call, [leaf.double() for leaf in call.leaves])
            plain = results_and_gradients(call, call.leaves)
        allowed = [2 * _error(p, e) + FLOOR[turn.dtype] for p, e in zip(plain, exact, strict=True)]
        for backend in gpu_backends(device):
            place = f"{backend} {call.name} {turn}"
            try:
                with backends.use_backend(backend):
                    got = results_and_gradients(call, call.leaves)
                errors = [_error(g, e) for g, e in zip(got, exact, strict=True)]
            except Exception as error:
                found.wrong.append(f"{place}: {type(error).__name__}: {error}")
                continue
            found.errors[backend, call.name] = max(errors)
            if not all(e <= a for e, a in zip(errors, allowed, strict=True)):
                found.wrong.append(f"{place}: errors {errors}, allowed {allowed}")


def results_and_gradients(call: Call, leaves: Sequence[Tensor]) -> list[Tensor]:
    """What a call returns, and the gradients of its leaves for gradients that are always the same.

    Those are of both signs and unlike their neighbours: softmax's and a normalised map's gradients cancel where they
    are alike, and only rounding would be left to compare.
    """
    fresh = [leaf.detach().requires_grad_() for leaf in leaves]
    results = call.run(*fresh)
    weights = [(TURN * torch.arange(r.numel(), dtype=torch.float64)).cos().bfloat16() for r in results]
    upstream = [w.to(r.device, r.dtype).reshape(r.shape) for w, r in zip(weights, results, strict=True)]
    return [*(r.detach() for r in results), *torch.autograd.grad(results, fresh, upstream)]


def _error(found: Tensor, exact: Tensor) -> float:
    scale = max(float(exact.abs().max()), 1e-3)
    return float((found.double() - exact).abs().max()) / scale
