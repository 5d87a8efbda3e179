"""The named protocol on the built-in puppets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmdis_fast.config import TrainConfig, preset_config
from lmdis_fast.data import ImageData, open_dataset
from lmdis_fast.evaluation.protocol import default_normaliser, default_points, detect_all, evaluate_model
from lmdis_fast.models import LandmarkAutoencoder
from tests.models.micro import build, micro

FACE = ["eye_left", "eye_right", "nose", "mouth_left", "mouth_right"]


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    base = preset_config("small-64")
    return replace(
        base,
        model=micro(),
        image_size=16,
        landmarks=3,
        batch_size=8,
        log=replace(base.log, statistics_batches=2),
    )


@pytest.fixture(scope="module")
def model(config: TrainConfig) -> LandmarkAutoencoder:
    return build(config.model, seed=7).eval()


@pytest.fixture(scope="module")
def puppets(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return open_dataset("puppets:200", 16, cache_dir=tmp_path_factory.mktemp("cache"))


def test_numbers_and_their_card(
    model: LandmarkAutoencoder, puppets: ImageData, config: TrainConfig, tmp_path: Path
) -> None:
    random_state = torch.get_rng_state()
    evaluation = evaluate_model(model, puppets, train_config=config)
    assert (
        torch.equal(torch.get_rng_state(), random_state) and not model.training and model.precision == "fp32"
    )
    evaluation.write_json(tmp_path / "numbers.json")
    rows = json.loads((tmp_path / "numbers.json").read_text())
    keys = [
        "method",
        "protocol",
        "intercept",
        "normaliser",
        "n_train",
        "n_test",
        "landmarks",
        "error_percent",
    ]
    assert all(list(row) == keys for row in rows)
    assert [(r["method"], r["protocol"], r["intercept"], r["landmarks"]) for r in rows] == [
        ("landmarks", "zhang2018-9views", False, 3),
        ("landmarks", "zhang2018-9views", True, 3),
        ("landmarks", "zhang2018", False, 3),
        ("landmarks", "zhang2018", True, 3),
        ("untrained network", "zhang2018-9views", False, 3),
        ("untrained network", "zhang2018-9views", True, 3),
        ("mean shape", "mean-shape", True, 0),
        ("grey pixels", "ridge-32x32", True, 0),
    ]
    assert {(r["n_train"], r["n_test"], r["normaliser"]) for r in rows} == {(200, 12, "inter-ocular")}
    assert all(0 < r["error_percent"] < 1000 for r in rows)
    assert list(evaluation.points) == FACE
    assert (
        evaluation.mean_shape_percent == rows[6]["error_percent"]
        and evaluation.error() == rows[0]["error_percent"]
    )
    card = evaluation.card()
    for words in (
        "zhang2018",
        "K = 3",
        "5 annotated points (eye_left",
        "200",
        "12 images",
        "own split",
        "16 x 16",
    ):
        assert words in card


def test_mean_shape_is_what_it_says(
    model: LandmarkAutoencoder, puppets: ImageData, config: TrainConfig
) -> None:
    evaluation = evaluate_model(model, puppets, train_config=config, normaliser="side", points=["nose"])
    train, test = puppets.train_indices(), puppets.test_indices()
    nose = puppets.landmarks[:, puppets.landmark_names.index("nose")].astype(np.float64)
    distance = np.linalg.norm(nose[test] - nose[train].mean(0), axis=-1)
    assert evaluation.mean_shape_percent == pytest.approx(100 * distance.mean() / 2)


def test_landmarks_that_are_the_points_have_no_error(puppets: ImageData, config: TrainConfig) -> None:
    """A detector that finds the points themselves is measured as perfect."""
    names = ["eye_left", "eye_right", "nose"]
    truth = puppets.landmarks[:, [puppets.landmark_names.index(name) for name in names]]
    model = build(config.model).eval()
    lookup = {image.tobytes(): points for image, points in zip(puppets.images, truth, strict=True)}

    def detect(images: torch.Tensor, *, views: int) -> object:
        found = LandmarkAutoencoder.detect(model, images)
        rows = [lookup[np.asarray(image.permute(1, 2, 0)).tobytes()] for image in images]
        return found._replace(coords=torch.from_numpy(np.stack(rows)))

    model.detect = detect  # type: ignore[method-assign,assignment]
    evaluation = evaluate_model(model, puppets, train_config=config, points=names)
    assert evaluation.error() < 1e-3 < 1 < evaluation.error("untrained network")


def test_detect_all_does_not_depend_on_batches(model: LandmarkAutoencoder, puppets: ImageData) -> None:
    samples = np.arange(70)[::-1].copy()
    found = detect_all(model, puppets, samples)
    assert found.shape == (70, 3, 2)
    np.testing.assert_allclose(found[-1:], detect_all(model, puppets, samples[-1:]), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": ["tail"]}, r"points must be among eye_left, .*, got tail"),
        ({"normaliser": "nose,tail"}, "normaliser must be inter-ocular"),
    ],
)
def test_errors(
    model: LandmarkAutoencoder,
    puppets: ImageData,
    config: TrainConfig,
    arguments: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_model(model, puppets, train_config=config, **arguments)  # type: ignore[arg-type]


def test_data_without_points(model: LandmarkAutoencoder, puppets: ImageData, config: TrainConfig) -> None:
    bare = replace(
        puppets, landmarks=puppets.landmarks[:, :0], landmark_names=[], visible=puppets.visible[:, :0]
    )
    with pytest.raises(ValueError, match=r"data has no annotated points"):
        evaluate_model(model, bare, train_config=config)


def test_data_without_annotated_test_images(
    model: LandmarkAutoencoder, puppets: ImageData, config: TrainConfig
) -> None:
    landmarks = puppets.landmarks.copy()
    landmarks[puppets.test_indices()] = np.nan
    with pytest.raises(ValueError, match="annotated images in both splits, got 200 in train and 0 in test"):
        evaluate_model(model, replace(puppets, landmarks=landmarks), train_config=config)


def test_defaults() -> None:
    assert default_points([*FACE, "chin"]) == FACE and default_points(["a", "b"]) == ["a", "b"]
    assert default_normaliser(FACE) == "inter-ocular" and default_normaliser(["a"]) == "side"
