"""Curves of a run's metrics as SVG text, without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

COLOURS = ("#222222", "#1f77b4", "#d62728", "#2ca02c", "#9467bd")


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Running mean over `window` neighbours, shorter at the ends."""
    array = np.asarray(values, np.float64)
    total = np.concatenate([[0.0], np.cumsum(array)])
    index = np.arange(len(array))
    low, high = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(array))
    return [float(v) for v in (total[high] - total[low]) / (high - low)]


def draw_curves(
    metrics: Sequence[dict[str, Any]], names: Sequence[str], title: str, *, logarithmic: bool = True
) -> str:
    """An SVG element with one curve per name over images seen."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.0), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    images = [line["images"] for line in metrics]
    window = max(1, len(metrics) // 40)
    for colour, name in zip(COLOURS, names, strict=False):
        values = [float(line[name]) for line in metrics]
        axes.plot(images, values, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(images, smooth(values, window), color=colour, linewidth=1.5, label=name.replace("_", " "))
    if logarithmic:
        axes.set_yscale("log")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("images seen", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if len(names) > 1:
        axes.legend(fontsize=8, frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
