"""The plot of the drop of the loss by timestep, a panel for each arm."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.report.loss_drop_section import LossDrop
from motive_pipeline.report.plots import PANELS_A_LINE, WIDTH_IN, Palette, new_figure
from motive_pipeline.report.tables import arm_name

_PANEL_HEIGHT_IN = 1.9


def loss_drop_figure(palette: Palette, found: LossDrop, lead: str) -> Figure:
    """One panel for each arm: the motion-weighted loss (full dots, with their intervals) and the plain one (hollow dots); zero is the base model."""
    lines = -(-len(found.drops) // PANELS_A_LINE)
    columns = -(-len(found.drops) // lines)
    figure = new_figure(WIDTH_IN, lines * _PANEL_HEIGHT_IN + 0.3)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for empty in axes.ravel()[len(found.drops) :]:
        empty.set_axis_off()
    for panel, (arm, by_loss) in zip(axes.ravel(), found.drops.items(), strict=False):
        colour = palette.accent if arm == lead else palette.other
        panel.axhline(0, color=palette.ink, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        _line(panel, by_loss["plain"], colour=colour, is_main=False)
        _line(panel, by_loss["masked"], colour=colour, is_main=True)
        panel.set_title(arm_name(arm), fontsize=9.5, color=palette.ink, pad=8)
        panel.set_xlim(0, 1000)
        panel.set_xticks([0, 250, 500, 750, 1000])
        panel.yaxis.set_major_locator(MaxNLocator(nbins=4))
        panel.margins(y=0.08)
        panel.tick_params(length=0, colors=palette.ink, labelsize=9)
        panel.grid(axis="y", color=palette.grid, linewidth=0.6)
        panel.set_axisbelow(True)
        for side in panel.spines.values():
            side.set_visible(False)
    for panel in axes.ravel()[max(0, len(found.drops) - columns) : len(found.drops)]:  # nothing lies below these
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("timestep", color=palette.ink, fontsize=9)
    for panel in axes[:, 0]:
        panel.set_ylabel("drop, %", color=palette.ink, fontsize=9)
    return figure


def _line(panel: Axes, drops: Mapping[float, Estimate], *, colour: str, is_main: bool) -> None:
    timesteps, found = list(drops), list(drops.values())
    values = [each.value for each in found]
    if is_main:
        panel.vlines(
            timesteps, [each.low for each in found], [each.high for each in found], color=colour, linewidth=1.2, alpha=0.6, zorder=2
        )
        panel.plot(timesteps, values, color=colour, linewidth=2, marker="o", markersize=5, zorder=4)
    else:
        panel.plot(timesteps, values, color=colour, linewidth=1, linestyle=":", zorder=3)
        panel.plot(timesteps, values, color=colour, linestyle="none", marker="o", markersize=5, markerfacecolor="none", zorder=3)
