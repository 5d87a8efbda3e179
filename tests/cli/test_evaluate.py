"""Evaluation from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmdis_fast import evaluate


def test_evaluation(finished: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "deep/numbers.json"
    assert (
        evaluate.main([str(finished), "--cache", str(cache), "--json", str(numbers), "--device", "cpu"]) == 0
    )
    said = capsys.readouterr().out
    rows = json.loads(numbers.read_text())
    for row in rows:
        assert row["method"] in said and f"{row['error_percent']:.2f}" in said
    assert "Protocol zhang2018" in said and "K = 4" in said
    # The same numbers as the run's own report.
    assert rows == json.loads((finished / "evaluation.json").read_text())


def test_other_data_points_and_normaliser(finished: Path, cache: Path, tmp_path: Path) -> None:
    arguments = ["--data", "puppets:40", "--points", "nose", "eye_left", "--normaliser", "side"]
    numbers = tmp_path / "numbers.json"
    assert evaluate.main([str(finished), *arguments, "--cache", str(cache), "--json", str(numbers)]) == 0
    assert {(row["n_train"], row["normaliser"]) for row in json.loads(numbers.read_text())} == {(40, "side")}


def test_a_checkpoint_of_its_own(finished: Path, cache: Path, tmp_path: Path) -> None:
    earlier = finished / "checkpoint-00000016.safetensors"
    numbers = tmp_path / "numbers.json"
    assert evaluate.main([str(earlier), "--cache", str(cache), "--json", str(numbers)]) == 0
    now, then = (json.loads(path.read_text()) for path in (finished / "evaluation.json", numbers))
    assert now[0]["error_percent"] != then[0]["error_percent"]
    assert now[4:] == then[4:]  # untrained network, mean shape and pixels do not depend on training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "no/such"], "data: 'no/such' does not exist"),
        (["--data", "digits"], "data has no annotated points"),
        (["--points", "tail"], "points must be among eye_left"),
        (["--normaliser", "nose"], "normaliser must be inter-ocular"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
    ],
)
def test_errors(
    arguments: list[str], message: str, finished: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(finished), "--cache", str(cache), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lmdis_fast.evaluate: {message}") and said.count("\n") == 1


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path)]) == 2
    assert f"lmdis_fast.evaluate: {tmp_path} holds no checkpoint" in capsys.readouterr().err
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    assert evaluate.main([str(tmp_path / "x.safetensors")]) == 2
    assert "is not a checkpoint of lmdis_fast" in capsys.readouterr().err
