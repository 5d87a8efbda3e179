"""The means of a run's loss terms, and the first step with one that is not finite."""

import math

import pytest
import torch

from lmdis_fast.meter import JUDGED, KEPT, TERMS, Meter


def values(step: int) -> list[torch.Tensor]:
    """Of a step: whole numbers, so that sums are exact."""
    return [torch.tensor(float(step + place)) for place in range(len(TERMS))]


@pytest.mark.parametrize("steps", [1, KEPT - 1, KEPT, 2 * KEPT + 5])
def test_means_are_of_the_steps_since_the_last_reset(steps: int) -> None:
    meter = Meter(torch.device("cpu"))
    for step in range(steps):
        meter.add(step, values(step))
    expected = [(steps - 1) / 2 + place for place in range(len(TERMS))]
    assert list(meter.means().values()) == pytest.approx(expected) and meter.bad() is None
    meter.reset()
    meter.add(7, values(7))
    assert list(meter.means().values()) == [7.0 + place for place in range(len(TERMS))]


@pytest.mark.parametrize("step", [0, KEPT - 1, KEPT + 6])
@pytest.mark.parametrize("reset", [False, True])
def test_the_first_step_that_is_not_finite_is_remembered(step: int, reset: bool) -> None:
    meter = Meter(torch.device("cpu"))
    for number in range(2 * KEPT):
        row = values(number)
        if number in (step, step + 1):  # the second one has another term
            row[1 + number - step] = torch.tensor(math.nan)
        row[JUDGED] = torch.tensor(math.inf)  # follows from the others
        meter.add(number, row)
        if reset and number == step:
            meter.reset()
    assert meter.bad() == (step, [TERMS[1]])
