"""Gather what a run has left in its folder and put it on one page."""

from __future__ import annotations

import base64
import io
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from PIL import Image

from ..config import TrainConfig, to_toml
from ..data import ImageData, gather
from ..evaluation.health import HealthCheck
from ..evaluation.protocol import Evaluation, annotated_indices, default_points, evaluate_model
from ..models import LandmarkAutoencoder
from ..pictures import Picture, contact_sheet, draw_landmarks, landmark_colours, to_pictures
from ..run_log import duration, read_metrics
from .curves import draw_curves

FITTED = 2000
"""Training images to which the page's regressions are fitted, at most; `lmdis_fast.evaluate` takes all."""
SHOWN = 16
"""Held-out images on the page."""


def as_data_uri(picture: Picture) -> str:
    """A picture as a PNG that stands in the page itself."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@torch.no_grad()
def held_out_sheet(model: LandmarkAutoencoder, data: ImageData) -> Picture:
    """Held-out images with landmarks, above their reconstructions."""
    held_out = data.test_indices() if len(data.test_indices()) else data.train_indices()
    samples = held_out[np.unique(np.linspace(0, len(held_out) - 1, SHOWN).astype(np.int64))]
    images = gather(data, samples).to(model.device)
    code = model.encode(images)
    coords = np.asarray(code.coords.cpu())
    rebuilt = to_pictures(model.decode(code))
    none = np.zeros((0, 2), np.float32)
    marked = [
        draw_landmarks(p, c, side=144) for p, c in zip(to_pictures(images.float() / 255), coords, strict=True)
    ]
    shown = [draw_landmarks(p, none, side=144) for p in rebuilt]
    half = -(-len(samples) // 2)
    rows = [marked[:half], shown[:half], marked[half:], shown[half:]]
    return contact_sheet([row for row in rows if row])


def final_evaluation(model: LandmarkAutoencoder, data: ImageData, config: TrainConfig) -> Evaluation | None:
    """Errors against annotated points, where the data set has any in both of its splits."""
    train, test = annotated_indices(data, default_points(data.landmark_names))
    if len(train) < 2 or not len(test):
        return None
    return evaluate_model(model, data, train_config=config, max_train=FITTED)


def environment(model: LandmarkAutoencoder) -> str:
    """What the run ran on, in one line."""
    device = model.device
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else (platform.processor() or platform.machine())
    )
    return (
        f"torch {torch.__version__}, Python {platform.python_version()}, {name}, {torch.get_num_threads()} threads, "
        f"{model.precision}"
    )


def write_report(
    folder: Path,
    config: TrainConfig,
    model: LandmarkAutoencoder,
    data: ImageData,
    health: HealthCheck,
    command: str,
) -> Path:
    """Write report.html (and evaluation.json, where there is something to evaluate) into a run's folder.

    Args:
        folder: of the run.
        config, model, data: of the run; the model in evaluation mode.
        health: of the landmarks.
        command: what was typed to start the run.

    Returns:
        The page's path.
    """
    model.eval()
    metrics = read_metrics(folder)
    evaluation = final_evaluation(model, data, config)
    if evaluation is not None:
        evaluation.write_json(folder / "evaluation.json")
    progress = sorted((folder / "pictures").glob("step-*.png"))
    chosen = (
        [progress[i] for i in np.unique(np.linspace(0, len(progress) - 1, 4).astype(int))] if progress else []
    )
    colours = ["#{:02x}{:02x}{:02x}".format(*c) for c in landmark_colours(config.landmarks)]
    seconds = (
        sum(
            (b["images"] - a["images"]) / b["images_per_second"]
            for a, b in zip([{"images": 0}, *metrics[:-1]], metrics, strict=True)
        )
        if metrics
        else 0.0
    )
    values: dict[str, Any] = {
        "title": folder.name,
        "command": command,
        "summary": data.summary(),
        "sources": ", ".join(config.data),
        "environment": environment(model),
        "images_seen": metrics[-1]["images"] if metrics else 0,
        "duration": duration(seconds),
        "speed": f"{float(np.median([m['images_per_second'] for m in metrics])):.0f}" if metrics else "-",
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million",
        "sheet": as_data_uri(held_out_sheet(model, data)),
        "progress": [
            (p.stem.removeprefix("step-").lstrip("0") or "0", as_data_uri(np.asarray(Image.open(p))))
            for p in chosen
        ],
        "curves": [
            draw_curves(
                metrics, ["reconstruction", "concentration", "separation", "equivariance"], "weighted losses"
            ),
            draw_curves(metrics, ["equivariance_px"], "distance from the warped twin's landmark, pixels"),
            draw_curves(metrics, ["images_per_second"], "images per second", logarithmic=False),
        ]
        if len(metrics) > 1
        else [],
        "health": health,
        "colours": colours,
        "evaluation": evaluation,
        "skipped": data.skipped[:50],
        "skipped_count": len(data.skipped),
        "config": to_toml(replace(config, resume="auto")),
    }
    loader = jinja2.PackageLoader("lmdis_fast.report", "")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page.filters["percent"] = lambda value, digits=1: f"{100 * value:.{digits}f}"
    text = page.get_template("report.html.j2").render(values)
    path = folder / "report.html"
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path
