"""Every planted failure gets its sentence; healthy landmarks get none."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lmdis_fast.evaluation.health import CURES, check_health, measure_health
from lmdis_fast.ops import ThinPlateSpline
from lmdis_fast.pairs import Pair
from tests.models.micro import build, images, micro

Array = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """Arguments of `check_health`."""

    coords: Array
    mapped: Array
    still: Array
    sigma: Array
    mass: Array


def healthy(count: int = 50) -> Measured:
    """Four landmarks that move with the object and lie apart."""
    rng = np.random.default_rng(0)
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
    coords = corners + 0.2 * rng.normal(size=(count, 1, 2))
    still = coords + 0.3 * rng.normal(size=coords.shape)
    mapped = coords + 0.02 * rng.normal(size=coords.shape)
    return Measured(coords, mapped, still, np.full((count, 4), 0.1), np.full((count, 4), 5.0))


def faults(measured: Measured) -> list[tuple[str, ...]]:
    return [h.faults for h in check_health(*measured).landmarks]


def test_healthy_landmarks() -> None:
    health = check_health(*healthy())
    assert health.messages == [] and health.images == 50
    assert all(h.faults == () and 0.85 < h.follow < 1 for h in health.landmarks)
    first = health.landmarks[0]
    assert first.nearest in (1, 2) and first.distance == pytest.approx(0.5)
    assert (first.mass, first.spread) == pytest.approx((5.0, 0.05))
    assert first.variation == pytest.approx(0.1 * np.sqrt(2), rel=0.2)


def test_coincident_landmarks() -> None:
    measured = healthy()
    for array in (measured.coords, measured.mapped, measured.still):
        array[:, 2] = array[:, 0] + 0.01
    assert faults(measured) == [("together",), (), ("together",), ()]
    (message,) = check_health(*measured).messages
    assert message == f"Landmarks 0, 2 {CURES['together']}." and "--losses.separation" in message


def test_landmark_at_the_centre() -> None:
    measured = healthy()
    rng = np.random.default_rng(1)
    measured.coords[:, 1] = 0.02 * rng.normal(size=(50, 2))
    moved = 0.3 * rng.normal(size=(50, 2))
    measured.still[:, 1] = measured.coords[:, 1] + moved
    measured.mapped[:, 1] = measured.coords[:, 1]
    assert faults(measured) == [()] * 4  # it follows: a nose in the middle of every picture
    measured.mapped[:, 1] = measured.coords[:, 1] + 0.3 * moved
    assert faults(measured) == [(), ("centre",), (), ()]
    (message,) = check_health(*measured).messages
    assert message.startswith(
        "Landmark 1 sits at the image's centre whatever the image shows, its heatmap being flat"
    )
    assert "--model.detector.temperature" in message


def test_landmark_that_often_is_at_the_centre_but_moves() -> None:
    measured = healthy()
    rng = np.random.default_rng(1)
    measured.coords[:, 1] = 0.2 * rng.normal(size=(50, 2))
    measured.mapped[:, 1] = measured.coords[:, 1]
    assert faults(measured) == [()] * 4


def test_landmark_that_stands_still() -> None:
    measured = healthy()
    measured.mapped[:, 3] = measured.still[:, 3]
    health = check_health(*measured)
    assert faults(measured) == [(), (), (), ("still",)] and health.landmarks[3].follow == pytest.approx(0)
    (message,) = health.messages
    assert (
        message.startswith("Landmark 3 does not move with the object:") and "--losses.equivariance" in message
    )


def test_landmark_without_a_heatmap() -> None:
    measured = healthy()
    measured.mass[:, 0] = 0.1
    assert faults(measured) == [("background",), (), (), ()]
    (message,) = check_health(*measured).messages
    assert (
        message.startswith("Landmark 0 lost its heatmap to the background:")
        and "--losses.concentration" in message
    )


def test_several_faults_are_all_named() -> None:
    measured = healthy()
    measured.mass[:, 0] = 0.1
    measured.mapped[:, 3] = measured.still[:, 3]
    health = check_health(*measured)
    assert len(health.messages) == 2
    assert json.loads(json.dumps(health.to_dict()))["messages"] == health.messages


def test_one_landmark_alone() -> None:
    measured = Measured(*(array[:, :1] for array in healthy()))
    (only,) = check_health(*measured).landmarks
    assert only.nearest == 0 and only.faults == ()


def test_measuring_a_network() -> None:
    model = build(micro(padding=2)).eval()
    pictures = images(6)
    padded = model.pad(pictures)
    points = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.0, 0.3]]).expand(6, -1, -1)
    identity = ThinPlateSpline.fit(points, points)
    health = measure_health(model, [Pair(pictures, padded.repeat(2, 1, 1, 1), identity)] * 2)
    assert health.images == 12 and len(health.landmarks) == 3
    for landmark in health.landmarks:
        # Twins that are not warped: the landmarks agree with them.
        assert landmark.error < 1e-4
        assert 0 < landmark.mass < 20 * 20
    assert sum(landmark.mass for landmark in health.landmarks) < 20 * 20
