"""Means of a run's loss terms, gathered on the device so that no step waits for them."""

from __future__ import annotations

import time

import torch
from torch import Tensor

TERMS = (
    "reconstruction",
    "concentration",
    "separation",
    "equivariance",
    "grad_norm",
    "loss",
    "equivariance_px",
)
"""What is gathered, in the order in which `Meter.add` takes it."""
JUDGED = 5
"""How many of them, from the first, are looked at for NaN: those that the others follow from."""


KEPT = 64
"""Steps whose values are kept as they are before they are added up, which takes a dozen small operations."""


class Meter:
    """Sums of the loss terms, on the device: nothing waits for them until a line is written."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(TERMS), device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad_terms = torch.zeros(JUDGED, dtype=torch.bool, device=device)
        self.kept: list[Tensor] = []
        self.numbers: list[int] = []
        self.steps, self.since = 0, time.monotonic()

    def add(self, step: int, values: list[Tensor]) -> None:
        """The values of one step, in the order of `TERMS`."""
        self.kept.append(torch.stack(values).detach())
        self.numbers.append(step)
        self.steps += 1
        if len(self.kept) == KEPT:
            self._add_up()

    def _add_up(self) -> None:
        """Into the sums, and remember the first step with a value that is not finite."""
        if not self.kept:
            return
        rows = torch.stack(self.kept)
        self.sums += rows.sum(0)
        wrong = ~torch.isfinite(rows[:, :JUDGED])
        wrong_steps = wrong.any(1)
        first = wrong_steps.int().argmax()
        found = wrong_steps.any() & (self.bad_step < 0)
        numbers = torch.tensor(self.numbers).to(rows.device, non_blocking=True)
        self.bad_step = torch.where(found, numbers[first], self.bad_step)
        self.bad_terms = torch.where(found, wrong[first], self.bad_terms)
        self.kept.clear()
        self.numbers.clear()

    def bad(self) -> tuple[int, list[str]] | None:
        """The first step with a term that is not finite, and its terms. Waits for the device."""
        self._add_up()
        step = int(self.bad_step)
        if step < 0:
            return None
        terms = [name for name, wrong in zip(TERMS, self.bad_terms.tolist(), strict=False) if wrong]
        return step, [t for t in terms if t != "grad_norm"] or terms  # gradients follow the losses

    def means(self) -> dict[str, float]:
        """Means since the last reset. Waits for the device."""
        self._add_up()
        return dict(zip(TERMS, (self.sums / max(self.steps, 1)).tolist(), strict=True))

    def reset(self) -> None:
        """Begin anew."""
        self._add_up()  # a step that was not finite is remembered
        self.sums.zero_()
        self.steps, self.since = 0, time.monotonic()
