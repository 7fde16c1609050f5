"""The report's plots, drawn by matplotlib: as SVG that takes its colours and fonts from the page, and as PNG.

The SVG is drawn with placeholder colours, which are replaced by ``currentColor`` and CSS variables, so that a plot follows dark mode and
print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.graph.metrics import Metric
from motive_pipeline.report.tables import arm_name

WIDTH_IN = 11.5
"""Width of every figure, so that text has one size on the page."""

HALF_WIDTH_IN = 5.8
"""Of a figure that stands beside something else."""

PANELS_A_LINE = 4


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of text, grid, the main arm, the other arms, and warnings."""

    ink: str
    grid: str
    accent: str
    other: str
    warn: str


PAPER = Palette(ink="#1f2328", grid="#d9dce1", accent="#b3261e", other="#5b6673", warn="#b7791f")
_PAGE = Palette(ink="#010101", grid="#010102", accent="#010103", other="#010104", warn="#010105")
_CSS = {
    "#010101": "currentColor",
    "#010102": "var(--line)",
    "#010103": "var(--accent)",
    "#010104": "var(--other)",
    "#010105": "var(--warn)",
}


@dataclass(frozen=True, kw_only=True)
class Dots:
    """One row of a dot plot: its name, the estimate, the values behind it (small dots), and whether it is the main row."""

    name: str
    estimate: Estimate
    single: Sequence[float]
    is_main: bool


DrawFigure = Callable[[Palette], Figure]
"""Draws one figure in the given colours."""


def svg(draw: DrawFigure, *, name: str) -> str:
    """The figure as an SVG element. ``name`` makes its ids differ from those of other figures on the page."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's fonts have it: the SVG holds text, not shapes
        stream = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        draw(_PAGE).savefig(stream, format="svg", transparent=True, metadata=metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for colour, css in _CSS.items():
        text = text.replace(colour, css)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    # matplotlib uses the same group ids in every figure, and ids must be unique on a page
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)).strip()


def png(draw: DrawFigure, file: Path) -> None:
    """The figure as a PNG on white."""
    draw(PAPER).savefig(file, dpi=110, facecolor="white")


def arms_figure(palette: Palette, panels: Mapping[Metric, Sequence[Dots]]) -> Figure:
    """One panel for each metric, one row for each arm: the mean (dot), its interval (bar), each training (small dots)."""
    figure, axes = panel_grid(len(panels), 0.34 * len(next(iter(panels.values()))) + 0.95, sharey=True)
    for panel, (metric, rows) in zip(axes.ravel(), panels.items(), strict=False):
        style = metric.style
        _dots(panel, palette, rows, factor=style.factor)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=3))  # a panel is narrow, and some metrics have five decimals
        if style.factor == 100:
            _percent_axis(panel)
        panel.set_title(metric.label, fontsize=9.5, color=palette.ink, pad=8)
        panel.set_xlabel(style.unit, color=palette.ink, fontsize=9)
    return figure


def drop_figure(palette: Palette, metric: Metric, rows: Sequence[Dots], width: float = WIDTH_IN) -> Figure:
    """The causal check: single queries or trainings as small dots, the mean and its interval, and a line at zero (the base model) if zero is in the range."""
    figure = new_figure(width, 0.34 * len(rows) + 0.85)
    axes = figure.subplots()
    _dots(axes, palette, rows, factor=metric.style.factor)
    left, right = axes.get_xlim()
    if left <= 0 <= right:
        axes.axvline(0, color=palette.ink, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    axes.set_xlabel("drop of the motion-weighted loss below the base model's, %", color=palette.ink, fontsize=9)
    return figure


def differences_figure(palette: Palette, panels: Mapping[Metric, Sequence[Dots]], lead: str) -> Figure:
    """One panel for each metric, one row for each arm: the difference of each unit as a small dot, the mean and its interval, a line at 0."""
    figure = new_figure(WIDTH_IN, 0.34 * len(next(iter(panels.values()))) + 0.95)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (metric, rows) in zip(axes, panels.items(), strict=True):
        style = metric.style
        panel.axvline(0, color=palette.ink, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        _dots(panel, palette, rows, factor=style.factor)
        panel.set_title(f"{arm_name(lead)} minus another arm: {metric.label}", fontsize=9.5, color=palette.ink, pad=8)
        panel.set_xlabel(_difference_unit(metric), color=palette.ink, fontsize=9)
    return figure


def _difference_unit(metric: Metric) -> str:
    unit = metric.style.unit
    return ("percentage points" if unit.startswith("%") else unit) + (
        " (below 0 is better)" if metric.lower_is_better else " (above 0 is better)"
    )


def precision_figure(
    palette: Palette,
    names: Sequence[str],
    precision: Sequence[float],
    lure: Sequence[float],
    kinds: Sequence[str],
    chance: float,
    lead: str,
) -> Figure:
    """Precision (full dot) and lure (hollow diamond) of each choice; the dashed line is chance."""
    figure = new_figure(WIDTH_IN, 0.32 * len(names) + 0.85)
    axes = figure.subplots()
    height = np.arange(len(names))[::-1]
    colours = [palette.accent if name == lead else palette.other for name in names]
    axes.axvline(100 * chance, color=palette.ink, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    axes.hlines(height, 0, 100 * np.asarray(precision), color=colours, linewidth=1.6, zorder=2)
    axes.scatter(100 * np.asarray(precision), height, s=46, color=colours, zorder=3)
    if not np.isnan(lure).all():
        axes.scatter(100 * np.asarray(lure), height, s=34, marker="D", facecolor="none", edgecolor=palette.warn, linewidth=1.3, zorder=4)
    axes.set_yticks(
        height, [f"{arm_name(name)} (control)" if kind == "control" else arm_name(name) for name, kind in zip(names, kinds, strict=True)]
    )
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("% of the chosen clips", color=palette.ink, fontsize=9)
    _plain_axes(axes, palette)
    _percent_axis(axes)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with the margins of all plots of the page."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06, wspace=0.0, hspace=0.06))


def panel_grid(count: int, height_in: float, *, sharex: bool = False, sharey: bool = False) -> tuple[Figure, Any]:
    """A figure of the page's width with ``count`` panels of this height, at most :data:`PANELS_A_LINE` in a line, and its axes [line, column], of which
    those behind the last panel are off."""
    lines = -(-count // PANELS_A_LINE)
    figure = new_figure(WIDTH_IN, lines * height_in)
    axes = figure.subplots(lines, -(-count // lines), sharex=sharex, sharey=sharey, squeeze=False)
    for empty in axes.ravel()[count:]:
        empty.set_axis_off()
    return figure, axes


def _dots(axes: Axes, palette: Palette, rows: Sequence[Dots], *, factor: float) -> None:
    height = np.arange(len(rows))[::-1]
    for y, row in zip(height, rows, strict=True):
        colour = palette.accent if row.is_main else palette.other
        if len(row.single) > 1:
            spread = np.linspace(-0.16, 0.16, len(row.single))
            axes.scatter(factor * np.asarray(row.single), y + spread, s=9, color=colour, alpha=0.45, linewidth=0, zorder=2)
        if not np.isnan(row.estimate.low):
            axes.hlines(y, factor * row.estimate.low, factor * row.estimate.high, color=colour, linewidth=2.2, zorder=3)
        axes.scatter([factor * row.estimate.value], [y], s=46, color=colour, zorder=4)
    axes.set_yticks(height, [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.08)
    _plain_axes(axes, palette)


def _percent_axis(axes: Axes) -> None:
    axes.set_xlim(-4, 104)
    axes.set_xticks([0, 25, 50, 75, 100])


def _plain_axes(axes: Axes, palette: Palette) -> None:
    """Remove the frame and draw a faint grid along the values."""
    for side in axes.spines.values():
        side.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.tick_params(length=0, colors=palette.ink, labelsize=9)
    axes.grid(axis="x", color=palette.grid, linewidth=0.8)
    axes.set_axisbelow(True)
