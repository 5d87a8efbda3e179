"""`bench/gpu_check.py` without a GPU: its time limit with a clock of the test's own, its stages on interpreted kernels."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu_build, gpu_check, gpu_parity, gpu_sanitizer, gpu_stages, gpu_training
from bench.gpu_budget import Budget, Outcome, Stage, run_stages
from bench.sizes import Sizes
from lmdis_fast import backends

needs_triton = pytest.mark.skipif(
    backends.why_not("triton", "heatmap_moments") is not None, reason="Triton's interpreter is not on"
)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def stage(self, name: str, takes: float, least: float = 0.0, most: float = 1e9) -> Stage:
        """A stage that takes so many seconds, or as many as it is given."""

        def run(budget: Budget) -> str:
            given = budget.left
            self.now += min(takes, given)
            return f"{given:.0f} s"

        return Stage(name, least, most, run)


def test_what_does_not_fit_is_left_out_and_the_rest_is_done() -> None:
    clock = Clock()
    names: list[list[str]] = []
    plan = [
        clock.stage("first", takes=50),
        clock.stage("long", takes=90, least=60),
        clock.stage("short", takes=20, least=10, most=30),
        clock.stage("last", takes=99),
    ]
    budget = Budget(100, clock)
    found = run_stages(plan, budget, lambda outcomes: names.append([o.name for o in outcomes]))
    assert [(o.name, o.state, o.seconds) for o in found] == [
        ("first", "done", 50),
        ("long", "left out", 0),
        ("short", "done", 20),
        ("last", "done", 30),
    ]
    assert found[1].why == "50 s left, 60 s needed"
    assert [o.found for o in found] == ["100 s", None, "30 s", "30 s"]
    assert len(names) == 4 and names[-1] == ["first", "long", "short", "last"]
    assert budget.left == 0


def test_failed_stage_is_reported_and_the_next_one_runs() -> None:
    clock = Clock()

    def broken(budget: Budget) -> None:
        raise gpu_parity.Wrong("heatmap_moments: 3 is not 4")

    found = run_stages(
        [Stage("broken", 0, 10, broken), clock.stage("next", takes=1)], Budget(9, clock), lambda _: None
    )
    assert [o.state for o in found] == ["failed", "done"]
    assert found[0].why == "Wrong: heatmap_moments: 3 is not 4" and "Traceback" in found[0].found
    text = gpu_check.markdown(found)
    assert "| broken | failed |" in text and "3 is not 4" in text


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    outcomes = [
        Outcome("Machine", "done", 1.0, found={"gpu": "NVIDIA H100"}),
        Outcome("Timings", "done", 2.0, found=[{"operator": "a", "us": 3.0}, {"operator": "b", "x": 0.0012}]),
        Outcome("Races", "left out", why="1 s left, 30 s needed"),
    ]
    gpu_check.save(tmp_path / "new", outcomes)
    text = (tmp_path / "new" / "gpu_check.md").read_text()
    assert "| gpu | NVIDIA H100 |" in text and "| b | 0.0012 |" in text and "left out: 1 s left" in text
    stored = json.loads((tmp_path / "new" / "gpu_check.json").read_text())
    assert [o["name"] for o in stored] == ["Machine", "Timings", "Races"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["gpu_check.json", "gpu_check.md"]


def test_all_stages_fit_into_the_limit() -> None:
    assert sum(stage.least for stage in gpu_check.stages("cuda")) <= 8 * 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_what_is_missing() -> None:
    program = Path(gpu_check.__file__)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("gpu_check: torch sees no GPU: run this where")


def test_versions_are_compared_as_numbers() -> None:
    assert gpu_check.version_of("2.11.0+cu130") >= gpu_check.LEAST_TORCH > gpu_check.version_of("2.9.1")


@needs_triton
def test_parity_on_interpreted_kernels() -> None:
    rows = gpu_parity.parity("cpu", Budget(600), sizes=[((9, 16), 3)], dtypes=[torch.float32])
    operators = {row["operator"].split()[0] for row in rows}
    assert {"heatmap_moments", "landmark_pool", "splat_landmarks", "tps_warp"} <= operators
    assert all(row["cases"] == 2 and row["worst"] < 1e-4 for row in rows)


@needs_triton
def test_parity_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    right, why_not = backends._kernels["triton"]["heatmap_moments"]

    def wrong(*args: Any) -> Any:
        coords, *rest = right(*args)
        return coords * 1.01, *rest

    monkeypatch.setitem(backends._kernels["triton"], "heatmap_moments", (wrong, why_not))
    with pytest.raises(gpu_parity.Wrong, match="triton heatmap_moments channels K=3"):
        gpu_parity.parity("cpu", Budget(600), sizes=[((9, 16), 3)], dtypes=[torch.float32])


@needs_triton
def test_parity_in_several_processes_is_that_of_one() -> None:
    asked: dict[str, Any] = {"sizes": [((9, 16), 3)], "dtypes": [torch.float32]}
    rows = gpu_parity.parity("cpu", Budget(600), processes=2, **asked)
    assert rows == gpu_parity.parity("cpu", Budget(600), **asked)


@needs_triton
def test_parity_goes_on_after_a_call_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    _, why_not = backends._kernels["triton"]["gaussian_pool"]
    monkeypatch.setitem(backends._kernels["triton"], "gaussian_pool", (broken, why_not))
    turn = gpu_parity.turns([((9, 16), 3)], [torch.float32])[0]
    found = gpu_parity.compare("cpu", turn, Budget(600))
    assert len(found.wrong) == 1 and "triton gaussian_pool K=3 (9, 16) torch.float32" in found.wrong[0]
    assert "RuntimeError: an illegal memory access" in found.wrong[0]
    assert {"heatmap_moments channels", "tps_warp zeros"} <= {operator for _, operator in found.errors}


def test_parity_stops_when_time_is_up() -> None:
    rows = gpu_parity.parity("cpu", Budget(0))
    assert [row["operator"] for row in rows] == [
        "time was up: 0 of 30 sizes, dtypes and layouts were checked"
    ]


@needs_triton
def test_a_fault_that_stays_is_told_with_the_call_that_it_began_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gpu_parity.calls
    failed: list[str] = []

    def broken(*args: Any) -> Any:
        failed.append("gaussian_pool")
        raise RuntimeError("an illegal memory access was encountered")

    def on_a_broken_device(*args: Any) -> Any:
        for call in asked(*args):
            if failed:
                raise RuntimeError("still an illegal memory access")
            yield call

    _, why_not = backends._kernels["triton"]["gaussian_pool"]
    monkeypatch.setitem(backends._kernels["triton"], "gaussian_pool", (broken, why_not))
    monkeypatch.setattr(gpu_parity, "calls", on_a_broken_device)
    with pytest.raises(
        gpu_parity.Wrong, match=r"triton gaussian_pool K=3 .*; .*: RuntimeError: still an illegal"
    ):
        gpu_parity.parity("cpu", Budget(600), sizes=[((9, 16), 3)], dtypes=[torch.float32])


def test_processes_of_parity_fit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(gpu_check.os, "sysconf", lambda name: 4096 if "SIZE" in name else 32 * 2**30 // 4096)
    assert gpu_check.processes_for("cpu") == 5
    monkeypatch.setattr(gpu_check.os, "sysconf", lambda name: 4096 if "SIZE" in name else 2**30 // 4096)
    assert gpu_check.processes_for("cpu") == 1


@needs_triton
def test_repetitions_and_launches_on_interpreted_kernels() -> None:
    rows = gpu_stages.repeatable("cpu", Budget(600), times=1, size=(9, 16))
    assert len(rows) >= 10 and all(row["repetitions"] == 1 for row in rows)
    for row in gpu_stages.launches("cpu", Budget(600), size=(9, 16), samples=1):
        assert 1 <= row["forward"] <= 2 and row["both"] - row["forward"] <= 2, row


@needs_triton
def test_timings_with_a_timer_of_the_tests_own() -> None:
    seen: list[int] = []

    def timer_of(device: str) -> Any:
        def timer(runs: gpu_stages.Runs, seconds: float) -> gpu_stages.Samples:
            seen.append(len(runs))
            for run in runs:
                run()
            return [[1e-3 * (i + 1)] * 3 for i in range(len(runs))]

        return timer

    sizes = Sizes(batch=1, landmarks=(2,), pixels=(16,), dtypes=(torch.float32,), extras=False)
    rows = gpu_stages.timings("cpu", Budget(600), sizes=sizes, timer_of=timer_of)
    assert rows[0] == {"operator": "copy of 256 MB", "GB/s": 537, "of": 537}
    first = rows[1]
    assert first["operator"] == "heatmap_moments" and first["phase"] == "forward"
    assert first["triton, us"] == 1000.0 and first["softmax, product, us"] == 2000.0
    assert first["triton, of memory's speed"] == "0%"
    assert {row["operator"] for row in rows[1:]} >= {"landmark_pool", "splat_landmarks", "tps_warp"}
    assert seen[0] == 1 and min(seen[1:]) > 1


@pytest.mark.parametrize("room", gpu_stages.ROOMS, ids=lambda room: room.__name__.rpartition(".")[2])
def test_contenders_leave_no_tensor_behind(room: Any) -> None:
    """On tensors without memory, which mix with the processor's as little as a GPU's do."""
    sizes = Sizes(batch=1, landmarks=(2,), pixels=(16,), dtypes=(torch.float32,), extras=False)
    for case in room.cases(sizes):
        problem = gpu_stages.moved(case.build(), "meta")
        with backends.use_backend("reference"):
            for contender in problem.contenders:
                results = contender.run(*problem.inputs)
                assert all(result.is_meta for result in results)


def test_backends_of_a_gpu_are_asked_about_tensors_there(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = functools.partial(backends.not_for_cuda, "heatmap_moments", device_type="cpu")
    monkeypatch.setitem(backends.UNAVAILABLE, "cuda", None)
    monkeypatch.setitem(backends._kernels["cuda"], "heatmap_moments", (lambda *_: None, refuses))
    assert "cuda" in gpu_parity.gpu_backends("cpu")
    assert "cuda" not in gpu_parity.gpu_backends("meta")


def test_a_program_that_fails_under_the_sanitizer_is_no_clean_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\necho IndexError: tuple index out of range >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(gpu_parity.Wrong, match=r"memcheck: .*IndexError"):
        gpu_sanitizer.sanitizer("cuda", Budget(60))


TRITON = "landmark_pool_backward_map+0x4080 in softmax_pool.py:213"
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at {}
=========     and {} access at {} [320 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


@pytest.mark.parametrize(
    ("report", "copies"),
    [
        (RACE.format(TRITON, "Write", TRITON), 320),
        (RACE.format(TRITON, "Write", TRITON) + RACE.format(TRITON, "Write", TRITON), 640),
        (RACE.format(TRITON, "Read", TRITON), 0),
        (RACE.format(TRITON, "Write", TRITON.replace("4080", "4090")), 0),
        (RACE.format("sum_of_tiles+0x40", "Write", "sum_of_tiles+0x40"), 0),
        (RACE.format(*["spread+0x40 in tile.cuh:9", "Write", "spread+0x40 in tile.cuh:9"]), 0),
        (RACE.format(TRITON, "Write", TRITON) + "========= Error: Race reported between Read access", 0),
        ("========= Invalid __global__ read of size 4 bytes", 0),
    ],
)
def test_copies_of_a_value_that_triton_writes_are_no_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: str, copies: int
) -> None:
    assert gpu_sanitizer.replicated_writes(report) == copies
    tool = tmp_path / "compute-sanitizer"
    (tmp_path / "report").write_text(report)
    tool.write_text(f'#!/bin/sh\n[ "$2" = memcheck ] && exit 0\ncat {tmp_path}/report\nexit 9\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if copies:
        clean, races = gpu_sanitizer.sanitizer("cuda", Budget(60))
        assert clean["result"] == "nothing found" and races["result"] == f"{copies} replicated writes"
    else:
        with pytest.raises(gpu_parity.Wrong, match=r"racecheck"):
            gpu_sanitizer.sanitizer("cuda", Budget(60))


def test_training_steps_of_a_backend_are_compared_with_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_training, "gpu_backends", lambda _: ["cpu"])
    plain, cpu = gpu_training.training("cpu", Budget(600), ("small-64",), steps=2)
    assert (plain["backend"], cpu["backend"]) == ("reference", "cpu")
    assert plain["first loss"] == pytest.approx(cpu["first loss"], rel=1e-3)
    assert cpu["images/s"] > 0 and cpu["loss, second half"] != cpu["first loss"]


def test_training_step_that_fails_is_told_of_as_it_fails_without_running_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_within(_: float, command: list[str], env: dict[str, str]) -> Any:
        if env["LMDIS_FAST_BACKEND"] == "reference":
            return subprocess.CompletedProcess(
                command, 0, json.dumps({"images/s": 9.0, "first loss": 1.0}), ""
            )
        where = "render_gaussians" if env.get("CUDA_LAUNCH_BLOCKING") else "cublasGemm"
        return subprocess.CompletedProcess(command, 1, "", f"an illegal memory access in {where}")

    monkeypatch.setattr(gpu_training, "gpu_backends", lambda _: ["cuda"])
    monkeypatch.setattr(gpu_training, "run_within", run_within)
    with pytest.raises(
        gpu_parity.Wrong, match=r"small-64, cuda: with CUDA_LAUNCH_BLOCKING=1: .*render_gaussians"
    ):
        gpu_training.training("cuda", Budget(600))


def test_training_that_time_was_up_for_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_within(_: float, command: list[str], env: dict[str, str]) -> Any:
        if env["LMDIS_FAST_BACKEND"] == "triton":
            raise subprocess.TimeoutExpired(command, 60)
        return subprocess.CompletedProcess(command, 0, json.dumps({"images/s": 9.0, "first loss": 1.0}), "")

    monkeypatch.setattr(gpu_training, "gpu_backends", lambda _: ["triton"])
    monkeypatch.setattr(gpu_training, "run_within", run_within)
    rows = gpu_training.training("cuda", Budget(600))
    assert [row["images/s"] for row in rows] == [9.0, "not finished in the time there was"] * 2


def test_training_step_with_another_loss_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_within(_: float, command: list[str], env: dict[str, str]) -> Any:
        loss = 1.0 if env["LMDIS_FAST_BACKEND"] == "reference" else 1.1
        return subprocess.CompletedProcess(command, 0, json.dumps({"images/s": 9.0, "first loss": loss}), "")

    monkeypatch.setattr(gpu_training, "gpu_backends", lambda _: ["triton"])
    monkeypatch.setattr(gpu_training, "run_within", run_within)
    with pytest.raises(gpu_parity.Wrong, match=r"small-64, triton: first loss 1\.1, 1\.0 expected"):
        gpu_training.training("cuda", Budget(600))


def test_known_cards_are_held_to_their_data_sheet() -> None:
    assert gpu_stages.bandwidth_of("NVIDIA H100 80GB HBM3", 1.0) == 3.35e12
    assert gpu_stages.bandwidth_of("some other card", 2.5e11) == 2.5e11


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (subprocess.TimeoutExpired("setup.py", 60), "not done within 60 s"),
        (subprocess.CompletedProcess("setup.py", 1, "", "ptxas: no such option"), "failed: ptxas"),
        (subprocess.CompletedProcess("setup.py", 0, "", ""), "done in 0 s for 9.0"),
    ],
)
def test_build_says_what_became_of_it(answer: object, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, dict[str, str]]] = []

    def run_within(limit: float, command: list[str], environment: dict[str, str]) -> object:
        asked.append((limit, environment))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(gpu_build, "run_within", run_within)
    assert gpu_build.build("cuda", Budget(120, lambda: 0.0)).startswith(sentence)
    ((limit, environment),) = asked
    assert environment["TORCH_CUDA_ARCH_LIST"] == "9.0" and environment["LMDIS_FAST_BUILD"] == "cuda"
    assert limit == 60


def test_build_that_takes_too_long_leaves_no_compiler_behind(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"sleep 120 & echo $! > {note}; wait"
    with pytest.raises(subprocess.TimeoutExpired):
        gpu_build.run_within(1.0, ["sh", "-c", script], dict(os.environ))
    status = Path(f"/proc/{note.read_text().strip()}/status")
    deadline = time.monotonic() + 10
    while status.exists() and "State:\tZ" not in status.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_check_begins_again_after_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []

    class Replaced(Exception):
        """The process would be another now."""

    def execv(program: str, command: list[str]) -> None:
        begun.append(command)
        raise Replaced

    monkeypatch.setattr(gpu_check, "missing", lambda: None)
    monkeypatch.setattr(gpu_build, "is_wanted", lambda: True)
    monkeypatch.setattr(gpu_build, "build", lambda *_: "done in 60 s for 9.0")
    monkeypatch.setattr(gpu_check.os, "execv", execv)
    with pytest.raises(Replaced):
        gpu_check.main(["--device", "cpu", "--minutes", "3"])
    ((*_, minutes, left, name, sentence),) = begun
    assert (minutes, name, sentence) == ("--minutes", "--built", "done in 60 s for 9.0")
    assert 2.9 < float(left) <= 3.0
