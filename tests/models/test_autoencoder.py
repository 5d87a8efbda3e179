"""The joined network: what users call, what they get told, and batch statistics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lmdis_fast.models import (
    LandmarkAutoencoder,
    LandmarkCode,
    model_preset,
    reestimate_batch_statistics,
)
from tests.models.micro import build, images, micro


@pytest.fixture(scope="module")
def model() -> LandmarkAutoencoder:
    return build(micro(padding=2)).eval()


def test_shapes(model: LandmarkAutoencoder) -> None:
    pictures = images(3)
    found = model.detect(pictures)
    assert found.coords.shape == found.variance.shape == (3, 3, 2) and found.mass.shape == (3, 3)
    assert all(t.dtype == torch.float32 for t in found)
    code = model.encode(pictures)
    assert code.features.shape == (3, 4, 4) and torch.equal(code.coords, found.coords)
    rebuilt = model.decode(code)
    assert rebuilt.shape == (3, 3, 16, 16) and rebuilt.min() >= 0 and rebuilt.max() <= 1
    assert torch.equal(model(pictures), rebuilt)


def test_no_images(model: LandmarkAutoencoder) -> None:
    assert model.detect(torch.zeros(0, 3, 16, 16)).coords.shape == (0, 3, 2)


def test_images_do_not_see_each_other(model: LandmarkAutoencoder) -> None:
    pictures = images(3)
    torch.testing.assert_close(model.detect(pictures[1:2]).coords, model.detect(pictures).coords[1:2])


def test_bytes_are_255ths(model: LandmarkAutoencoder) -> None:
    pictures = (255 * images()).to(torch.uint8)
    assert torch.equal(model.detect(pictures).coords, model.detect(pictures.float() / 255).coords)
    torch.testing.assert_close(model.detect(pictures.double() / 255).coords, model.detect(pictures).coords)


@pytest.mark.parametrize("call", ["detect", "encode"])
@pytest.mark.parametrize(
    ("pictures", "error", "message"),
    [
        ([[0.0]], TypeError, "images must be a torch.Tensor, got list"),
        (torch.zeros(3, 16, 16), ValueError, r"images must be \(N, 3, 16, 16\), got \(3, 16, 16\)"),
        (torch.zeros(1, 1, 16, 16), ValueError, r"images must be \(N, 3, 16, 16\), got \(1, 1, 16, 16\)"),
        (torch.zeros(1, 3, 16, 18), ValueError, r"images must be \(N, 3, 16, 16\), got \(1, 3, 16, 18\)"),
        (
            torch.zeros(1, 3, 16, 16, dtype=torch.int64),
            TypeError,
            "images must be uint8 or floating point in .*, got torch.int64",
        ),
        (
            torch.zeros(1, 3, 16, 16, device="meta"),
            ValueError,
            "images must be on cpu like the model, got meta",
        ),
        (torch.full((1, 3, 16, 16), math.nan), ValueError, "images must be finite, got NaN or infinity"),
    ],
)
def test_wrong_images(
    model: LandmarkAutoencoder, call: str, pictures: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"{call}: {message}"):
        getattr(model, call)(pictures)


@pytest.mark.parametrize(
    ("coords", "features", "error", "message"),
    [
        (
            torch.zeros(1, 4, 2),
            torch.zeros(1, 4, 4),
            ValueError,
            r"code.coords must be \(N, 3, 2\), got \(1, 4, 2\)",
        ),
        (
            torch.zeros(3, 2),
            torch.zeros(1, 4, 4),
            ValueError,
            r"code.coords must be \(N, 3, 2\), got \(3, 2\)",
        ),
        (
            torch.zeros(2, 3, 2),
            torch.zeros(1, 4, 4),
            ValueError,
            r"code.features must be \(2, 4, 4\), got \(1, 4, 4\)",
        ),
        (torch.zeros(1, 3, 2).int(), torch.zeros(1, 4, 4), TypeError, "code.coords must be floating point"),
        (torch.zeros(1, 3, 2), torch.full((1, 4, 4), math.inf), ValueError, "code.features must be finite"),
        (torch.full((1, 3, 2), math.nan), torch.zeros(1, 4, 4), ValueError, "code.coords must be finite"),
    ],
)
def test_wrong_codes(
    model: LandmarkAutoencoder, coords: Tensor, features: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"decode: {message}"):
        model.decode(LandmarkCode(coords, features))


@pytest.mark.parametrize("seed", [0, 1])
def test_moving_a_landmark_changes_the_image_near_it(seed: int) -> None:
    network = build(model_preset("small-64", landmarks=3), seed).eval()
    features = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed))
    before = torch.tensor([[[-0.7, 0.0], [0.6, 0.5], [0.6, -0.5]]])
    after = before.clone()
    after[0, 0, 1] += 0.3
    with torch.no_grad():
        change = (
            network.decode(LandmarkCode(after, features)) - network.decode(LandmarkCode(before, features))
        ).abs()
    assert change[..., :21].mean() > 5 * change[..., 43:].mean() > 0


def test_reestimated_statistics_are_exact_averages() -> None:
    network = build(micro(padding=2))
    batches = [network.pad(images(4, seed=seed) * (1 + seed)) for seed in range(3)]
    network(images())  # something for the running statistics to forget
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in norms}
    hooks = [
        norm.register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append((args[0].mean((0, 2, 3)), args[0].var((0, 2, 3))))
        )
        for name, norm in norms.items()
    ]
    network.eval()
    reestimate_batch_statistics(network, batches)
    assert not network.training
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        assert len(seen[name]) == 3 and norm.momentum == 0.1, name
        mean, var = (torch.stack(parts).mean(0) for parts in zip(*seen[name], strict=True))
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-4, atol=1e-6, msg=name)


def test_gradients_reach_every_parameter() -> None:
    network = build(micro(padding=2))
    output = network.forward_pair(network.pad(images(4)))
    weight = torch.randn(output.images.shape, generator=torch.Generator().manual_seed(5))
    ((output.images * weight).sum() + output.detection.coords.square().sum() + output.sigma.sum()).backward()
    followed_by_norm = {
        f"{name}.0.bias"
        for name, module in network.named_modules()
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d)
    } | {"decoder.first.conv.bias"}
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (name not in followed_by_norm), name
        assert not parameter.requires_grad or parameter.grad.abs().max() > 1e-6, name


def test_features_may_come_from_the_warped_twin() -> None:
    network = build()
    pictures = images(4)
    own = network.forward_pair(pictures)
    twins = network.forward_pair(pictures, appearance_from="warped")
    assert torch.equal(own.detection.coords, twins.detection.coords) and not torch.equal(
        own.images, twins.images
    )
    same = torch.cat([pictures[:2], pictures[:2]])
    torch.testing.assert_close(
        network.forward_pair(same).images, network.forward_pair(same, appearance_from="warped").images
    )


def test_landmarks_are_float32_under_bf16() -> None:
    network = build().eval()
    network.precision = "bf16"
    code = network.encode(images())
    assert code.coords.dtype == torch.float32 and code.features.dtype == torch.float32
    assert network.decode(code).dtype == torch.float32


def test_nine_views_are_the_mean_over_shifted_images(model: LandmarkAutoencoder) -> None:
    size = model.config.image_size
    pictures = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    bordered = torch.nn.functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    expected = torch.zeros(2, model.config.landmarks, 2)
    with torch.no_grad():
        for y in range(3):
            for x in range(3):
                coords = model.detect(bordered[..., y : y + size, x : x + size]).coords
                expected += coords + torch.tensor([x - 1, y - 1]) * (2 / size)
        torch.testing.assert_close(model.detect(pictures, views=9).coords, expected / 9)
    with pytest.raises(ValueError, match="views must be 1 or 9, got 3"):
        model.detect(pictures, views=3)
