"""The CUDA kernels of render_gaussians and splat_landmarks in the emulator, against the definition."""

import pytest
import torch
from hypothesis import given

from lmdis_fast.cuda_limits import CHANNELS

from ..agreement import Arrangement
from ..cases import Case, cases_of
from ..gpu_emulation.backend import (
    arrangements,
    check_emulated,
    check_extremes,
    check_orders,
    check_stages,
)

CASES = cases_of("gaussian_splat")


@pytest.mark.parametrize("case", CASES, ids=str)
@given(arrangement=arrangements())
def test_agrees_with_the_definition(case: Case, arrangement: Arrangement) -> None:
    check_emulated(case, arrangement)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_order_of_threads_and_blocks(case: Case, layout: str, dtype: torch.dtype) -> None:
    check_orders(case, dtype, layout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_tile_and_many(case: Case) -> None:
    check_stages(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_many_channels_and_narrow_maps(case: Case) -> None:
    check_extremes(case, CHANNELS[case.operator])
