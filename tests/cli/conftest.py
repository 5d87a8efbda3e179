"""One tiny run that the tests of the command lines share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lmdis_fast import train


@pytest.fixture(autouse=True, scope="package")
def settings_of_torch() -> Iterator[None]:
    """Put back what training sets for the whole process."""
    poison = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = poison  # type: ignore[attr-defined]
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests here keep decoded images."""
    return tmp_path_factory.mktemp("cache")


STEPS = 24


def tiny(cache: Path, out: Path, *more: str) -> list[str]:
    """Arguments of a run of `STEPS` steps that takes a second or two."""
    return [
        *("--data", "puppets:64", "--image-size", "16", "--landmarks", "4", "--batch-size", "4"),
        *("--steps", str(STEPS), "--threads", "1", "--precision", "fp32", "--device", "cpu"),
        *("--cache", str(cache), "--out", str(out), "--log.every-steps", "4", "--log.snapshots", "3"),
        *("--log.pictures", "3", "--log.statistics-batches", "2", "--log.tensorboard", "False"),
        *("--optimizer.warmup-steps", "4", *more),
    ]


@pytest.fixture(scope="session")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that went through without interruption; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train.main(tiny(cache, out)) == 0
    return out
