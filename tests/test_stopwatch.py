"""The benchmark's stopwatch: what counts as a network's layers in a training step."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from bench.stopwatch import Stopwatch, functions_between, stopwatch
from lmdis_fast.models.hourglass import conv_block


def ticking() -> Stopwatch:
    """A stopwatch whose clock goes on by one second each time it is read."""
    seconds = itertools.count()
    return Stopwatch(lambda: float(next(seconds)))


def test_functions_of_a_layer_are_those_between_its_output_and_its_inputs() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    x = (torch.randn(2, 3, requires_grad=True) * 2).sin()
    y = (x @ weight).relu()
    names = sorted(function.name() for function in functions_between([y.exp()], [x]))
    assert names == ["ExpBackward0", "MmBackward0", "ReluBackward0"]  # neither sin nor what holds gradients
    assert functions_between([y], [y]) == []
    assert functions_between([torch.randn(2)], []) == []


def test_a_call_and_its_backward_functions_are_timed_and_nothing_else() -> None:
    watch = ticking()
    x = torch.randn(3, requires_grad=True)
    y = watch.watched(lambda t: (t * 2).exp())(x)
    assert (watch.seconds, watch.own) == (1, 1)
    y.sin().sum().backward()
    assert (watch.seconds, watch.own) == (3, 1)  # the backward functions of exp and of the product


def test_results_beside_one_another_are_watched_once() -> None:
    watch = ticking()
    x = torch.randn(3, 4, requires_grad=True)
    largest, _ = watch.watched(lambda t: torch.max(t, 1))(x)
    largest.sum().backward()
    assert watch.seconds == 2


def test_a_layer_within_a_layer_counts_once() -> None:
    watch = ticking()
    inner = watch.watched(torch.exp)
    outer = watch.watched(lambda t: inner(t) + 1)
    outer(torch.randn(3))
    assert watch.seconds == 1


def test_layers_and_optimiser_of_a_network_are_watched_and_afterwards_left_as_they_were() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.last = conv_block(3, 4), nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(torch.nn.functional.max_pool2d(self.block(x), 2))
            return out

    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with stopwatch(network, optimizer) as watch:
        seconds = itertools.count()
        watch.clock = lambda: float(next(seconds))
        loss = network(torch.randn(2, 3, 8, 8)).mean()
        assert watch.seconds == 2  # the block and the last convolution
        loss.backward()
        # a backward function each: convolution, last convolution; batch norm and leaky ReLU are one or two
        assert watch.seconds in (5, 6)
        before = watch.seconds
        optimizer.step()
        optimizer.zero_grad()
        assert watch.seconds == before + 2
    owners = (network.block, network.block[0], network.last, optimizer)
    assert not any({"forward", "step", "zero_grad"} & set(vars(owner)) for owner in owners)
