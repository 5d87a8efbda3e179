"""The model of the GPU kernels: every kernel is in it, moves what it should, and the command prints it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from bench import kernel_costs
from bench.kernel_costs import OPERATORS
from bench.kernel_model import LARGEST_RATIO, Cost, Operator, Size
from lmdis_fast.kernels import launch_table

#: Operators that move more than the limit, for the reasons in bench/README.md.
EXPLAINED = {
    ("heatmap_moments over pixels", "backward"),
    ("landmark_pool", "forward"),
    ("tps_warp, image's gradient alone", "backward"),
}
SIZES = [
    Size(landmarks, side, features, bytes)
    for landmarks in (10, 30)
    for side in (64, 80, 128)
    for features in (16, 64)
    for bytes in (2, 4)
]


def cost_of(operator: Operator, size: Size) -> Cost:
    """All kernels of an operator, launched as on an H100."""
    total = Cost(0, 0)
    for kernel in operator.kernels:
        name = kernel.partials or kernel.name
        pixels = size.side * size.side
        launch = launch_table.configuration(name, "sm_90", size.channels, pixels, size.bytes)
        total += kernel.cost(size, launch)
    return total


def test_every_kernel_of_the_launch_table_is_counted() -> None:
    counted = {kernel.name for operator in OPERATORS for kernel in operator.kernels}
    assert counted >= set(launch_table.TABLE)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: f"{o.name} {o.way}")
def test_little_more_than_the_least_is_moved(operator: Operator) -> None:
    ratios = [cost_of(operator, size).moved / cost_of(operator, size).least for size in SIZES]
    assert min(ratios) >= 1
    within = max(ratios) <= LARGEST_RATIO[operator.way]
    assert within != ((operator.name, operator.way) in EXPLAINED), max(ratios)


def test_counted_bytes_of_a_known_case() -> None:
    """11 maps of 80 x 80 in float32 for 32 images: read once forward, read and written once backward."""
    size = Size(10, 80, 16, 4)
    maps = 32 * 11 * 80 * 80 * 4
    forward, backward = (o for o in OPERATORS if o.name == "heatmap_moments")
    assert maps < cost_of(forward, size).least < 1.01 * maps
    assert cost_of(backward, size).moved == 2 * maps


def test_reasons_are_written_down() -> None:
    text = (Path(kernel_costs.__file__).parent / "README.md").read_text()
    for name, _ in EXPLAINED:
        assert name.split(",")[0] in text


def test_command_prints_a_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.roofline", "--room", "heatmap_moments", "--dtype", "float32"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for backend in ("triton", "cuda"):
        start = f"| heatmap_moments_channels | {backend} |"
        rows = [line for line in done.stdout.splitlines() if line.startswith(start)]
        assert len(rows) == 6
        registers, _, threads, blocks = (cell.strip() for cell in rows[0].split("|")[10:14])
        assert int(registers) > 0 and int(threads) > 0 and int(blocks) > 0
