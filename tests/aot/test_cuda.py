"""Every CUDA kernel compiles for every architecture without a warning, spills nothing, and keeps to the committed table."""

from typing import Any

import pytest

from . import compile_cuda
from .table import load_table

RENEW = "renew the table with `python -m tests.aot.compile_cuda --write` if that is meant"
#: Kernels that read or write maps.
READ = [
    "heatmap_moments_channels",
    "heatmap_moments_many",
    "heatmap_moments_pixels",
    "heatmap_moments_axes",
    "heatmap_moments_backward_channels",
    "heatmap_moments_backward_pixels",
    "landmark_pool_partials",
    "landmark_pool_backward_map",
    "gaussian_pool_partials",
    "gaussian_pool_backward_map",
    "gaussian_splat_backward_partials",
    "tps_warp_sample",
]
WRITTEN = [
    "heatmap_moments_backward_channels",
    "heatmap_moments_backward_pixels",
    "heatmap_moments_backward_marginals",
    "landmark_pool_backward_map",
    "gaussian_pool_backward_map",
    "gaussian_splat_maps",
    "tps_warp_sample",
    "tps_warp_backward_convert",
]


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    """All kernels on all architectures; nvcc takes minutes where nothing is kept from before."""
    try:
        for name in ("nvcc", "cuobjdump"):
            compile_cuda.tool(name)
    except compile_cuda.CannotCompile as reason:
        pytest.skip(f"CUDA kernels cannot be compiled: {reason}")
    return compile_cuda.compile_rooms(list(compile_cuda.CALLS), list(compile_cuda.ARCHITECTURES))


def test_nothing_is_spilled(results: list[dict[str, Any]]) -> None:
    spilled = [(r["kernel"], r["arch"], r["dtype"], r["call"], r["stack"]) for r in results if r["stack"]]
    assert not spilled, f"bytes of stack: {spilled}"


def test_resources_are_within_the_table(results: list[dict[str, Any]]) -> None:
    table = load_table()
    release = compile_cuda.release()
    if release != table["nvcc"]:
        pytest.skip(f"the table is of CUDA {table['nvcc']}, nvcc is of {release}")
    broken = []
    for r in results:
        row = table["cuda"][r["kernel"]][r["dtype"]][r["arch"]]
        place = f"{r['kernel']} {r['arch']} {r['dtype']} {r['call']}"
        broken += [f"{place}: {r[k]} {k}, at most {row[k]}" for k in ("registers", "shared") if r[k] > row[k]]
        wide = [k for k in ("wide_loads", "wide_stores") if r[k] < row[k]]
        broken += [f"{place}: {r[k]} {k}, at least {row[k]}" for k in wide]
    assert not broken, f"{broken}; {RENEW}"


def test_table_names_the_kernels_there_are(results: list[dict[str, Any]]) -> None:
    assert {r["kernel"] for r in results} == set(load_table()["cuda"])


@pytest.mark.parametrize(
    ("kernel", "way"), [*((k, "wide_loads") for k in READ), *((k, "wide_stores") for k in WRITTEN)]
)
def test_maps_are_read_and_written_by_16_bytes(kernel: str, way: str) -> None:
    """In every dtype and on every architecture."""
    for dtype, archs in load_table()["cuda"][kernel].items():
        for arch, row in archs.items():
            assert row[way] > 0, f"{kernel} {dtype} {arch}: no 16-byte {way[5:]}"
