"""Presets, TOML files and the command line, in this order of precedence; and what is said where they are wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmdis_fast import train
from lmdis_fast.config import (
    TrainConfig,
    check_config,
    differences,
    preset_config,
    to_dict,
    to_toml,
)
from lmdis_fast.read_config import config_from_dict, parse_config


def written(folder: Path, text: str) -> str:
    """A TOML file's path."""
    path = folder / "run.toml"
    path.write_text(text)
    return str(path)


def test_defaults() -> None:
    config = parse_config([])
    assert config.data == ("puppets",) and config.preset == "small-64" and config.images == 27_000
    assert config.total_steps == 1688 and config.out == str(Path("runs/puppets-small-64-10"))


def test_precedence(tmp_path: Path) -> None:
    toml = written(
        tmp_path,
        'preset = "paper-80"\nseed = 5\nbatch_size = 6\n[losses]\nconcentration = 7\nequivariance = 8.0\n',
    )
    config = parse_config(["--config", toml, "--seed", "9", "--losses.equivariance", "1.5"])
    assert config.preset == "paper-80" and config.model.detector.stem == "none"
    assert (config.seed, config.batch_size) == (9, 6)
    assert (config.losses.concentration, config.losses.equivariance) == (7.0, 1.5)
    assert (
        config.losses.separation == (20.0, 20.0) and config.optimizer.schedule == "step"
    )  # the preset's own
    assert parse_config([f"--config={toml}", "--preset", "small-64"]).model.detector.stem == "stride"


def test_landmarks_and_size_reach_the_model(tmp_path: Path) -> None:
    for config in (
        parse_config(["--landmarks", "7", "--image-size", "32"]),
        parse_config(["--landmarks=7", "--image_size=32"]),
        parse_config(["--config", written(tmp_path, "landmarks = 7\nimage-size = 32\n")]),
    ):
        assert (config.model.landmarks, config.model.image_size, config.model.decoder.resolution) == (
            7,
            32,
            16,
        )
    assert parse_config(["--preset", "paper-80", "--landmarks", "30"]).batch_size == 8


def test_presets() -> None:
    published = preset_config("paper-80")
    assert published.total_steps == 225_000 and published.optimizer.betas == (0.9, 0.999)
    assert (
        published.model.padding == 8
        and published.warp.kernel_gain == 0.5
        and not published.optimizer.decoupled
    )
    assert preset_config("paper-128", landmarks=16).model.padded_size == 192


def test_several_data_sets(tmp_path: Path) -> None:
    assert parse_config(["--data", "a", "--data", "b.tar"]).data == ("a", "b.tar")
    toml = written(tmp_path, 'data = ["c", "d"]\n')
    assert parse_config(["--config", toml]).data == ("c", "d")
    assert parse_config(["--config", toml, "--data", "e"]).data == ("e",)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--images", "100"], (100, None, None)),
        (["--steps", "50"], (None, 50, None)),
        (["--minutes", "1.5"], (None, None, 1.5)),
    ],
)
def test_length(arguments: list[str], expected: tuple[object, ...], tmp_path: Path) -> None:
    for more in (
        [],
        ["--config", written(tmp_path, "images = 7\n")],
        ["--config", written(tmp_path, "steps = 7\n")],
    ):
        config = parse_config([*more, *arguments])
        assert (config.images, config.steps, config.minutes) == expected


def test_length_from_a_file(tmp_path: Path) -> None:
    assert parse_config(["--config", written(tmp_path, "steps = 7\n")]).total_steps == 7
    assert parse_config(["--config", written(tmp_path, "minutes = 2\n")]).total_steps is None
    assert parse_config(["--images", "33", "--batch-size", "16"]).total_steps == 3


@pytest.mark.parametrize(
    "pair",
    [("--steps", "--minutes"), ("--images", "--steps"), ("--images", "--minutes"), ("--minutes", "--images")],
)
def test_two_lengths(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="give one of --images, --steps and --minutes"):
        parse_config([pair[0], "5", pair[1], "5"])


def test_two_lengths_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"in .*run\.toml, got --images and --steps"):
        parse_config(["--config", written(tmp_path, "images = 5\nsteps = 5\n")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede = 1\n", "sede is not an option; did you mean seed?"),
        (
            "[losses]\nconcentraton = 1\n",
            r"losses.concentraton is not an option; did you mean concentration\?",
        ),
        ("[model.detector]\nxyz = 1\n", "model.detector.xyz is not an option$"),
        ('seed = "one"\n', "seed must be of type int, got 'one'"),
        ("seed = true\n", "seed must be of type int, got True"),
        ("seed = 1.5\n", "seed must be of type int, got 1.5"),
        ("losses = 3\n", "losses must be a table, got 3"),
        ("[losses]\nreconstruction = 3\n", "losses.reconstruction must be a list, got 3"),
        (
            '[losses]\nreconstruction = [1, "x"]\n',
            r"losses.reconstruction\[1\] must be of type float, got 'x'",
        ),
        ("[optimizer]\ndecoupled = 1\n", "optimizer.decoupled must be of type bool, got 1"),
        ("seed = \n", "run.toml: Invalid value"),
        ('preset = "huge"\n', "preset must be one of small-64, paper-80, paper-128, got 'huge'"),
        ('landmarks = "many"\n', "landmarks must be a whole number, got 'many'"),
        ('data = "folder"\n', r"data must be a list, got 'folder'"),
    ],
)
def test_wrong_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(["--config", written(tmp_path, text)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('precision = "fp8"\n', "precision must be one of auto, fp32, bf16, got 'fp8'"),
        (
            '[model.detector]\nover = "rows"\n',
            "model.detector.over must be one of channels, pixels, marginals",
        ),
        ("[losses]\nreconstruction = [1, 2, 3]\n", "losses.reconstruction must have 2 values, got 3"),
        ('steps = "ten"\n', "steps must be of type int, got 'ten'"),
    ],
)
def test_values_that_only_the_type_forbids(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(["--config", written(tmp_path, text)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "no/such.toml"], "--config no/such.toml: No such file"),
        (["--preset", "huge"], "--preset must be one of"),
        (["--landmarks", "x"], "--landmarks must be a whole number, got 'x'"),
        (["--landmarks", "0"], "model.landmarks must be whole numbers of at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--images", "-3"], "--images must be positive, got -3"),
        (["--minutes", "0"], "--minutes must be positive, got 0"),
        (["--log.every-steps", "0"], "--log.every-steps must be at least 1, got 0"),
        (["--log.keep", "0"], "--log.keep must be at least 1, got 0"),
        (["--losses.separation", "0", "5"], "losses.separation must be positive"),
        (["--optimizer.lr", "0"], "optimizer.lr must be positive, got 0.0"),
    ],
)
def test_wrong_values(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(arguments)


@pytest.mark.parametrize(
    "arguments", [["--sede", "1"], ["--seed", "x"], ["--precision", "fp8"], ["--colour.contrast", "3"]]
)
def test_wrong_options_end_in_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(arguments)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert arguments[0].lstrip("-").split(".")[-1] in said.err + said.out


def test_misspelt_option_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--landmark", "1"])
    said = capsys.readouterr()
    assert "--landmarks" in said.err + said.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--preset", "paper-80", "--landmarks", "30", "--steps", "12"],
        ["--data", "a b", "--data", 'c"d', "--minutes", "3", "--losses.reconstruction", "1", "2"],
        [
            "--preset",
            "paper-128",
            "--cache",
            "x",
            "--log.tensorboard",
            "False",
            "--model.detector.over",
            "pixels",
        ],
    ],
)
def test_printed_configuration_reads_back(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments, "--print-config"]) == 0
    printed = capsys.readouterr().out
    config = parse_config(arguments)
    again = parse_config(["--config", written(tmp_path, printed)])
    assert again == config and again.identity() == config.identity() and to_toml(again) == printed
    assert config_from_dict(to_dict(config)) == config


def test_identity_is_about_numbers() -> None:
    config = parse_config([])
    same = dataclasses.replace(config, out="x", threads=3, device="cpu", cache="y", resume="none")
    assert same.identity() == config.identity() and differences(config, same) == []
    other = parse_config(["--seed", "1", "--losses.concentration", "3"])
    assert other.identity() != config.identity()
    assert differences(config, other) == [
        f"losses.concentration: {config.losses.concentration} -> 3.0",
        "seed: 0 -> 1",
    ]


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that is not a table itself."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        name = f"{where}{field.name}"
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{name}.")
        else:
            yield name, inner


def changed(name: str, value: Any) -> tuple[list[str], Any] | None:
    """Another value of an option, as words and as what they mean; None where the type alone does not say."""
    if isinstance(value, bool):
        return [str(not value)], not value
    if isinstance(value, (int, float)):
        other = value / 2 if isinstance(value, float) else 2 * value + 1
        return [str(other)], other
    if isinstance(value, tuple) and value and isinstance(value[0], float):
        other_values = tuple(v / 2 for v in value)
        return [str(v) for v in other_values], other_values
    return None


SIZES = {"landmarks", "image_size", "images"}
"""Reach other places as well, or decide the length: tested above."""


def test_every_field_is_an_option() -> None:
    """The help names every field, and numbers, pairs and switches arrive where they should."""
    words: list[str] = []
    expected: dict[str, Any] = {}
    for name, value in leaves(parse_config([])):
        other = changed(name, value)
        if other is None or name in SIZES or name.startswith("model."):
            continue
        words += ["--" + name.replace("_", "-"), *other[0]]
        expected[name] = other[1]
    assert len(expected) > 30
    arrived = dict(leaves(parse_config(words)))
    assert {name: arrived[name] for name in expected} == expected


def test_help_names_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    missing = [
        name
        for name, _ in leaves(TrainConfig())
        if "--" + name.replace("_", "-") not in said and ".levels" not in name
    ]
    assert missing == []


def test_model_options(tmp_path: Path) -> None:
    config = parse_config(
        [
            "--model.detector.over",
            "pixels",
            "--model.detector.temperature",
            "0.5",
            "--model.features.mask",
            "gaussian",
        ]
    )
    assert config.model.detector.over == "pixels" and config.model.detector.temperature == 0.5
    assert config.model.features.mask == "gaussian"
    levels = "[[model.features.hourglass.levels]]\nencoder = [8, 8]\nskip = 1\ndecoder = [8]\n"
    config = parse_config(["--config", written(tmp_path, levels)])
    (level,) = config.model.features.hourglass.levels
    assert level.encoder == (8, 8) and level.decoder == (8,)


def test_checking_fills_in() -> None:
    config = check_config(dataclasses.replace(TrainConfig(), images=10, data=("x/y.tar", "z")))
    assert config.out == str(Path("runs/y+z-small-64-10"))
    with pytest.raises(ValueError, match="give the length of the run"):
        check_config(TrainConfig())


def test_landmark_splines_need_enough_landmarks() -> None:
    config = parse_config(["--warp.landmark-share", "0.3"])
    assert config.warp.landmark_share == 0.3
    with pytest.raises(ValueError, match=r"warp\.landmark_share needs 3 to 49 landmarks"):
        parse_config(["--warp.landmark-share", "0.3", "--landmarks", "2"])
