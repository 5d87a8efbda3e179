"""The emulator itself: each planted mistake is caught and named, and the same kernel without it is right."""

import numpy as np
import pytest
import torch

from .emulated import (
    ORDERS,
    Array,
    EmulationError,
    as_array,
    as_tensor,
    dtype_name,
    in_every_order,
    kernels,
    order,
)

EVERY_ORDER = pytest.mark.parametrize("mode, seed", [*ORDERS, ("random", 2)])

#: Planted kernel: the kind of its mistake, and words of the message. All swap the two numbers of each pair.
MISTAKES = {
    "ended_before_barrier": ("divergent barrier", "of 64 threads"),
    "two_barriers": ("divergent barrier", "of 64 threads wait at another one (planted.cuh:"),
    "barrier_and_shuffle": ("divergent barrier", "threads wait at __syncthreads (planted.cuh:"),
    "shuffle_outside_mask": ("warp mask", "which is not in the mask"),
    "shuffle_of_ended_lane": ("warp mask", "end"),
    "mask_without_caller": ("warp mask", "lane 31"),
    "unlike_masks": ("warp mask", "lane"),
    "unlike_operations": ("warp mask", "__shfl_down_sync"),
    "lanes_beyond_block": ("warp mask", "names lane 16, which is beyond the block"),
    "unwritten_shared": ("never written", "reads tile["),
    "shared_of_another_block": ("never written", "reads tile["),
    "unwritten_dynamic": ("never written", "reads tile[0], which this block has not written"),
    "unwritten_global": ("never written", "of results, which nobody has written (planted.cuh:"),
    "unwritten_output": ("output unwritten", "4 bytes at byte 796 of results"),
    "read_beyond": ("out of bounds", "of values, which has 800 bytes (planted.cuh:"),
    "read_before": ("out of bounds", "reads 4 bytes at byte -4 of values"),
    "write_beyond": ("out of bounds", "of results, which has 800 bytes (planted.cuh:"),
    "shared_beyond": ("out of bounds", "writes tile[64] of 64 elements"),
    "dynamic_beyond": ("out of bounds", "writes tile[64] of 64 elements"),
    "misaligned_vector": ("misaligned", "no multiple of 8"),
    "misaligned_shared": ("misaligned", "reads 8 bytes at once from byte"),
    "race_in_warp": ("race", "__syncwarp"),
    "race_past_shuffle": ("race", "__syncwarp"),
    "race_between_groups": ("race", "__syncwarp"),
    "race_between_warps": ("race", "no __syncthreads is between"),
    "write_after_read": ("race", "read"),
    "two_writers": ("race", "writes tile[64]"),
    "race_in_global": ("race", "of results (planted.cuh:"),
    "blocks_read_blocks": ("race", "another block"),
    "blocks_write_same": ("race", "of results"),
    "input_written": ("input written", "of values, an input (planted.cuh:"),
    "direct_access": ("direct access", "follows a pointer"),
    "too_much_shared": ("limit", "more brings shared memory to"),
    "atomic_and_plain": ("race", "atomically"),
}
#: Kernels whose blocks of 64 threads have to be full.
WHOLE_BLOCKS = {
    "two_barriers", "barrier_and_shuffle", "shuffle_outside_mask", "mask_without_caller", "unlike_masks",
    "unlike_operations", "lanes_beyond_block", "shared_of_another_block", "unwritten_dynamic", "unwritten_global", "read_before",
    "shared_beyond", "dynamic_beyond", "race_in_warp", "race_past_shuffle", "race_between_groups",
    "race_between_warps", "write_after_read", "two_writers", "race_in_global", "blocks_read_blocks",
    "blocks_write_same", "input_written", "direct_access", "too_much_shared",
}  # fmt: skip


def swapped(name: str, kernel: str) -> tuple[Array, Array]:
    """What a kernel makes of its numbers, and what it should."""
    values = np.arange(1, 193 if name in WHOLE_BLOCKS else 201, dtype=np.float32)
    adds = name in ("atomic_and_plain", "race_in_global", "blocks_read_blocks")
    results = np.zeros_like(values)
    threads = 16 if name == "lanes_beyond_block" else 40 if name == "unwritten_output" else 64
    getattr(kernels("planted"), kernel)(values, results, adds, threads)
    return results, values.reshape(-1, 2)[:, ::-1].reshape(-1)


@pytest.mark.parametrize("name", MISTAKES)
def test_without_the_mistake(name: str) -> None:
    (results,) = in_every_order(lambda: (swapped(name, name)[0],))
    np.testing.assert_array_equal(results, swapped(name, name)[1])


@EVERY_ORDER
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_caught(name: str, mode: str, seed: int) -> None:
    kind, message = MISTAKES[name]
    with order(mode, seed):
        with pytest.raises(EmulationError) as caught:
            swapped(name, name + "_wrong")
        assert caught.value.kind == kind, caught.value
        assert message in str(caught.value)
        results, expected = swapped(name, name)  # the emulator is as good as before
    np.testing.assert_array_equal(results, expected)


def test_time_is_set_back_before_it_overflows() -> None:
    kernels("planted").advance_time()
    for name in ("race_between_groups", "shared_of_another_block", "write_after_read"):
        np.testing.assert_array_equal(*swapped(name, name))
        with pytest.raises(EmulationError, match="tile"):
            swapped(name, name + "_wrong")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_block_sums_in_every_order(dtype: torch.dtype) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)

    def run() -> tuple[Array, ...]:
        sums = np.empty(4, np.float32)
        kernels("planted").block_sums(as_array(values), dtype_name(values), sums)
        return (sums,)

    (sums,) = in_every_order(run)
    np.testing.assert_allclose(sums, [part.double().sum().item() for part in values.split(256)], rtol=1e-5)


@EVERY_ORDER
def test_message_names_kernel_block_and_threads(mode: str, seed: int) -> None:
    planted = kernels("planted")
    with (
        order(mode, seed),
        pytest.raises(EmulationError, match=r"partial\[\d+\], which .*: no __sync") as caught,
    ):
        planted.block_sums_wrong(np.ones(1000, np.float32), "float32", np.empty(4, np.float32))
    assert str(caught.value).startswith("planted::block_sums<right, T>, block (")
    assert caught.value.kind == "race"


def test_sum_that_depends_on_the_order() -> None:
    planted = kernels("planted")
    values = np.array([1e8, 1.0, -1e8, 3.0] * 50, np.float32)

    def in_floats() -> tuple[Array, ...]:
        results = np.zeros(1, np.float32)
        planted.float_sum(values, results, True, 64)
        return (results,)

    def in_counts() -> tuple[Array, ...]:
        results = np.empty(1, np.float32)
        planted.fixed_sum(values, results)
        return (results,)

    with pytest.raises(AssertionError, match="depends on the order of threads and blocks"):
        in_every_order(in_floats)
    assert in_every_order(in_counts)[0] == 200


def test_atomic_maximum() -> None:
    planted = kernels("planted")
    values = np.random.default_rng(0).random(300, np.float32)

    def run() -> tuple[Array, ...]:
        result = np.zeros(1, np.uint32)
        planted.largest(values, result)
        return (result,)

    assert in_every_order(run)[0].view(np.float32) == values.max()


@pytest.mark.parametrize("width", [2, 8, 16, 32])
@pytest.mark.parametrize("by", [0, 1, 5, 16, 31])
def test_shuffles_and_votes(width: int, by: int) -> None:
    values = np.random.default_rng(by).integers(0, 32, 32).astype(np.int32)
    lanes = np.arange(32)
    group, inside = lanes // width * width, lanes % width

    def run() -> tuple[Array, ...]:
        results = np.empty(256, np.int32)
        kernels("planted").warp_results(values, results, width, by)
        return (results,)

    (got,) = in_every_order(run)
    got = got.reshape(8, 32)
    np.testing.assert_array_equal(got[0], values[group + by % width])
    np.testing.assert_array_equal(got[1], values[np.where((lanes ^ by) < group + width, lanes ^ by, lanes)])
    np.testing.assert_array_equal(got[2], values[np.where(inside >= by, lanes - by, lanes)])
    np.testing.assert_array_equal(got[3], values[np.where(inside + by < width, lanes + by, lanes) % 32])
    yes = values > by
    np.testing.assert_array_equal(
        got[4].view(np.uint32), int((yes.astype(np.uint64) << lanes.astype(np.uint64)).sum())
    )
    np.testing.assert_array_equal(got[5], yes.any() + 2 * yes.all())
    np.testing.assert_array_equal(got[6], 2 * values[31 - lanes] + 1)
    np.testing.assert_array_equal(got[7], yes.any() + 2 * yes.all() + 4 * yes.sum())


@pytest.mark.parametrize(
    "grid, threads", [((1, 1, 1), (1, 1, 1)), ((3, 2, 2), (5, 3, 2)), ((2, 1, 1), (1024, 1, 1))]
)
def test_grids_in_three_dimensions(grid: tuple[int, ...], threads: tuple[int, ...]) -> None:
    def run() -> tuple[Array, ...]:
        results = np.empty(int(np.prod(grid) * np.prod(threads)), np.int32)
        kernels("planted").numbers(results, grid, threads, 0)
        return (results,)

    (results,) = in_every_order(run)
    np.testing.assert_array_equal(results, np.arange(len(results)))


@pytest.mark.parametrize(
    "grid, threads, shared, message",
    [
        ((0, 1, 1), (1, 1, 1), 0, r"a grid of \(0, 1, 1\) blocks"),
        ((1, 65536, 1), (1, 1, 1), 0, "a grid of"),
        ((1, 1, 1), (0, 1, 1), 0, "a block of"),
        ((1, 1, 1), (1025, 1, 1), 0, "a block of"),
        ((1, 1, 1), (1, 1, 65), 0, "a block of"),
        ((1, 1, 1), (1, 1, 1), 48 * 1024 + 1, "49153 bytes of dynamic shared memory"),
    ],
)
def test_limits_of_a_launch(
    grid: tuple[int, ...], threads: tuple[int, ...], shared: int, message: str
) -> None:
    with pytest.raises(EmulationError, match=message) as caught:
        kernels("planted").numbers(np.empty(1, np.int32), grid, threads, shared)
    assert caught.value.kind == "limit"


def test_kinds_of_shared_memory() -> None:
    values = np.arange(128, dtype=np.float32)

    def run() -> tuple[Array, ...]:
        results = np.empty_like(values)
        kernels("planted").shared_kinds(values, results, False, 64)
        return (results,)

    (results,) = in_every_order(run)
    np.testing.assert_array_equal(results, 1006 * values.reshape(-1, 2)[:, ::-1].reshape(-1))


def test_strides_and_gaps() -> None:
    planted = kernels("planted")
    values = torch.randn(2, 3, 4, 5).bfloat16()
    layouts = [
        values,
        values.to(memory_format=torch.channels_last),
        values[:1].expand(4, -1, -1, -1),
        values[:, :, 1:3, ::2],
        values.transpose(2, 3),
        values[:0],
    ]
    for tensor in layouts:
        wide = torch.full((*tensor.shape[:3], 2 * tensor.shape[3]), 7.0).bfloat16()
        planted.copy(as_array(tensor), as_array(wide)[..., ::2], False)
        assert torch.equal(wide[..., ::2], tensor)
        assert (wide[..., 1::2] == 7).all()
    backwards = np.empty((2, 3, 4, 5), np.uint16)
    planted.copy(as_array(values)[:, ::-1], backwards[..., ::-1], False)
    assert torch.equal(as_tensor(backwards, torch.bfloat16), values.flip(1, 3))
    with pytest.raises(EmulationError, match="of to, a gap between its elements") as caught:
        planted.copy(as_array(values), np.empty((2, 3, 4, 10), np.uint16)[..., ::2], True)
    assert caught.value.kind == "out of bounds"


def test_arrays_that_no_kernel_takes() -> None:
    planted = kernels("planted")
    values = np.ones((1, 1, 2, 2), np.uint16)
    with pytest.raises(ValueError, match="to holds an element twice"):
        planted.copy(
            values, np.lib.stride_tricks.as_strided(np.empty(4, np.uint16), values.shape, (0, 0, 0, 2)), False
        )
    with pytest.raises(ValueError, match="from is no array of bfloat16"):
        planted.copy(values.astype(np.float32), values, False)
    with pytest.raises(ValueError, match="four dimensions"):
        planted.copy(values[0], values, False)
    with pytest.raises(ValueError, match="contiguous"):
        planted.block_sums(np.ones(20, np.float32)[::2], "float32", np.empty(1, np.float32))
    with pytest.raises(ValueError, match="no such order"):
        planted.set_order("sideways", 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_conversions(dtype: torch.dtype) -> None:
    planted, name = kernels("planted"), str(dtype).removeprefix("torch.")
    patterns = np.arange(65536, dtype=np.uint16)
    wide = np.empty(65536, np.float32)
    getattr(planted, name + "_to_float")(patterns, wide)
    expected = as_tensor(patterns, dtype).float().numpy()
    finite = ~np.isnan(expected)
    np.testing.assert_array_equal(wide, expected)
    np.testing.assert_array_equal(np.signbit(wide[finite]), np.signbit(expected[finite]))

    # every value, halfway to the next and a step of float32 to either side, and random bits
    bits = wide[finite].view(np.uint32)
    step = 1 << (15 if dtype == torch.bfloat16 else 12)
    near = [bits + np.uint32(change % 2**32) for change in (0, 1, -1, step, step - 1, step + 1, -step)]
    random = np.random.default_rng(0).integers(0, 2**32, 500_000).astype(np.uint32)
    floats = np.concatenate([*near, random]).view(np.float32)
    narrow = np.empty(len(floats), np.uint16)
    getattr(planted, "float_to_" + name)(floats, narrow)
    got, rounded = as_tensor(narrow, dtype), torch.from_numpy(floats).to(dtype)
    nan = torch.from_numpy(np.isnan(floats))
    assert torch.equal(got.isnan(), nan)
    np.testing.assert_array_equal(
        as_array(got[~nan]).view(np.uint16), as_array(rounded[~nan]).view(np.uint16)
    )
