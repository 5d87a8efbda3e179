"""Stages that share a time limit: what does not fit is left out and said, what fails does not stop the rest."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Clock = Callable[[], float]


class Budget:
    """Seconds left of a limit. ``clock`` is replaced in tests."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self.seconds, self.clock, self.begun = seconds, clock, clock()

    @property
    def left(self) -> float:
        """Seconds until the limit, not below 0."""
        return max(self.seconds - (self.clock() - self.begun), 0.0)

    def within(self, seconds: float) -> Budget:
        """A part of what is left: ``seconds`` at most."""
        return Budget(min(seconds, self.left), self.clock)


@dataclass(frozen=True)
class Stage:
    """A step of the check.

    Attributes:
        name: of its section in the report.
        least: seconds without which it is not begun.
        most: seconds that it may take; it is handed a `Budget` of them and stops by itself.
        run: returns what was found, as JSON can hold it; anything raised is a failure.
    """

    name: str
    least: float
    most: float
    run: Callable[[Budget], Any]


@dataclass
class Outcome:
    """What became of a stage: "done", "failed" or "left out", why, how long it took, and what it found."""

    name: str
    state: str
    seconds: float = 0.0
    why: str = ""
    found: Any = field(default=None)


def run_stages(
    stages: Sequence[Stage], budget: Budget, after_each: Callable[[list[Outcome]], None]
) -> list[Outcome]:
    """Run the stages in order; ``after_each`` sees all outcomes so far, so that nothing is lost with a crash."""
    outcomes: list[Outcome] = []
    for stage in stages:
        if budget.left < stage.least:
            why = f"{budget.left:.0f} s left, {stage.least:.0f} s needed"
            outcomes.append(Outcome(stage.name, "left out", why=why))
        else:
            begun = budget.clock()
            outcome = Outcome(stage.name, "done")
            try:
                outcome.found = stage.run(budget.within(stage.most))
            except Exception as error:  # each stage is judged by itself; the text goes into the report
                outcome.state = "failed"
                outcome.why = f"{type(error).__name__}: {error}"
                outcome.found = traceback.format_exc()
            outcome.seconds = budget.clock() - begun
            outcomes.append(outcome)
        after_each(outcomes)
    return outcomes
