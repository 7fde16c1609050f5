"""The plot of the drop of the loss by timestep, a panel for each arm."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.report.loss_drop_section import LossDrop
from motive_pipeline.report.panel_parts import panel_for_each_arm
from motive_pipeline.report.plots import Palette


def loss_drop_figure(palette: Palette, found: LossDrop, lead: str) -> Figure:
    """One panel for each arm: the motion-weighted loss (full dots, with their intervals) and the plain one (hollow dots); zero is the base model."""
    figure, panels = panel_for_each_arm(palette, list(found.drops), x="timestep", y="drop, %")
    for panel, (arm, by_loss) in zip(panels, found.drops.items(), strict=True):
        colour = palette.accent if arm == lead else palette.other
        panel.axhline(0, color=palette.ink, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        _line(panel, by_loss["plain"], colour=colour, is_main=False)
        _line(panel, by_loss["masked"], colour=colour, is_main=True)
        panel.set_xlim(0, 1000)
        panel.set_xticks([0, 250, 500, 750, 1000])
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
