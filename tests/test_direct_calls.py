"""The compiled operators called through torch.ops, past the public functions' checks: they check again.

Every argument of every call that the cases make is replaced by something wrong, one at a time.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lmdis_fast import backends
from lmdis_fast.ops.checks import described

from .cases import CASES, Case, RecordedCalls
from .checks import results_and_gradients

#: torch puts the function, file and line before the sentence.
SENTENCE = r"(^|, )[a-z0-9_]+: [a-z_]+( and [a-z_]+( [a-z_(), ]+)?)? must .*"


def recorded_calls(case: Case) -> list[tuple[Any, tuple[Any, ...]]]:
    """Forward and backward operator of a case with sound arguments."""
    with RecordedCalls() as recorded:
        results_and_gradients(case, case.tensors(torch.float32))
    return [
        (f, tuple(a.detach() if isinstance(a, Tensor) else a for a in args)) for f, args in recorded.calls
    ]


def wrong_tensors(name: str, tensor: Tensor, lonely: bool) -> Iterator[Tensor]:
    """Tensors that no operator may take in the place of this one; ``lonely`` if no other has its batch size."""
    yield tensor.unsqueeze(0).unsqueeze(0)
    if name != "centers":  # all images may share them
        yield tensor[0]
    yield tensor.int()
    yield tensor.bool()
    yield tensor.to(torch.complex64)
    if not lonely:
        yield torch.cat((tensor, tensor))
        yield tensor[:0]
    if tensor.dim() > 1:
        yield tensor[:, :0]
    yield tensor[..., :0]


def wrong_numbers(name: str, given: float) -> Iterator[float]:
    """Numbers that no operator may take."""
    yield from (-1.0, math.nan) if name in ("eps", "slope") else (0.0, -1.0, math.nan, math.inf)


def wrong_lists(name: str, given: list[Any]) -> Iterator[list[Any]]:
    """Sizes and levels that no operator may take."""
    if name == "size":
        yield from ([], [3], [3, 4, 5], [0, 4], [3, -1])
    else:
        yield from ([], [*given, 1.0], [0.0] * len(given), [math.nan] * len(given), [-1.0] * len(given))


def wrong_arguments(overload: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What is wrong in words, and all arguments with that one replaced."""
    names = [argument.name for argument in overload._schema.arguments]
    maps = [n for n, a in zip(names, args, strict=True) if isinstance(a, Tensor) and a.dim() > 1]
    for i, (argument, value) in enumerate(zip(overload._schema.arguments, args, strict=True)):
        if isinstance(value, Tensor):
            wrong: Iterator[Any] = wrong_tensors(argument.name, value, maps == [argument.name])
        elif isinstance(value, str):
            wrong = iter(["sideways", ""])
        elif isinstance(value, float):
            wrong = wrong_numbers(argument.name, value)
        elif isinstance(value, (list, tuple)):
            wrong = wrong_lists(argument.name, list(value))
        else:
            continue
        for replacement in wrong:
            told = described(replacement) if isinstance(replacement, Tensor) else replacement
            what = f"{overload._schema.name} with {argument.name} {told}"
            yield what, (*args[:i], replacement, *args[i + 1 :])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator}-{case.name}")
def test_wrong_arguments_are_refused(case: Case) -> None:
    reason = backends.why_not("cpu", case.operator) or backends.why_not("cpu", case.operator + "_backward")
    if reason is not None:
        pytest.skip(f"{case.operator}: backend cpu: {reason}")
    accepted, spoken = [], []
    calls = recorded_calls(case)
    assert len(calls) == 2
    with backends.use_backend("cpu"), torch.no_grad():
        for overload, args in calls:
            overload(*args)  # sound
            for what, wrong in wrong_arguments(overload, args):
                try:
                    overload(*wrong)
                except RuntimeError as error:
                    if re.search(SENTENCE, str(error)) is None:
                        spoken.append(f"{what}: {error}")
                else:
                    accepted.append(what)
    assert not accepted, "\n".join(accepted)
    assert not spoken, "\n".join(spoken)
