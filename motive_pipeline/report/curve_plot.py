"""The plot of the loss on held-out queries by step, a panel for each arm."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from motive_pipeline.report.panel_parts import panel_for_each_arm
from motive_pipeline.report.plots import Palette
from motive_pipeline.report.training_curves import TrainingCurves


def curves_figure(palette: Palette, curves: TrainingCurves, lead: str) -> Figure:
    """One panel for each arm (``lead`` in colour): its mean (thick), each training (thin), with ``finetune.ema`` the weights without their mean (dotted), the other arms
    (faint) and the base model (dashed)."""
    figure, panels = panel_for_each_arm(palette, list(curves.loss), x="steps", y="loss")
    for panel, (arm, loss_SP) in zip(panels, curves.loss.items(), strict=True):
        colour = palette.accent if arm == lead else palette.other
        for other, other_SP in curves.loss.items():
            if other != arm:
                panel.plot(curves.steps, other_SP.mean(axis=0), color=palette.grid, linewidth=1.2, zorder=1)
        panel.axhline(loss_SP[:, 0].mean(), color=palette.ink, linewidth=0.8, linestyle=(0, (3, 3)), zorder=2)
        if len(loss_SP) > 1:
            panel.plot(curves.steps, loss_SP.T, color=colour, linewidth=0.8, alpha=0.45, zorder=3)
        if arm in curves.last_weights:
            panel.plot(curves.steps, curves.last_weights[arm].mean(axis=0), color=colour, linewidth=1.2, linestyle=":", zorder=3)
        panel.plot(curves.steps, loss_SP.mean(axis=0), color=colour, linewidth=2.2, marker="o", markersize=4, zorder=4)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    return figure
