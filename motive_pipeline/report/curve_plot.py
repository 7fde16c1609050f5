"""The plot of the loss on held-out queries by step, a panel for each arm."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from motive_pipeline.report.plots import PANELS_A_LINE, WIDTH_IN, Palette, new_figure
from motive_pipeline.report.tables import arm_name
from motive_pipeline.report.training_curves import TrainingCurves

_PANEL_HEIGHT_IN = 1.9


def curves_figure(palette: Palette, curves: TrainingCurves, lead: str) -> Figure:
    """One panel for each arm (``lead`` in colour): its mean (thick), each training (thin), with ``finetune.ema`` the weights without their mean (dotted), the other arms
    (faint) and the base model (dashed)."""
    lines = -(-len(curves.loss) // PANELS_A_LINE)
    columns = -(-len(curves.loss) // lines)
    figure = new_figure(WIDTH_IN, lines * _PANEL_HEIGHT_IN + 0.3)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for empty in axes.ravel()[len(curves.loss) :]:
        empty.set_axis_off()
    for panel, (arm, loss_SP) in zip(axes.ravel(), curves.loss.items(), strict=False):
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
        panel.set_title(arm_name(arm), fontsize=9.5, color=palette.ink, pad=8)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(nbins=4))
        panel.margins(y=0.08)
        panel.tick_params(length=0, colors=palette.ink, labelsize=9)
        panel.grid(axis="y", color=palette.grid, linewidth=0.6)
        panel.set_axisbelow(True)
        for side in panel.spines.values():
            side.set_visible(False)
    for panel in axes.ravel()[max(0, len(curves.loss) - columns) : len(curves.loss)]:  # nothing lies below these
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("steps", color=palette.ink, fontsize=9)
    for panel in axes[:, 0]:
        panel.set_ylabel("loss", color=palette.ink, fontsize=9)
    return figure
