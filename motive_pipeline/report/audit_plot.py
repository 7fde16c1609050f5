"""The audit's plot: the score of each variant and control with its interval, as far as something was trained."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from motive_pipeline.report.audit_section import estimator_label
from motive_pipeline.report.plots import WIDTH_IN, Palette


def scores_figure(palette: Palette, *, scores: pd.DataFrame, variants: tuple[str, ...]) -> Figure:
    """A dot with its 95 % interval for each row of ``scores``, variants in the accent colour."""
    figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.34 * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(scores.to_dict("records")):
        colour = palette.accent if row["variant"] in variants else palette.other
        axes.plot([row["ci_low"], row["ci_high"]], [place, place], color=colour, linewidth=2)
        axes.plot([row["value"]], [place], marker="o", markersize=7, color=colour, linestyle="none")
    axes.axvline(0, color=palette.grid, linewidth=1)
    axes.set_yticks(range(len(scores)), [estimator_label(str(name)) for name in scores["variant"]], color=palette.ink)
    axes.invert_yaxis()
    axes.set_xlabel("linear datamodeling score (rank correlation, higher is better)", color=palette.ink)
    axes.tick_params(colors=palette.ink, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(axis="x", color=palette.grid, linewidth=0.6)
    return figure
