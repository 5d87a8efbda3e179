"""Timing: contenders checked against a float64 result, then run in turns; medians."""

from __future__ import annotations

import functools
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lmdis_fast import backends

from .ceilings import Work

Kind = Literal["ours", "eager", "compile", "plain", "kornia", "dsntnn", "given grid"]
"""What a contender is, for the comparisons: an "eager" form is one of several ways to write the operator in plain
PyTorch, of which the fastest counts; "plain" and the libraries are what people use; "given grid" is a yardstick that
does less than the operator."""
SLOWER_MATTERS: tuple[Kind, ...] = ("eager", "compile", "plain", "kornia", "dsntnn")
Outputs = tuple[Tensor, ...]

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest error allowed, relative to the largest value of the float64 result, by the inputs' dtype."""
SHORTEST = 1e-3
"""Seconds: a sample of a faster call is the mean over several calls."""
ROUNDS = (5, 200)
"""Fewest and most rounds of a case."""
HOPELESS = (1.0, 20.0)
"""A contender that takes more seconds, and so many times the operator's, is timed once, when it is checked: bfloat16
products on a processor without instructions for them."""


class WrongResult(Exception):
    """A contender does not compute what the others do; nothing was timed."""


@dataclass(frozen=True)
class Contender:
    """One way of computing something: ``run(*inputs)`` returns all outputs. A "compile" one is compiled here."""

    name: str
    kind: Kind
    run: Callable[..., Outputs]
    tolerance: float = 1.0
    """Factor on float32's `TOLERANCE`, for a form that is less exact by nature."""


@dataclass(frozen=True)
class Problem:
    """A case with its data.

    Attributes:
        inputs: of every contender; gradients are taken of those that require them.
        contenders: what is compared.
        reference: the same operator, called with float64 inputs on the plain PyTorch backend.
        forward: the least work of a forward pass.
        backward: of a backward pass, or None where only the forward pass is timed.
    """

    inputs: tuple[Tensor, ...]
    contenders: list[Contender]
    reference: Callable[..., Outputs]
    forward: Work
    backward: Work | None


@dataclass(frozen=True)
class Case:
    """One size of one operator; `build` makes the data when its turn comes.

    ``main`` cases are those of the targets; the others are reported beside them.
    """

    operator: str
    name: str
    dtype: torch.dtype
    main: bool
    build: Callable[[], Problem]

    @property
    def dtype_name(self) -> str:
        """``float32``."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Spread:
    """Seconds of one call: median, and the quantiles 20 % and 80 %."""

    median: float
    low: float
    high: float


@dataclass
class Timing:
    """What was measured of one contender; errors are relative to the largest value of the float64 result."""

    name: str
    kind: Kind
    error: float
    gradient_error: float | None = None
    forward: Spread | None = None
    both: Spread | None = None
    rounds: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Checked:
    """A contender that computes what it should.

    Attributes:
        timing: its errors, nothing timed yet.
        forward, both: seconds of the calls that showed them, or 0 where those may have compiled something.
        dtypes: of its outputs.
    """

    timing: Timing
    forward: float
    both: float
    dtypes: list[torch.dtype]


@dataclass(frozen=True)
class _Expected:
    """The float64 result, upstream gradients of its outputs, and the gradients of the inputs."""

    outputs: Outputs
    upstream: Outputs
    gradients: Outputs


class Comparison:
    """A problem with its float64 result, which serves all thread counts."""

    def __init__(self, case: Case) -> None:
        self.case, self.problem = case, case.build()
        self.differentiable = self.problem.backward is not None
        self.expected = self._reference()

    def run(self, threads: int, seconds: float, *, with_compile: bool) -> list[Timing]:
        """Check every contender, then time them in turns for about `seconds` (more where `ROUNDS` asks for it)."""
        torch.set_num_threads(threads)
        torch.compiler.reset()  # what was compiled for other sizes counts towards the limit on recompilation
        contenders = [c for c in self.problem.contenders if with_compile or c.kind != "compile"]
        runs = [_compiled(c.run) if c.kind == "compile" else c.run for c in contenders]
        with _without_collector():
            checked = [self._check(c, run) for c, run in zip(contenders, runs, strict=True)]
        timings = [c.timing for c in checked]
        inputs = self.problem.inputs
        share = 0.4 if self.differentiable else 1.0
        with torch.no_grad():
            calls: list[Callable[[], object]] = [functools.partial(run, *inputs) for run in runs]
            firsts = [c.forward for c in checked]
            for timing, spread, rounds in _in_turns(timings, calls, firsts, share * seconds):
                timing.forward, timing.rounds["forward"] = spread, rounds
        if self.differentiable:
            calls = [self._forward_and_backward(run, c.dtypes) for run, c in zip(runs, checked, strict=True)]
            firsts = [c.both for c in checked]
            for timing, spread, rounds in _in_turns(timings, calls, firsts, (1 - share) * seconds):
                timing.both, timing.rounds["both"] = spread, rounds
        return timings

    def _forward_and_backward(
        self, run: Callable[..., Outputs], dtypes: list[torch.dtype]
    ) -> Callable[[], object]:
        """A call of forward and backward on fresh leaves, with upstream gradients in the outputs' own dtypes."""
        inputs = self.problem.inputs
        upstream = [g.to(d) for g, d in zip(self.expected.upstream, dtypes, strict=True)]

        def call() -> object:
            leaves = [t.detach().requires_grad_(t.requires_grad) for t in inputs]
            return torch.autograd.grad(run(*leaves), [t for t in leaves if t.requires_grad], upstream)

        return call

    def _reference(self) -> _Expected:
        leaves = [t.detach().double().requires_grad_(t.requires_grad) for t in self.problem.inputs]
        generator = torch.Generator().manual_seed(1)
        with backends.use_backend("reference"), torch.set_grad_enabled(self.differentiable):
            outputs = self.problem.reference(*leaves)
            upstream = tuple(
                torch.randn(t.shape, generator=generator).to(self.case.dtype) for t in outputs
            )  # rounded once, so that every contender receives the same numbers
            gradients: Outputs = ()
            if self.differentiable:
                wanted = [t for t in leaves if t.requires_grad]
                gradients = torch.autograd.grad(outputs, wanted, [g.double() for g in upstream])
        return _Expected(tuple(t.detach() for t in outputs), upstream, gradients)

    def _check(self, contender: Contender, run: Callable[..., Outputs]) -> _Checked:
        """The contender's errors; WrongResult where they are too large. Compiles what has to be compiled."""
        began = time.perf_counter()
        with torch.no_grad():
            outputs = run(*self.problem.inputs)
        forward, both = time.perf_counter() - began, 0.0
        error = self._error(contender, "outputs", outputs, self.expected.outputs)
        timing = Timing(contender.name, contender.kind, error)
        dtypes = [t.dtype for t in outputs]
        if self.differentiable:
            call = self._forward_and_backward(run, dtypes)
            began = time.perf_counter()
            gradients = call()
            both = time.perf_counter() - began
            assert isinstance(gradients, tuple)
            timing.gradient_error = self._error(contender, "gradients", gradients, self.expected.gradients)
        if contender.kind == "compile":
            forward = both = 0.0
        return _Checked(timing, forward, both, dtypes)

    def _error(self, contender: Contender, what: str, found: Outputs, expected: Outputs) -> float:
        errors = []
        for a, b in zip(found, expected, strict=True):
            if a.shape != b.shape:
                raise WrongResult(f"{self._place(contender)}: {what} {tuple(a.shape)}, not {tuple(b.shape)}")
            errors.append(float((a - b).abs().max() / b.abs().max()))
        worst = max(errors)
        allowed = max(TOLERANCE[self.case.dtype], TOLERANCE[torch.float32] * contender.tolerance)
        if not worst <= allowed:  # also where it is NaN
            raise WrongResult(
                f"{self._place(contender)}: error of {what} {worst:.2g}, more than {allowed:.2g}"
            )
        return worst

    def _place(self, contender: Contender) -> str:
        return f"{self.case.operator} {self.case.name} {self.case.dtype_name}, {contender.name}"


def compile_contenders(case: Case, threads: int) -> None:
    """Compile a case's contenders and forget them: inductor's cache on disk keeps the result for other processes."""
    torch.set_num_threads(threads)
    torch.compiler.reset()
    problem = case.build()
    for run in (_compiled(c.run) for c in problem.contenders if c.kind == "compile"):
        with torch.no_grad():
            run(*problem.inputs)
        if problem.backward is not None:
            outputs = run(*problem.inputs)
            wanted = [t for t in problem.inputs if t.requires_grad]
            torch.autograd.grad(outputs, wanted, [torch.ones_like(t) for t in outputs])


def _compiled(run: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """The whole function as one graph for its very shapes; a limit on recompilation is an error, never plain eager."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.suppress_errors = False
    compiled: Callable[..., Outputs] = torch.compile(run, fullgraph=True, dynamic=False)
    return compiled


def _in_turns(
    timings: list[Timing], calls: list[Callable[[], object]], firsts: list[float], seconds: float
) -> Iterator[tuple[Timing, Spread, int]]:
    """Time the calls round by round, each round beginning with another one, for about `seconds`. ``firsts`` are the
    seconds of a call of each before."""
    estimates = [
        first if first > HOPELESS[0] else _seconds(call, 1) for call, first in zip(calls, firsts, strict=True)
    ]
    ours = next((e for t, e in zip(timings, estimates, strict=True) if t.kind == "ours"), 0.0)
    hopeless = [e > HOPELESS[0] and e > HOPELESS[1] * ours > 0 for e in estimates]
    samples = [[e] if once else [] for e, once in zip(estimates, hopeless, strict=True)]
    repeats = [max(1, math.ceil(SHORTEST / max(e, 1e-7))) for e in estimates]
    taking_part = [index for index, once in enumerate(hopeless) if not once]
    whole = sum(estimates[index] * repeats[index] for index in taking_part)
    rounds = min(max(int(seconds / whole), ROUNDS[0]), ROUNDS[1])
    with _without_collector():
        for turn in range(rounds):
            for position in range(len(taking_part)):
                index = taking_part[(turn + position) % len(taking_part)]
                samples[index].append(_seconds(calls[index], repeats[index]))
    for timing, values in zip(timings, samples, strict=True):
        fifths = statistics.quantiles(values if len(values) > 1 else 2 * values, n=5, method="inclusive")
        yield timing, Spread(statistics.median(values), fifths[0], fifths[-1]), len(values)


def _seconds(call: Callable[[], object], repeats: int) -> float:
    """Of one call, the mean over so many."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


@contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection while timing."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
