"""The plot of how a model learned: loss, and the watched figure on the validation days, epoch by epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from millrace.lake.manifest import Manifest
from millrace.report.page import COLOURS, figure

TRAINING_CURVE: Final = "training_curve.json"
WATCHED: Final = {"average_precision": "average precision", "mean_absolute_error": "MAE"}
"""Figures that training may stop by, and what they are called."""

Curve = Sequence[Mapping[str, float]]


def read_curve(model: Manifest) -> Curve:
    """The points that training left with the model; none where it left none."""
    points: Any = (
        json.loads(model.path(TRAINING_CURVE).read_text(encoding="utf-8")) if TRAINING_CURVE in model.files else []
    )
    return list(points)


def training_plot(history: Curve) -> tuple[Figure, str]:
    """The loss, and beside it the figure that training stops by, where the curve has one."""
    watched = next((name for name in WATCHED if all(name in point for point in history)), None)
    epochs = [point["epoch"] for point in history]
    losses = [point["loss"] for point in history]
    if watched is None:
        plot, axes = figure("Training", "epoch", "loss")
        axes.plot(epochs, losses, color=COLOURS[1], lw=1.2)
        return plot, f"Training loss.{speed(history)}"

    plot, axes = figure("Training", "epoch", WATCHED[watched])
    axes.plot(epochs, [point[watched] for point in history], color=COLOURS[0], marker="o", ms=3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    loss = axes.twinx()
    loss.plot(epochs, losses, color=COLOURS[1], lw=1.2)
    loss.tick_params(labelsize=7.5, colors=COLOURS[1], length=0, direction="in", pad=-22)
    for spine in loss.spines.values():
        spine.set_visible(False)
    caption = f"Blue: {WATCHED[watched]} on the validation days. Orange: training loss, its scale at the right."
    return plot, f"{caption}{speed(history)}"


def speed(history: Curve) -> str:
    """A sentence on how well the training used its machine; nothing for a curve that does not tell."""
    if not history or any("stall_share" not in point for point in history):
        return ""
    rows, stall = (float(np.median([point[name] for point in history])) for name in ("samples_per_s", "stall_share"))
    return f" {rows:,.0f} rows a second, {stall:.0%} of the time waiting for them."
