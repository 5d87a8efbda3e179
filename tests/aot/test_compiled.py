"""Every Triton kernel compiles for every architecture, spills nothing, and takes no more than the committed table says."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from .compile_kernels import usual
from .table import RELEASES, load_table

RENEW = "renew the table with `python -m tests.aot.compile_kernels --write` if that is meant"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All kernels, compiled in a process without Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    out = tmp_path_factory.mktemp("aot") / "results.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.aot.compile_kernels", "--out", str(out)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The committed table."""
    return load_table()


def test_nothing_is_spilled(results: list[dict[str, Any]]) -> None:
    spilled = [(r["kernel"], r["arch"], r["dtype"], r["call"], r["stack"]) for r in results if r["stack"]]
    assert not spilled, f"bytes of stack: {spilled}"


def test_resources_are_within_the_table(results: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    import triton

    if triton.__version__ != expected["triton"]:
        pytest.skip(f"the table is of triton {expected['triton']}, this is {triton.__version__}")
    broken = []
    for r in results:
        row = expected[r["kernel"]][r["dtype"]][r["arch"]]
        place = f"{r['kernel']} {r['arch']} {r['dtype']} {r['call']}"
        broken += [f"{place}: {r[k]} {k}, at most {row[k]}" for k in ("registers", "shared") if r[k] > row[k]]
        if usual(r):
            wide = [k for k in ("wide_loads", "wide_stores") if r[k] < row[k]]
            broken += [f"{place}: {r[k]} {k}, at least {row[k]}" for k in wide]
    assert not broken, f"{broken}; {RENEW}"


def test_table_names_the_kernels_there_are(results: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    assert {r["kernel"] for r in results} == set(expected) - {*RELEASES, "cuda"}


#: Kernels that read or write whole contiguous maps by 16 bytes, in every dtype.
WIDE = [
    ("heatmap_moments_channels", "wide_loads"),
    ("heatmap_moments_pixels", "wide_loads"),
    ("heatmap_moments_axes", "wide_loads"),
    ("heatmap_moments_backward_channels", "wide_loads"),
    ("heatmap_moments_backward_channels", "wide_stores"),
    ("heatmap_moments_backward_pixels", "wide_loads"),
    ("heatmap_moments_backward_pixels", "wide_stores"),
    ("heatmap_moments_backward_marginals", "wide_stores"),
    ("gaussian_pool_partials", "wide_loads"),
    ("gaussian_pool_backward_map", "wide_loads"),
    ("gaussian_pool_backward_map", "wide_stores"),
    ("render_gaussians_maps", "wide_stores"),
    ("render_gaussians_backward_partials", "wide_loads"),
    ("splat_landmarks_maps", "wide_stores"),
    ("landmark_pool_partials", "wide_loads"),
    ("landmark_pool_backward_map", "wide_loads"),
    ("landmark_pool_backward_map", "wide_stores"),
    ("splat_landmarks_backward_partials", "wide_loads"),
    ("tps_warp_sample", "wide_stores"),
    ("tps_warp_backward_map", "wide_loads"),
    ("tps_warp_backward_largest", "wide_loads"),
]


@pytest.mark.parametrize(("kernel", "way"), WIDE)
def test_maps_are_read_and_written_by_16_bytes(kernel: str, way: str, expected: dict[str, Any]) -> None:
    """On NVIDIA's architectures, and what is read on AMD's."""
    for dtype, archs in expected[kernel].items():
        for arch, row in archs.items():
            if arch.startswith("sm") or way == "wide_loads":
                assert row[way] > 0, f"{kernel} {dtype} {arch}: no 16-byte {way[5:]}"
