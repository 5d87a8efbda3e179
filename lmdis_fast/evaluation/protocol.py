"""The named protocol: landmarks regressed to annotated points, beside three baselines of the same run (Zhang et al. 2018,
section 5.1)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..config import TrainConfig
from ..data import BatchLoader, ImageData, gather
from ..models import LandmarkAutoencoder, reestimate_batch_statistics
from ..pairs import make_pair
from .regression import grey_pixels, mean_shape, point_errors, reference_lengths, regress

Array = npt.NDArray[np.float64]

PROTOCOL = "zhang2018"
"""Least squares on centred coordinates without an intercept; ridge where it is under-determined."""
BATCH = 64


@dataclass(frozen=True)
class Row:
    """One number, with everything that it depends on."""

    method: str
    """landmarks, untrained network, mean shape, or grey pixels."""
    protocol: str
    """zhang2018 (least squares), zhang2018-ridge (where that is under-determined), either with -9views behind it (landmarks
    are means over nine shifted views), mean-shape, or ridge-32x32."""
    intercept: bool
    normaliser: str
    n_train: int
    n_test: int
    landmarks: int
    """Number K of regressors' landmarks; 0 for methods without."""
    error_percent: float


@dataclass(frozen=True)
class Evaluation:
    """All numbers of one evaluation."""

    rows: tuple[Row, ...]
    points: tuple[str, ...]
    """The annotated points."""
    split: str
    """Where the test images come from, in words."""
    crop: str
    """How pictures became square images."""
    views: int
    """Shifted views of each image over which its landmarks are averaged."""

    @property
    def mean_shape_percent(self) -> float:
        """The mean shape's error."""
        return next(row.error_percent for row in self.rows if row.method == "mean shape")

    def error(self, method: str = "landmarks", *, intercept: bool = False) -> float:
        """One row's number."""
        return next(r.error_percent for r in self.rows if r.method == method and r.intercept == intercept)

    def card(self) -> str:
        """The protocol in words: what must be the same for two numbers to be compared."""
        row = self.rows[0]
        return (
            f"Protocol {PROTOCOL}: linear regression from K = {row.landmarks} discovered landmarks, (x, y) centred at the "
            f"image's centre, to {len(self.points)} annotated points ({', '.join(self.points)}), fitted on {row.n_train} "
            f"and measured on {row.n_test} images; {self.split}; {self.crop}; without an intercept, and with one where the table says so; "
            f"{PROTOCOL}-9views: landmarks are means over nine views of each image shifted by up to a pixel. Error: mean distance over points, over "
            f"images, in % of {self.normaliser_words()}."
        )

    def normaliser_words(self) -> str:
        """What errors are divided by, in words."""
        name = self.rows[0].normaliser
        words = {
            "inter-ocular": "the distance of the eyes",
            "side": "the image's side",
            "box": "the root of the area of the box around the points",
        }
        return words.get(name, f"the distance of {' and '.join(name.split(','))}")

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """One object a number."""
        Path(path).write_text(json.dumps([asdict(row) for row in self.rows], indent=1) + "\n")


@torch.no_grad()
def detect_all(
    model: LandmarkAutoencoder, data: ImageData, samples: npt.NDArray[np.int64], views: int = 1
) -> Array:
    """(n, K, 2) landmarks of some images of a data set."""
    device = model.device
    parts = [
        model.detect(gather(data, samples[i : i + BATCH]).to(device), views=views).coords.double().cpu()
        for i in range(0, len(samples), BATCH)
    ]
    return np.asarray(torch.cat(parts))


@contextmanager
def evaluating(model: LandmarkAutoencoder) -> Iterator[None]:
    """Evaluation mode, in float32, so that a number does not depend on the processor's instructions."""
    training, precision = model.training, model.precision
    model.eval()
    model.precision = "fp32"
    try:
        yield
    finally:
        model.train(training)
        model.precision = precision


def untrained_twin(model: LandmarkAutoencoder, data: ImageData, config: TrainConfig) -> LandmarkAutoencoder:
    """The same network before training: the weights that the run's seed gives, with batch statistics of the data."""
    random_state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    twin = LandmarkAutoencoder(config.model).to(model.device)
    torch.set_rng_state(random_state)
    train = data.train_indices()
    config = replace(config, batch_size=min(config.batch_size, len(train)))
    loader = BatchLoader(data, train, config.batch_size, config.seed)
    batches = range(config.log.statistics_batches)
    reestimate_batch_statistics(twin, (make_pair(twin, loader.batch(i), config, i).padded for i in batches))
    return twin


def default_normaliser(names: list[str]) -> str:
    """Inter-ocular where both eyes are annotated, the image's side elsewhere."""
    return "inter-ocular" if {"eye_left", "eye_right"} <= set(names) else "side"


def evaluate_model(
    model: LandmarkAutoencoder,
    data: ImageData,
    *,
    train_config: TrainConfig,
    normaliser: str | None = None,
    points: list[str] | None = None,
    views: int = 9,
    max_train: int | None = None,
) -> Evaluation:
    """Measure a model's landmarks against a data set's annotated points.

    Args:
        model: with batch statistics re-estimated, as checkpoints hold them.
        data: with points in its train and test splits.
        train_config: of the run; the untrained network comes from it.
        normaliser: see `reference_lengths`; default: `default_normaliser`.
        points: names of the points to use (default: the first five where they are the five face points that all face sets
            share, else all).
        views: see `LandmarkAutoencoder.detect`.
        max_train: fit the regressions on at most this many training images, evenly spaced.

    Raises:
        ValueError: no annotated images in a split, unknown points or normaliser.
    """
    names = data.landmark_names
    if not names:
        raise ValueError("data has no annotated points: a landmarks.csv beside the pictures can name some")
    chosen = points or default_points(names)
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ValueError(f"points must be among {', '.join(names)}, got {', '.join(unknown)}")
    truth = np.asarray(data.landmarks[:, [names.index(name) for name in chosen]], np.float64)
    train, test = annotated_indices(data, chosen)
    if len(train) < 2 or not len(test):
        raise ValueError(
            f"data must have annotated images in both splits, got {len(train)} in train and {len(test)} in test"
        )
    if max_train is not None and len(train) > max_train:
        train = train[np.linspace(0, len(train) - 1, max_train).astype(np.int64)]
    if len(train) < 2 or not len(test):
        raise ValueError(
            f"data must have annotated images in both splits, got {len(train)} in train and {len(test)} in test"
        )
    unit = normaliser or default_normaliser(names)
    lengths = reference_lengths(np.asarray(data.landmarks[test], np.float64), names, unit)
    rows = []

    def add(method: str, protocol: str, intercept: bool, predicted: Array, landmarks: int) -> None:
        errors = point_errors(predicted, truth[test], lengths)
        if not np.isfinite(errors).any():
            raise ValueError(
                f"normaliser {unit!r} is 0 or not annotated on all of the {len(test)} test images"
            )
        count, error = int(np.isfinite(errors).sum()), 100 * float(np.nanmean(errors))
        rows.append(Row(method, protocol, intercept, unit, len(train), count, landmarks, error))

    twin = untrained_twin(model, data, train_config)
    for method, network, count in (
        ("landmarks", model, views),
        *((("landmarks", model, 1),) if views > 1 else ()),
        ("untrained network", twin, views),
    ):
        with evaluating(network):
            train_x, test_x = (detect_all(network, data, s, count).reshape(len(s), -1) for s in (train, test))
        for intercept in (False, True):
            predicted, ridged = regress(train_x, truth[train], test_x, intercept=intercept)
            protocol = PROTOCOL + ("-ridge" if ridged else "") + (f"-{count}views" if count > 1 else "")
            add(method, protocol, intercept, predicted, model.config.landmarks)
    add("mean shape", "mean-shape", True, mean_shape(truth[train], len(test)), 0)
    pixels = [grey_pixels(data.images[samples]) for samples in (train, test)]
    predicted, _ = regress(pixels[0], truth[train], pixels[1], intercept=True, ridge=True)
    add("grey pixels", "ridge-32x32", True, predicted, 0)
    split = "the data's own split" if len(data.indices("test")) else "a split by content"
    crop = {"crop": "largest centred square", "squeeze": "squeezed to a square", "pad": "padded to a square"}
    return Evaluation(
        tuple(rows),
        tuple(chosen),
        split,
        f"{crop[data.fit]}, {data.image_size} x {data.image_size} pixels",
        views,
    )


def annotated_indices(
    data: ImageData, points: list[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Images of the train and of the test split that have at least one of the points."""
    truth = data.landmarks[:, [data.landmark_names.index(name) for name in points]]
    annotated = np.asarray(np.isfinite(truth).all(-1).any(-1))
    train, test = data.train_indices(), data.test_indices()
    return train[annotated[train]], test[annotated[test]]


def default_points(names: list[str]) -> list[str]:
    """The five points that face sets share, where a set begins with them; all of its points elsewhere."""
    five = ["eye_left", "eye_right", "nose", "mouth_left", "mouth_right"]
    return five if names[:5] == five else list(names)
