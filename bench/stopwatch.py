"""What a network's layers and the optimiser take of a training step, by the clock.

A profiler's events cost some microseconds each, and most of a step's events lie in what is small. Here the clock is read
before and after each layer, forward and backward, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmdis_fast.models.batch_norm import ConvBlock
from lmdis_fast.models.decoder import SplatConv

LAYERS = (ConvBlock, nn.Conv2d, nn.ConvTranspose2d, nn.LeakyReLU, nn.Sigmoid)
"""Whose forward pass is timed, besides the decoder's folded convolution. A layer in a layer counts with it."""
ACCUMULATE = "torch::autograd::AccumulateGrad"
"""Name of the functions that put a gradient into its parameter."""


def functions_between(outputs: list[Tensor], inputs: list[Tensor]) -> list[Any]:
    """Autograd's functions from outputs back to inputs, without those of the inputs and of parameters."""
    before = {tensor.grad_fn for tensor in inputs}
    found: list[Any] = []
    ahead = [output.grad_fn for output in outputs]
    while ahead:
        function = ahead.pop()
        if function is None or function in before or function in found or function.name() == ACCUMULATE:
            continue
        found.append(function)
        ahead += [following for following, _ in function.next_functions]
    return found


class Stopwatch:
    """Adds up the time of what it watches, of calls and of the backward functions that calls leave behind.

    What is outside of a step is its time less both sums: Python between layers, autograd's engine, and the two readings
    of the clock for each function.

    Attributes:
        seconds: of what is watched.
        own: which went into preparing to watch backward functions.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds = self.own = 0.0
        self.began: float | None = None

    def start(self, *_: Any) -> None:
        """From here on."""
        self.began = self.clock()

    def stop(self, *_: Any) -> None:
        """To here."""
        if self.began is not None:
            self.seconds += self.clock() - self.began
            self.began = None

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed, and what it adds to autograd's graph timed when that runs."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self.began is not None:  # a layer of a layer
                return call(*args, **kwargs)
            self.start()
            output = call(*args, **kwargs)
            self.stop()
            watched = self.clock()
            inputs = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
            outputs = [
                o for o in (output if isinstance(output, tuple) else [output]) if isinstance(o, Tensor)
            ]
            for function in functions_between(outputs, inputs):
                function.register_prehook(self.start)
                function.register_hook(self.stop)
            self.own += self.clock() - watched
            return output

        return run


def watched_methods(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Any, str]]:
    """Objects and the names of their methods that are convolution, normalisation, activation or the optimiser."""
    for module in model.modules():
        if isinstance(module, LAYERS):
            yield module, "forward"
        elif isinstance(module, SplatConv):
            yield module, "fold"
    yield optimizer, "step"
    yield optimizer, "zero_grad"


@contextmanager
def stopwatch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Stopwatch]:
    """A stopwatch on a network's layers and its optimiser."""
    watch = Stopwatch()
    with ExitStack() as stack:
        for owner, name in watched_methods(model, optimizer):
            setattr(owner, name, watch.watched(getattr(owner, name)))
            stack.callback(delattr, owner, name)
        yield watch
