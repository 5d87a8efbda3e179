"""Published sizes, configuration errors, and every place where paper and code differ."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lmdis_fast.models import LandmarkAutoencoder, ModelConfig, check_model_config, model_preset
from lmdis_fast.models.decoder import DoublingBlock, SplatConv
from lmdis_fast.models.detector import Detector, isotropic_sigma
from lmdis_fast.ops import render_gaussians
from tests.models.micro import MICRO, build, images, micro


def on_meta(config: ModelConfig) -> LandmarkAutoencoder:
    """A network without storage, for its shapes."""
    with torch.device("meta"):
        return LandmarkAutoencoder(config)


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("landmarks", "detector", "decoder", "reduce", "expand"),
    [(10, 680_769, 14_367_561, 5_640, 5_696), (30, 686_589, 14_425_161, 15_880, 15_936)],
)
def test_published_parameter_counts_at_80(
    landmarks: int, detector: int, decoder: int, reduce: int, expand: int
) -> None:
    model = on_meta(model_preset("paper-80", landmarks=landmarks))
    assert model.features is not None
    assert count(model.detector) == detector
    assert count(model.features.hourglass) == 4_745_280
    assert count(model.features.reduce) == reduce
    assert count(model.decoder.expand) == expand
    assert count(model.decoder) - count(model.decoder.expand) == decoder


def test_published_parameter_count_at_128() -> None:
    assert count(on_meta(model_preset("paper-128", landmarks=16))) == 42_960_259


@pytest.mark.parametrize(
    ("preset", "landmarks", "image_size", "heatmap"),
    [("small-64", 10, 64, 32), ("paper-80", 5, 80, 96), ("paper-128", 3, 128, 96), ("small-64", 4, 32, 16)],
)
def test_shapes(preset: str, landmarks: int, image_size: int, heatmap: int) -> None:
    config = model_preset(preset, landmarks=landmarks, image_size=image_size)  # type: ignore[arg-type]
    assert config.image_size == image_size and config.landmarks == landmarks
    model = on_meta(config)
    assert model.features is not None
    padded = torch.empty(2, 3, config.padded_size, config.padded_size, device="meta")
    logits = model.detector(padded)
    assert logits.shape == (2, landmarks + 1, heatmap, heatmap)
    found = model.detector.locate(logits, config.padding_ratio)
    assert found.coords.shape == found.variance.shape == (2, landmarks, 2) and found.mass.shape == (
        2,
        landmarks,
    )
    features = model.features(padded, logits, found, config.padding_ratio)
    assert features.shape == (2, landmarks + 1, 8)
    assert model.decoder(found.coords, features).shape == (2, 3, image_size, image_size)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="preset must be one of small-64, paper-80, paper-128, got 'big'"):
        model_preset("big")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (micro(landmarks=0), "model.landmarks must be whole numbers of at least 1, got 0"),
        (micro(padding=-1), "model.padding must be at least 0, got -1"),
        (micro(detector={"temperature": 0.0}), "model.detector.temperature must be positive, got 0.0"),
        (micro(detector={"temperature": math.nan}), "model.detector.temperature must be positive, got nan"),
        (micro(features={"descriptor": -1}), "model.features.descriptor must be at least 0, got -1"),
        (micro(decoder={"sigmas": ()}), r"model.decoder.sigmas must be positive numbers, got \(\)"),
        (
            micro(decoder={"sigmas": (0.1, 0.0)}),
            r"model.decoder.sigmas must be positive numbers, got \(0.1, 0.0\)",
        ),
        (micro(padding=1, image_size=17), r"divisible by 2 \(model.detector\), got 17 \+ 2\*1 = 19"),
        (micro(detector={"stem": "stride"}, image_size=18), r"divisible by 4 \(model.detector\), got 18"),
        (
            micro(decoder={"resolution": 7}, image_size=14),
            "model.decoder.resolution must be divisible by 2, got 7",
        ),
        (micro(image_size=20), "resolution times 2 must equal model.image_size, got 8 and 20"),
        (micro(decoder={"upsample": "none"}), "resolution times 1 must equal model.image_size, got 8 and 16"),
    ],
)
def test_configuration_errors(config: ModelConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_model_config(config)
    with pytest.raises(ValueError, match=message):
        LandmarkAutoencoder(config)


def test_feature_network_divides_too() -> None:
    two_levels = replace(MICRO.features.hourglass, levels=MICRO.features.hourglass.levels * 3)
    with pytest.raises(ValueError, match=r"divisible by 8 \(model.features\), got 16 \+ 2\*2 = 20"):
        check_model_config(micro(features={"hourglass": two_levels}, padding=2))


@pytest.mark.parametrize("size", [8, 5])
def test_folded_first_convolution_equals_the_splatted_one(size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    channels, features, outputs, sigmas, gains = 4, 6, 5, [0.25, 0.5], [0.7, 0.2]
    layer = SplatConv(channels, len(sigmas), features, outputs).double()
    assert layer.conv.bias is not None
    nn.init.normal_(layer.conv.bias, generator=generator)
    coords = (
        2 * torch.rand(3, channels - 1, 2, generator=generator, dtype=torch.float64) - 1
    ).requires_grad_()
    vectors = torch.randn(3, channels, features, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(3, outputs, size, size, generator=generator, dtype=torch.float64)
    inputs = (coords, vectors, layer.conv.weight, layer.conv.bias)
    splatted = layer.spread(coords, vectors, size, sigmas, gains)
    maps = render_gaussians(
        coords, (size, size), sigma=sigmas, gain=gains, background=1.0, normalize="channels"
    )
    folded = layer.fold(maps, vectors)
    torch.testing.assert_close(folded, splatted, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad((splatted * weight).sum(), inputs)
    for got, want in zip(torch.autograd.grad((folded * weight).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
        assert want.abs().max() > 1e-3


def test_fold_first_does_not_change_the_decoder() -> None:
    folding, splatting = build(micro()), build(micro(decoder={"fold_first": False}))
    code = folding.eval().encode(images())
    torch.testing.assert_close(folding.decode(code), splatting.eval().decode(code), rtol=1e-4, atol=1e-5)


def test_padding_is_the_mean_of_the_border_lines() -> None:
    model = build(micro(padding=4))
    picture = torch.zeros(1, 3, 16, 16)
    picture[0, 0, 0] = 1.0  # the top line of red
    picture[0, 1, :, 15] = 0.5  # the right line of green
    picture[0, 2, 8, 8] = 1.0  # nothing on blue's border
    padded = model.pad(picture)
    assert padded.shape == (1, 3, 24, 24) and padded.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(padded[..., 4:20, 4:20], picture)
    # One whole line, and one pixel of each of the two lines that meet it.
    red, green = (1 + 2 / 16) / 4, 0.5 * (1 + 2 / 16) / 4
    for corner in (padded[0, :, 0, 0], padded[0, :, 23, 12], padded[0, :, 12, 3], padded[0, :, 4, 20]):
        torch.testing.assert_close(corner, torch.tensor([red, green, 0.0]))


def test_padding_with_the_nearest_pixel() -> None:
    model = build(micro(padding=4, padding_value="edge"))
    picture = images(1)
    padded = model.pad(picture)
    assert torch.equal(padded[..., 4:20, 4:20], picture)
    assert torch.equal(padded[..., 0, 10], picture[..., 0, 6]) and torch.equal(
        padded[..., 23, 23], picture[..., 15, 15]
    )


def test_landmarks_are_in_the_unpadded_frame() -> None:
    config = model_preset("paper-80", landmarks=2)
    detector = Detector(config.detector, 2)
    logits = torch.zeros(1, 3, 96, 96)
    logits[:, 2] = 60.0  # background everywhere but at one pixel of each landmark
    logits[0, :, 8 + 30, 8 + 20] = torch.tensor([60.0, 0.0, 0.0])  # image pixel x 20, y 30
    logits[0, :, 95, 2] = torch.tensor([0.0, 60.0, 0.0])  # in the padding: image pixel x -6, y 87
    found = detector.locate(logits, config.padding_ratio)
    expected = torch.tensor([[[2 * 20 + 1, 2 * 30 + 1], [2 * -6 + 1, 2 * 87 + 1]]]) / 80 - 1
    torch.testing.assert_close(
        found.coords, expected, rtol=0, atol=1e-5
    )  # eps = 1e-6 beside a mass of one pixel
    torch.testing.assert_close(found.mass, torch.full((1, 2), 1 / 96**2))
    assert found.variance.max() < 1e-4


def test_variance_is_in_the_unpadded_frame() -> None:
    detector = Detector(model_preset("paper-80", landmarks=1).detector, 1)
    found = detector.locate(torch.zeros(1, 2, 96, 96), 1.2)
    torch.testing.assert_close(found.variance, torch.full((1, 1, 2), 1.44 * (1 - 96.0**-2) / 3))
    torch.testing.assert_close(found.mass, torch.full((1, 1), 0.5))


def test_temperature_divides_the_logits() -> None:
    logits = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cold, warm = (Detector(micro(detector={"temperature": t}).detector, 3) for t in (0.5, 1.0))
    torch.testing.assert_close(cold.locate(logits).coords, warm.locate(2 * logits).coords)


def test_isotropic_sigma() -> None:
    variance = torch.tensor([[0.04, 0.16]])
    torch.testing.assert_close(isotropic_sigma(variance, "mean_of_stds"), torch.tensor([0.3]))
    torch.testing.assert_close(isotropic_sigma(variance, "mean_of_variances"), torch.tensor([math.sqrt(0.1)]))
    collapsed = torch.zeros(1, 2, requires_grad=True)
    isotropic_sigma(collapsed, "mean_of_stds").sum().backward()
    assert collapsed.grad is not None and torch.isfinite(collapsed.grad).all()


def test_gains() -> None:
    sigma = 0.125
    code = build(micro(decoder={"sigmas": (sigma,), "gain_pixels": 6400})).decoder.gains()
    paper = build(micro(decoder={"sigmas": (sigma,), "gain": "paper"})).decoder.gains()
    assert code == pytest.approx([0.1018592], rel=1e-5)  # the published peak at 80 x 80
    assert build(micro(decoder={"sigmas": (sigma,), "gain_pixels": 4096})).decoder.gains() == pytest.approx(
        [0.1591549], rel=1e-5
    )
    assert paper == pytest.approx([1 / (2 * math.pi * sigma**2)])


OPTIONS: dict[str, ModelConfig] = {
    "stem_stride": micro(detector={"stem": "stride"}),
    "stem_pool": micro(detector={"stem": "pool"}),
    "stem_linear": micro(detector={"stem": "pool", "stem_linear": True}),
    "pointwise_head": micro(detector={"pointwise_head": True}),
    "no_logits_norm": micro(detector={"logits_norm": False}),
    "over_pixels": micro(detector={"over": "pixels"}),
    "over_marginals": micro(detector={"over": "marginals"}),
    "sigma_of_variances": micro(detector={"sigma": "mean_of_variances"}),
    "mask_gaussian": micro(features={"mask": "gaussian"}),
    "mask_gaussian_padded": micro(features={"mask": "gaussian"}, padding=2),
    "no_shared_bias": micro(features={"shared_bias": False}, decoder={"shared_bias": False}),
    "descriptor_0": micro(features={"descriptor": 0}),
    "gain_paper": micro(decoder={"gain": "paper"}),
    "activation": micro(decoder={"activation": True}),
    "splatted": micro(decoder={"fold_first": False}),
    "upsample_none": micro(decoder={"upsample": "none", "resolution": 16}),
    "upsample_transposed": micro(decoder={"upsample": "transposed"}),
    "no_output_norm": micro(decoder={"output_norm": False}),
    "padding_edge": micro(padding=2, padding_value="edge"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains(name: str) -> None:
    model = build(OPTIONS[name])
    output = model.forward_pair(model.pad(images(4)))
    assert output.images.shape == (2, 3, 16, 16) and output.images.min() > 0 and output.images.max() < 1
    loss = output.images.square().sum() + output.detection.coords.square().sum() + output.sigma.sum()
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("sigma_of_variances", "sigma"),
        ("over_pixels", "coords"),
        ("over_marginals", "coords"),
        ("mask_gaussian", "images"),
        ("gain_paper", "images"),
        ("activation", "images"),
        ("no_output_norm", "images"),
        ("no_logits_norm", "coords"),
    ],
)
def test_option_changes_the_result(name: str, what: str) -> None:
    padded = images(4)
    results = []
    for config in (MICRO, OPTIONS[name]):
        output = build(config).forward_pair(padded)
        results.append(
            {"sigma": output.sigma, "coords": output.detection.coords, "images": output.images}[what]
        )
    assert (results[0] - results[1]).abs().max() > 1e-4


def test_options_that_remove_parameters() -> None:
    def names(key: str) -> set[str]:
        return {name for name, _ in on_meta(OPTIONS[key]).named_parameters()}

    default = {name for name, _ in on_meta(MICRO).named_parameters()}
    assert default - names("no_shared_bias") == {"features.reduce.bias", "decoder.expand.bias"}
    assert names("stem_pool") - names("stem_linear") == {
        f"{network}.stem.block.1.{kind}"
        for network in ("detector", "features")
        for kind in ("weight", "bias")
    }
    assert not any(name.startswith(("features.", "decoder.expand")) for name in names("descriptor_0"))


def test_transposed_convolution_starts_at_twice_the_index() -> None:
    block = DoublingBlock(1, 1).eval()
    kernel = torch.arange(1.0, 10.0).view(3, 3)
    with torch.no_grad():
        block.conv.weight.copy_(kernel[None, None])
        for (row, column), kept in (((1, 2), 3), ((3, 3), 2)):
            x = torch.zeros(1, 1, 4, 4)
            x[0, 0, row, column] = math.sqrt(1 + block.norm.eps)
            expected = torch.zeros(8, 8)
            expected[2 * row : 2 * row + 3, 2 * column : 2 * column + 3] = kernel[:kept, :kept]
            torch.testing.assert_close(block(x)[0, 0], expected)
