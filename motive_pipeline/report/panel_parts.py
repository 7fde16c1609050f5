"""What the panels of the audit's figures share: rows of the table ``audit`` by column, rows of dots with intervals, and plain axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from motive_pipeline.report.plots import Palette, panel_grid
from motive_pipeline.report.tables import arm_name

ARM_PANEL_HEIGHT_IN = 2.05


def having(rows: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows with these values in these columns."""
    found = rows
    for column, value in wanted.items():
        found = pd.DataFrame(found[found[column] == value])
    return found


def starting(rows: pd.DataFrame, start: str) -> pd.DataFrame:
    """The rows whose ``parameter`` starts with ``start``."""
    is_wanted = np.array([str(parameter).startswith(start) for parameter in rows["parameter"]], bool)
    return pd.DataFrame(rows[is_wanted])


def draw_intervals(axes: Axes, palette: Palette, rows: pd.DataFrame, names: Sequence[str], is_main: Sequence[bool]) -> None:
    """A row with dot and interval for each of ``rows``, from the top."""
    axes.axvline(0, color=palette.grid, linewidth=1, zorder=1)
    for place, (row, is_strong) in enumerate(zip(rows.to_dict("records"), is_main, strict=True)):
        colour = palette.accent if is_strong else palette.other
        axes.hlines(place, row["ci_low"], row["ci_high"], color=colour, linewidth=2, zorder=2)
        axes.plot([row["value"]], [place], marker="o", markersize=6, color=colour, linestyle="none", zorder=3)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    set_plain(axes, palette, grid="x")


def draw_variants(axes: Axes, palette: Palette, rows: pd.DataFrame, names: Sequence[str], variants: Sequence[str]) -> None:
    """A row for each of ``names``: the main variant with its interval, the other variants as small hollow dots."""
    for row in rows.to_dict("records"):
        if row["name"] not in names:
            continue
        place = names.index(row["name"])
        if row["variant"] == variants[0]:
            axes.hlines(place, row["ci_low"], row["ci_high"], color=palette.accent, linewidth=2, zorder=3)
            axes.plot([row["value"]], [place], marker="o", markersize=6, color=palette.accent, linestyle="none", zorder=4)
        else:
            axes.plot(
                [row["value"]], [place], marker="o", markersize=4, color=palette.other, markerfacecolor="none", linestyle="none", zorder=2
            )
    axes.set_ylim(len(names) - 0.4, -0.6)
    set_plain(axes, palette, grid="x")


def panel_for_each_arm(palette: Palette, arms: Sequence[str], *, x: str, y: str) -> tuple[Figure, list[Axes]]:
    """A figure with an empty panel for each arm, all on the same axes, and the panels; ``x`` and ``y`` are the labels of the axes."""
    figure, axes = panel_grid(len(arms), ARM_PANEL_HEIGHT_IN, sharex=True, sharey=True)
    panels = axes.ravel()[: len(arms)].tolist()
    for panel, arm in zip(panels, arms, strict=True):
        set_title(panel, palette, arm_name(arm))
        set_plain(panel, palette, grid="y")
        panel.margins(y=0.08)
    for panel in panels[-axes.shape[1] :]:  # nothing lies below these
        panel.tick_params(labelbottom=True)
        panel.set_xlabel(x, color=palette.ink, fontsize=9)
    for panel in axes[:, 0]:
        panel.set_ylabel(y, color=palette.ink, fontsize=9)
    return figure, panels


def set_title(axes: Axes, palette: Palette, title: str) -> None:
    """The title of a panel."""
    axes.set_title(title, fontsize=9.5, color=palette.ink, pad=8)


def set_plain(axes: Axes, palette: Palette, *, grid: Literal["x", "y"] | None) -> None:
    """Remove the frame and draw a faint grid along the values."""
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, which="both", colors=palette.ink, labelsize=9)
    if grid is not None:
        getattr(axes, f"{grid}axis").set_major_locator(MaxNLocator(nbins=3 if grid == "x" else 4))  # a panel is narrow
        axes.grid(axis=grid, color=palette.grid, linewidth=0.6)
    axes.set_axisbelow(True)
