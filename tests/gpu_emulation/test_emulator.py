"""The emulator itself: each planted mistake is caught and named, and the same kernel without it runs."""

import numpy as np
import pytest
import torch

from .emulated import ORDERS, EmulationError, as_array, in_every_order, kernels, order


def test_block_sums_in_every_order() -> None:
    planted = kernels("planted")
    values = torch.randn(1000, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))

    def run() -> tuple[np.ndarray, ...]:
        sums = np.empty(4, np.float32)
        planted.block_sums(as_array(values), "bfloat16", sums)
        return (sums,)

    (sums,) = in_every_order(run)
    expected = [part.double().sum().item() for part in values.split(256)]
    np.testing.assert_allclose(sums, expected, rtol=1e-5)


@pytest.mark.parametrize("mode, seed", ORDERS)
def test_a_missing_barrier(mode: str, seed: int) -> None:
    planted = kernels("planted")
    with order(mode, seed), pytest.raises(EmulationError) as caught:
        planted.block_sums_wrong(np.ones(1000, np.float32), "float32", np.empty(4, np.float32))
    assert caught.value.kind in ("race", "never written")
