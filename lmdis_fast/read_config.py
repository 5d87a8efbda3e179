"""A training run's configuration from the command line, from TOML files and from checkpoints.

The order of precedence: preset, then `--config FILE.toml`, then the command line. Keys that do not exist are errors.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from .config import TrainConfig, check_config, preset_config
from .models.config import Preset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`: what a checkpoint's header or a TOML table says, over the preset's values."""
    size = values.get("image_size")
    base = preset_config(
        values.get("preset", "small-64"), landmarks=values.get("landmarks", 10), image_size=size
    )
    return check_config(_merge(replace(base, images=None), values, ""))


def _load_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            values: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--config {path}: {error}") from None
    return values


def _merge(default: Any, values: dict[str, Any], where: str) -> Any:
    """`default` with the values of a nested dictionary; ValueError for keys and types that do not fit."""
    fields = get_type_hints(type(default))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{where}{key} is not an option{hint}")
        changes[name] = _convert(fields[name], getattr(default, name), value, f"{where}{key}")
    return replace(default, **changes)


def _convert(hint: Any, default: Any, value: Any, where: str) -> Any:
    """A value of a TOML file as the type that a field is declared with."""
    kind, inner = get_origin(hint), get_args(hint)
    if type(None) in inner:
        return _convert(next(h for h in inner if h is not type(None)), default, value, where)
    if kind is Literal:
        if value not in inner:
            raise ValueError(f"{where} must be one of {', '.join(inner)}, got {value!r}")
        return value
    if kind is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {value!r}")
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise ValueError(f"{where} must have {len(inner)} values, got {len(value)}")
        first = default[0] if default else None
        return tuple(_convert(inner[0], first, v, f"{where}[{i}]") for i, v in enumerate(value))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a table, got {value!r}")
        return _merge(default, value, f"{where}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value


def _option(argv: Sequence[str], name: str) -> str | None:
    """The last value of --name in argv, in either spelling, without parsing the rest."""
    found = None
    for i, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag.replace("_", "-") == f"--{name}":
            found = value if "=" in word else (argv[i + 1] if i + 1 < len(argv) else None)
    return found


def parse_config(argv: Sequence[str]) -> TrainConfig:
    """The configuration of a command line, complete and checked.

    Raises:
        ValueError: a value, a TOML file or a TOML key is wrong. Wrong options end in tyro's own message and SystemExit.
    """
    argv = list(argv)
    path = _option(argv, "config")
    toml = _load_toml(path) if path is not None else {}
    if path is not None:
        argv = [
            w
            for i, w in enumerate(argv)
            if not (w == "--config" or w.startswith("--config=")) and not (i and argv[i - 1] == "--config")
        ]

    def early(name: str, default: Any) -> Any:
        key = name.replace("-", "_")
        given = _option(argv, name)
        return given if given is not None else toml.get(key, toml.get(name, default))

    preset = early("preset", "small-64")
    if preset not in get_args(Preset):
        raise ValueError(f"--preset must be one of {', '.join(get_args(Preset))}, got {preset!r}")
    sizes: dict[str, int | None] = {}
    for name in ("landmarks", "image-size"):
        value = early(name, None)
        try:
            sizes[name] = None if value is None else int(value)
        except (TypeError, ValueError):
            raise ValueError(f"--{name} must be a whole number, got {value!r}") from None
    landmarks = 10 if sizes["landmarks"] is None else sizes["landmarks"]
    config = preset_config(preset, landmarks=landmarks, image_size=sizes["image-size"])
    config = _merge(config, toml, f"--config {path}: ")
    lengths = ("images", "steps", "minutes")
    for place, given in (
        ("", [n for n in lengths if _option(argv, n) is not None]),
        (f" in {path}", [n for n in lengths if n in toml]),
    ):
        if len(given) > 1:
            raise ValueError(
                f"give one of --images, --steps and --minutes{place}, got --{' and --'.join(given)}"
            )
    if any(_option(argv, name) is not None for name in lengths):
        config = replace(
            config, images=None, steps=None, minutes=None
        )  # the command line's own length stands alone
    if _option(argv, "data") is not None:
        config = replace(config, data=())
    parsed = tyro.cli(
        TrainConfig,
        prog="python -m lmdis_fast.train",
        description=(
            "Train a landmark detector and autoencoder without labels. With no arguments: the small-64 model on the "
            "built-in puppets.\n\n--config FILE.toml reads options from a file (the command line wins); --print-config "
            "prints the resolved configuration in that form and ends."
        ),
        default=config,
        args=argv,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )
    return check_config(parsed)
