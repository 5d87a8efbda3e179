"""The table of launches: what is taken from it, and how a GPU would rewrite it, with a timer of the test's own."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from lmdis_fast import backends

pytest.importorskip("triton")

from bench import tune_launches
from bench.gpu_budget import Budget
from lmdis_fast.kernels import launch_table

needs_triton = pytest.mark.skipif(
    backends.why_not("triton", "heatmap_moments") is not None, reason="Triton's interpreter is not on"
)


@pytest.mark.parametrize("kernel", launch_table.TABLE)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "gfx942", "cpu"])
def test_every_kernel_has_a_launch_for_all_sizes(kernel: str, arch: str) -> None:
    for channels in (2, 16, 17, 33, 65, 500):
        for size in (2, 4):
            entry = launch_table.configuration(kernel, arch, channels, 128 * 128, size)
            assert entry["num_warps"] in (1, 2, 4, 8, 16)
            tile = entry.get("TILE", 16)
            assert tile >= 16 and tile & (tile - 1) == 0


def test_first_entry_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    entries: list[dict[str, int | str]] = [
        {"arch": "sm_90", "channels": 16, "TILE": 64, "num_warps": 1},
        {"bytes": 2, "TILE": 128, "num_warps": 2},
        {"pixels": 100, "TILE": 256, "num_warps": 4},
    ]
    monkeypatch.setitem(launch_table.TABLE, "made_up", entries)

    def tile(arch: str, channels: int, pixels: int, size: int) -> int:
        return launch_table.configuration("made_up", arch, channels, pixels, size)["TILE"]

    assert tile("sm_90", 16, 9, 4) == 64
    assert tile("sm_90", 17, 9, 2) == 128
    assert tile("sm_80", 3, 100, 4) == 256
    with pytest.raises(LookupError, match="has no entry of made_up for sm_80"):
        tile("sm_80", 3, 101, 4)


def test_columns_waste_little() -> None:
    widths = (80, 96, 128, 64, 33, 17, 1, 300)
    assert [launch_table.columns(w, 256) for w in widths] == [16, 32, 128, 64, 16, 32, 1, 16]
    assert launch_table.columns(128, 32) == 32


def test_candidates_begin_with_the_usual_launch_and_stay_within_limits() -> None:
    usual = {"TILE": 16, "STEPS": 1, "num_warps": 8, "BLOCK_C": 4}
    found = list(tune_launches.candidates(usual))
    assert found[0] == usual and len(found) == 2 * 2 * 3
    assert all(c["BLOCK_C"] == 4 and 16 <= c["TILE"] <= 32 and 1 <= c["STEPS"] <= 2 for c in found)


@needs_triton
def test_fastest_launch_goes_into_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's timer likes two warps and dislikes everything else alike."""

    def timer(runs: Any, seconds: float) -> list[list[float]]:
        runs[0]()
        warps = [entry.get("num_warps", 4) for entry in launch_table._overrides.values()]
        return [[1.0 if 2 in warps else 2.0]]

    monkeypatch.setattr(tune_launches, "LANDMARKS", (2,))
    monkeypatch.setattr(tune_launches, "calls", _moments_alone)
    new = tune_launches.tuned("cpu", timer, Budget(600), size=(4, 16), batch=1)
    assert set(new) == {
        "heatmap_moments_channels",
        "heatmap_moments_finish",
        "heatmap_moments_backward_channels",
    }
    for kernel in ("heatmap_moments_channels", "heatmap_moments_backward_channels"):
        found = [(e["bytes"], e["num_warps"], e["channels"]) for e in new[kernel]]
        assert found == [(2, 2, 16), (4, 2, 16)]
    old = launch_table.TABLE["heatmap_moments_channels"]
    table = json.loads(tune_launches.as_text(tune_launches.merged(launch_table.TABLE, new)))
    assert list(table) == list(launch_table.TABLE)
    assert table["heatmap_moments_channels"] == new["heatmap_moments_channels"] + old
    assert tune_launches.merged(table, new) == table


def test_new_entries_replace_those_for_the_same_and_keep_the_rest() -> None:
    old: list[tune_launches.Entry] = [
        {"arch": "sm_80", "channels": 16, "bytes": 4, "TILE": 32},
        {"arch": "sm_80", "channels": 32, "bytes": 4, "TILE": 64},
        {"TILE": 128},
    ]
    new: list[tune_launches.Entry] = [{"arch": "sm_80", "channels": 16, "bytes": 4, "TILE": 256}]
    assert tune_launches.merged({"k": old, "other": old}, {"k": new}) == {"k": [*new, *old[1:]], "other": old}


def _moments_alone(*args: Any, **options: Any) -> Any:
    from bench.gpu_calls import calls

    return [call for call in calls(*args, **options) if call.name == "heatmap_moments channels"]


def test_launch_that_fails_is_passed_over() -> None:
    def timer(runs: Any, seconds: float) -> list[list[float]]:
        if launch_table._overrides["k"]["num_warps"] == 8:
            raise RuntimeError("out of resource: shared memory")
        return [[1.0]]

    assert tune_launches.fastest("k", {"num_warps": 4}, lambda: None, timer) == {"num_warps": 4}
    with pytest.raises(RuntimeError, match="out of resource"):
        tune_launches.fastest("k", {"num_warps": 8}, lambda: None, timer)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tuning_says_that_there_is_no_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.tune_launches"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "torch sees no GPU" in done.stderr
