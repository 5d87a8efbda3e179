"""Training from the command line: what it writes, and that stopping it in any way changes nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmdis_fast import checkpoint, train
from lmdis_fast.checkpoint import CheckpointError, newest_readable, read_checkpoint
from lmdis_fast.config import OptimizerConfig, preset_config
from lmdis_fast.models import LandmarkAutoencoder
from lmdis_fast.run_log import read_metrics
from lmdis_fast.train import build_optimizer, learning_rate, ramp
from tests.cli.conftest import STEPS, tiny
from tests.models.micro import micro

REPOSITORY = Path(__file__).parents[2]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def assert_same_state(first: Path, second: Path) -> None:
    """Weights, batch statistics and the optimizer's state of two runs' newest checkpoints are equal bit for bit."""
    one, two = read_checkpoint(first), read_checkpoint(second)
    assert one.step == two.step == STEPS
    for a, b in ((one.model, two.model), (one.optimizer, two.optimizer)):
        assert a.keys() == b.keys() and len(a) > 0
        assert [name for name in a if not torch.equal(a[name], b[name])] == []


def at_step(step: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something in the middle of a training step."""
    loss_terms, calls = train.loss_terms, iter(range(10**6))

    def acting(*args: Any) -> Any:
        if next(calls) == step:
            act()
        return loss_terms(*args)

    monkeypatch.setattr(train, "loss_terms", acting)


def kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_what_a_run_leaves(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        *("config.toml", "command.txt", "metrics.jsonl", "health.json", "evaluation.json", "report.html"),
        *("pictures", *checkpoints(finished)),
    }
    assert checkpoints(finished) == ["checkpoint-00000016.safetensors", "checkpoint-00000024.safetensors"]
    pictures = sorted(path.name for path in (finished / "pictures").iterdir())
    assert pictures == [f"step-{step:08d}.png" for step in (8, 16, 24)]
    metrics = read_metrics(finished)
    assert [line["step"] for line in metrics] == [4, 8, 12, 16, 20, 24]
    assert {"loss", "reconstruction", "equivariance_px", "grad_norm", "lr", "images_per_second"} <= metrics[
        0
    ].keys()
    for line in metrics:
        terms = sum(line[name] for name in ("reconstruction", "concentration", "separation", "equivariance"))
        assert line["images"] == 4 * line["step"] and terms == pytest.approx(line["loss"], rel=1e-4)
    health = json.loads((finished / "health.json").read_text())
    assert health["step"] == 24 and len(health["landmarks"]) == 4
    assert "--steps 24" in (finished / "command.txt").read_text()


def test_report_stands_alone(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//|<link|<script[^>]+src", page)
    sources = re.findall(r"""<img[^>]+src=["']([^"']{22})""", page)
    assert len(sources) >= 4 and set(sources) == {"data:image/png;base64,"}
    rows = json.loads((finished / "evaluation.json").read_text())
    assert f"{rows[0]['error_percent']:.2f}" in page or f"{rows[0]['error_percent']:.1f}" in page
    assert "puppets:64" in page and "--steps 24" in page


def test_loss_falls(cache: Path, tmp_path: Path) -> None:
    constant = ["--losses.reconstruction", "1", "1", "--losses.separation", "10", "10"]
    constant += ["--losses.separation-bandwidth", "0.1", "0.1", "--steps", "60", "--log.report", "False"]
    assert train.main(tiny(cache, tmp_path / "run", *constant)) == 0
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert not (tmp_path / "run/report.html").exists()


def test_same_seed_same_weights(finished: Path, cache: Path, tmp_path: Path) -> None:
    torch.rand(17)  # the process's own random numbers do not matter
    assert train.main(tiny(cache, tmp_path / "again", "--log.report", "False")) == 0
    assert_same_state(finished, tmp_path / "again")
    assert train.main(tiny(cache, tmp_path / "other", "--log.report", "False", "--seed", "1")) == 0
    first, second = read_checkpoint(finished).model, read_checkpoint(tmp_path / "other").model
    assert not torch.equal(first["detector.stem.block.0.weight"], second["detector.stem.block.0.weight"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed(
    number: signal.Signals,
    finished: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = tiny(cache, tmp_path / "run")
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(10, lambda: kill(number), patch)
        assert train.main(arguments) == 128 + number
    assert signal.getsignal(number) == before
    said = capsys.readouterr().out
    assert "Stopped at step 11" in said and f"--out {tmp_path / 'run'}" in said
    assert checkpoints(tmp_path / "run")[-1] == "checkpoint-00000011.safetensors"
    assert train.main(arguments) == 0
    assert "(step 11)" in capsys.readouterr().out
    assert_same_state(finished, tmp_path / "run")
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [4, 8, 12, 16, 20, 24]
    assert (tmp_path / "run/report.html").exists()


def test_asked_twice_it_stops_at_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        kill(signal.SIGINT)
        kill(signal.SIGINT)

    at_step(2, twice, monkeypatch)
    assert train.main(tiny(cache, tmp_path / "run")) == 130
    assert checkpoints(tmp_path / "run") == []


KILLED = """
import os, signal, sys
from lmdis_fast import train
terms, calls = train.loss_terms, iter(range(10**6))
def killing(*args):
    if next(calls) == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return terms(*args)
train.loss_terms = killing
train.main(sys.argv[1:])
"""


def test_killed_and_resumed(
    finished: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny(cache, tmp_path / "run")
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert checkpoints(tmp_path / "run") == ["checkpoint-00000008.safetensors"]
    # A line that was being written when the process died.
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"step": 16, "loss"')
    assert train.main(arguments) == 0
    assert "(step 8)" in capsys.readouterr().out
    assert_same_state(finished, tmp_path / "run")
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [4, 8, 12, 16, 20, 24]


def test_finished_run_says_so(finished: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert train.main(tiny(cache, finished)) == 0
    said = capsys.readouterr().out
    assert "This run is finished" in said and str(finished / "report.html") in said
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_other_settings_in_the_same_folder(
    finished: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(tiny(cache, finished, "--seed", "3", "--optimizer.lr", "0.1")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lmdis_fast.train: {finished} holds a run with other settings (")
    assert "optimizer.lr: 0.003 -> 0.1" in said and "seed: 0 -> 3" in said and "--resume none" in said


def test_settings_that_do_not_matter_may_change(
    finished: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(tiny(cache, finished, "--log.pictures", "5", "--threads", "2")) == 0
    assert "This run is finished" in capsys.readouterr().out


def test_starting_anew_moves_the_old_run_aside(
    finished: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run.1").mkdir()
    short = ["--resume", "none", "--steps", "3", "--log.report", "False"]
    assert train.main(tiny(cache, tmp_path / "run", *short)) == 0
    assert f"What was in {tmp_path / 'run'} is now in {tmp_path / 'run.2'}" in capsys.readouterr().out
    assert_same_state(finished, tmp_path / "run.2")
    assert read_checkpoint(tmp_path / "run").step == 3 and list((tmp_path / "run.1").iterdir()) == []


def test_resuming_from_a_checkpoint_elsewhere(
    finished: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = str(finished / "checkpoint-00000016.safetensors")
    assert train.main(tiny(cache, tmp_path / "run", "--resume", earlier, "--log.report", "False")) == 0
    assert_same_state(finished, tmp_path / "run")
    assert train.main(tiny(cache, tmp_path / "run", "--resume", earlier, "--landmarks", "5")) == 2
    assert "the model differs: model.landmarks: 4 -> 5" in capsys.readouterr().err
    assert train.main(tiny(cache, tmp_path / "run", "--resume", str(tmp_path / "none.safetensors"))) == 2
    assert "none.safetensors does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_damaged_newest_checkpoint_is_passed_over(
    damage: str, finished: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = run / "checkpoint-00000024.safetensors"
    content = newest.read_bytes()
    damaged = {"cut": content[:-100], "empty": b"", "flipped": b"\xff" * 16 + content[16:]}
    newest.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(run)
    found = newest_readable(run)
    assert found is not None and found.step == 16
    assert f"Passing over {newest} is damaged" in capsys.readouterr().out
    if damage == "cut":
        assert train.main(tiny(cache, run, "--log.report", "False")) == 0
        assert_same_state(finished, run)


def full_disk(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_a_warning(
    finished: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file, calls = checkpoint.save_file, iter(range(100))

    def full_at_first(tensors: dict[str, Tensor], path: Path, **more: Any) -> None:
        if next(calls) == 0:
            path.write_bytes(b"half")
            full_disk()
        save_file(tensors, path, **more)

    monkeypatch.setattr(checkpoint, "save_file", full_at_first)
    assert train.main(tiny(cache, tmp_path / "run", "--log.report", "False")) == 0
    said = capsys.readouterr().out
    assert (
        "Warning: could not write" in said and "No space left on device" in said and "free some space" in said
    )
    assert checkpoints(tmp_path / "run") == checkpoints(finished)  # nothing half written stays
    assert_same_state(finished, tmp_path / "run")


def test_full_disk_at_the_end_is_an_error(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    assert train.main(tiny(cache, tmp_path / "run", "--steps", "3")) == 2
    said = capsys.readouterr().err
    assert said.startswith("lmdis_fast.train: could not write") and "--resume auto" in said
    assert checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize(("bad_step", "every", "reported"), [(5, 4, "step 5:"), (7, 12, "step 7:")])
def test_losses_that_are_not_finite(
    bad_step: int,
    every: int,
    reported: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loss_terms, calls, samples = train.loss_terms, iter(range(100)), []

    def poisoned(*args: Any) -> Any:
        terms, pixels = loss_terms(*args)
        if next(calls) == bad_step:
            terms["equivariance"] = terms["equivariance"] * math.nan
        return terms, pixels

    batch = train.BatchLoader.batch

    def watched(self: train.BatchLoader, step: int) -> Any:
        found = batch(self, step)
        if step == bad_step:
            samples.extend(self.data.names[i] for i in found.samples)
        return found

    monkeypatch.setattr(train, "loss_terms", poisoned)
    monkeypatch.setattr(train.BatchLoader, "batch", watched)
    assert train.main(tiny(cache, tmp_path / "run", "--log.every-steps", str(every))) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith(f"lmdis_fast.train: {reported}") and "equivariance" in said and "not finite" in said
    )
    assert "reconstruction" not in said
    assert samples and all(name in said for name in samples)
    saved = read_checkpoint(tmp_path / "run")
    assert str(saved.path) in said
    for tensor in (*saved.model.values(), *saved.optimizer.values()):
        assert torch.isfinite(tensor.double()).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--data", "no/such/folder"], "data: 'no/such/folder' does not exist"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["--steps", "0"], "--steps must be positive, got 0"),
        (["--image-size", "20"], "model.image_size plus twice model.padding must be divisible by 16"),
    ],
)
def test_errors_are_one_sentence(
    changes: list[str], message: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny(cache, tmp_path / "run", *changes)
    if changes[0] == "--data":
        del arguments[:2]
    assert train.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lmdis_fast.train: {message}") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_length_in_minutes(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = tiny(cache, tmp_path / "run", "--minutes", "0.01")
    position = arguments.index("--steps")
    del arguments[position : position + 2]
    assert train.main(arguments) == 0
    assert read_checkpoint(tmp_path / "run").step > 0 and (tmp_path / "run/report.html").exists()


def test_tensorboard_files(cache: Path, tmp_path: Path) -> None:
    more = ["--log.tensorboard", "True", "--steps", "4", "--log.report", "False"]
    assert train.main(tiny(cache, tmp_path / "run", *more)) == 0
    assert any((tmp_path / "run/tensorboard").iterdir())


def test_learning_rates() -> None:
    cosine = OptimizerConfig(lr=1.0, warmup_steps=10)
    assert learning_rate(cosine, 0, 0.0) == pytest.approx(0.1) and learning_rate(
        cosine, 9, 0.0
    ) == pytest.approx(1.0)
    assert learning_rate(cosine, 500, 0.5) == pytest.approx(0.5) and learning_rate(cosine, 999, 1.0) == 0
    steps = OptimizerConfig(lr=1e-3, warmup_steps=0, schedule="step")
    rates = [
        learning_rate(steps, step, step / 225_000) for step in (0, 99_999, 100_000, 199_999, 200_000, 224_999)
    ]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_ramps() -> None:
    assert ramp((0.1, 10.0), 0.0) == pytest.approx(0.1) and ramp((0.1, 10.0), 1.0) == pytest.approx(10.0)
    assert ramp((0.1, 10.0), 0.5) == pytest.approx(1.0) and ramp((4.0, 1.0), 7.0) == pytest.approx(1.0)


def test_moments_of_biases_that_do_not_learn_are_left_out() -> None:
    """As checkpoints have them that were made when the biases before a batch norm had gradients."""
    model = LandmarkAutoencoder(micro())
    optimizer = build_optimizer(model, OptimizerConfig())
    moments = {
        f"{name}/{key}": torch.ones(parameter.shape)
        for name, parameter in model.named_parameters()
        for key in ("exp_avg", "exp_avg_sq")
    }
    checkpoint.load_optimizer_state(optimizer, model, moments)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kept = {name.rsplit("/", 1)[0] for name in checkpoint.flat_optimizer_state(optimizer, model)}
    assert kept == learning and len(learning) < len(list(model.parameters()))


def test_what_decays() -> None:
    model = LandmarkAutoencoder(micro())
    shapes = {}
    for decoupled in (True, False):
        config = OptimizerConfig(weight_decay=0.5, decoupled=decoupled)
        decayed, rest = build_optimizer(model, config).param_groups
        assert decayed["weight_decay"] == 0.5 and rest["weight_decay"] == 0
        assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
        shapes[decoupled] = {parameter.ndim for parameter in decayed["params"]}
    assert shapes == {True: {3, 4}, False: {1, 3, 4}}


def test_published_settings_are_coupled_adam() -> None:
    optimizer = build_optimizer(LandmarkAutoencoder(micro()), preset_config("paper-80").optimizer)
    assert type(optimizer) is torch.optim.Adam and optimizer.defaults["lr"] == 1e-3
