"""The single panels of the audit's figures. Each draws rows of the table ``audit`` that have a number.

Names of categories are the user's: they are drawn as plain text, never as formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from motive_pipeline.report.audit_section import estimator_label
from motive_pipeline.report.panel_parts import draw_intervals, draw_variants, having, set_plain, set_title, starting
from motive_pipeline.report.plots import Palette
from motive_pipeline.visible_text import visible_text

LONGEST_NAME = 20

_SINGLE = {
    ("length", "gradient norm"): "length and gradient norm",
    ("length", "mean influence"): "length and influence",
    ("motion", "correlation with magnitude"): "magnitude and influence",
    ("noise", ""): "another noise",
    ("precision", "spearman"): "another precision",
}
"""The correlations of checks with one or two numbers, which share a panel."""


def scores_panel(axes: Axes, palette: Palette, *, scores: pd.DataFrame, variants: Sequence[str], ceiling: float | None) -> None:
    """The score of each variant and control with its interval, and the highest score that the trainings allow."""
    if ceiling is not None:
        axes.axvline(ceiling, color=palette.ink, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    names = [estimator_label(name) for name in scores["variant"]]
    draw_intervals(axes, palette, scores, names, [name in variants for name in scores["variant"]])
    set_title(axes, palette, "linear datamodeling score")


def differences_panel(axes: Axes, palette: Palette, *, differences: pd.DataFrame) -> None:
    """The differences between scores, in pairs."""
    pairs = zip(differences["variant"], differences["against"], strict=True)
    names = [f"{estimator_label(first)} minus {estimator_label(second)}" for first, second in pairs]
    draw_intervals(axes, palette, differences, names, [False] * len(differences))
    set_title(axes, palette, "difference of the scores")


def groups_panel(axes: Axes, palette: Palette, *, groups: pd.DataFrame, variants: Sequence[str]) -> None:
    """How much higher the held-out loss is without a group of clips than with it, or than without random ones."""
    names = []
    for row in groups.to_dict("records"):
        end = "top" if " top " in row["parameter"] else "bottom" if " bottom " in row["parameter"] else ""
        name = f"{estimator_label(row['variant'])} {end}".strip()
        names.append(f"{name} minus random" if row["against"] == "random" else name)
    draw_intervals(axes, palette, groups, names, [name in variants for name in groups["variant"]])
    axes.set_xlabel("loss higher by, %", color=palette.ink, fontsize=9)
    set_title(axes, palette, "without a group of clips")


def widths_panel(axes: Axes, palette: Palette, *, rows: pd.DataFrame, variants: Sequence[str]) -> None:
    """Rank correlation (full line) and overlap of the best 10 % (dotted) of the narrow projection with the whole one, by its width."""
    for start, style in (("spearman at ", "-"), ("top 10 % overlap at ", ":")):
        for variant, own in _by_variant(starting(rows, start), variants):
            colour = palette.accent if variant == variants[0] else palette.other
            axes.plot(_widths(own), own["value"], color=colour, linestyle=style, linewidth=1.6, marker="o", markersize=4)
    axes.set_ylim(top=1.02)
    _by_width(axes, palette, rows)
    set_title(axes, palette, "agreement with all entries")


def cosine_error_panel(axes: Axes, palette: Palette, *, rows: pd.DataFrame, variants: Sequence[str]) -> None:
    """The error of the cosines by width (dots), and what theory predicts (crosses)."""
    errors = starting(rows, "cosine error at ")
    for variant, own in _by_variant(errors, variants):
        colour = palette.accent if variant == variants[0] else palette.other
        is_theory = own["against"] == "Johnson-Lindenstrauss"
        for part, marker, style, zorder in ((pd.DataFrame(own[~is_theory]), "o", "-", 3), (pd.DataFrame(own[is_theory]), "x", "none", 4)):
            of_part = palette.ink if marker == "x" else colour
            axes.plot(
                _widths(part), part["value"], color=of_part, linestyle=style, linewidth=1.6, marker=marker, markersize=6, zorder=zorder
            )
    axes.set_ylim(bottom=0)
    _by_width(axes, palette, errors)
    set_title(axes, palette, "error of the cosines")


def timesteps_panel(axes: Axes, palette: Palette, *, rows: pd.DataFrame, variants: Sequence[str]) -> None:
    """Agreement of each single timestep with the mean over several; the project's own one, the first of the rows, in colour."""
    timestep = rows["parameter"].astype(float).to_numpy()
    for place, row in enumerate(rows.to_dict("records")):
        colour = palette.accent if place == 0 else palette.other
        axes.errorbar(timestep[place], row["value"], yerr=_error(row), color=colour, marker="o", markersize=6, linewidth=1.8)
    axes.set_xlim(0, 1000)
    axes.set_xticks([0, 250, 500, 750, 1000])
    axes.set_xlabel("timestep", color=palette.ink, fontsize=9)
    set_plain(axes, palette, grid="y")
    set_title(axes, palette, "one timestep and the mean")


def draws_panel(axes: Axes, palette: Palette, *, rows: pd.DataFrame, variants: Sequence[str]) -> None:
    """Agreement of the mean of so many draws with as many others: measured (full dots), and predicted for more (hollow)."""
    is_predicted = rows["against"] != ""
    for part, fill in ((rows[~is_predicted], palette.accent), (rows[is_predicted], "none")):
        number = part["parameter"].astype(int)
        axes.plot(number, part["value"], color=palette.accent, linewidth=1.6, marker="o", markersize=6, markerfacecolor=fill)
    number = sorted(rows["parameter"].astype(int))
    axes.set_xscale("log", base=2)
    axes.set_xlim(number[0] / 1.3, number[-1] * 1.3)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(number, [str(each) for each in number])
    axes.set_xlabel("draws", color=palette.ink, fontsize=9)
    set_plain(axes, palette, grid="y")
    set_title(axes, palette, "two means of so many draws")


def controls_panel(axes: Axes, palette: Palette, *, rows: pd.DataFrame, variants: Sequence[str], title: str) -> None:
    """How far the controls and the other variants rank as the main variant does (with interval), and as the others do (hollow)."""
    names = list(dict.fromkeys(name for name in rows["against"] if name != variants[0])) or list(dict.fromkeys(rows["against"]))
    draw_variants(axes, palette, rows.assign(name=rows["against"]), names, variants)
    axes.set_yticks(range(len(names)), [estimator_label(name) for name in names])
    set_title(axes, palette, title)


def queries_panel(axes: Axes, palette: Palette, *, rows: pd.DataFrame, variants: Sequence[str]) -> None:
    """The share of the choice that stays without one query (each as a small dot), and between halves of the queries."""
    names = ["chosen without one query", "overlap between halves of the queries"]
    single = rows.loc[(rows["variant"] == variants[0]) & (rows["query_id"] != ""), "value"]
    axes.scatter(single, np.linspace(-0.16, 0.16, len(single)), s=9, color=palette.accent, alpha=0.45, linewidth=0)
    draw_variants(axes, palette, rows[rows["query_id"] == ""].assign(name=rows["parameter"]), names, variants)
    axes.set_yticks(range(len(names)), ["without\none query", "between\nhalves"])
    axes.set_xlim(-0.04, 1.04)
    set_title(axes, palette, "share of the choice that stays")


def single_figures(known: pd.DataFrame) -> pd.DataFrame:
    """The rows of :data:`_SINGLE`, with what they are called in ``name``."""
    named = {
        index: name
        for (check, start), name in _SINGLE.items()
        for index in known.index[(known["check"] == check) & known["parameter"].str.startswith(start)]
    }
    return pd.DataFrame(known.loc[list(named)]).assign(name=list(named.values()))


def single_panel(axes: Axes, palette: Palette, *, rows: pd.DataFrame, variants: Sequence[str]) -> None:
    """Rank correlations that stand alone."""
    names = list(dict.fromkeys(rows["name"]))
    axes.axvline(0, color=palette.ink, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    draw_variants(axes, palette, rows, names, variants)
    axes.set_yticks(range(len(names)), names)
    set_title(axes, palette, "rank correlation")


def categories_panel(axes: Axes, palette: Palette, *, rows: pd.DataFrame, variant: str) -> None:
    """The overlap of each two categories as a cell: its number, and the more colour the more overlap."""
    names = sorted(set(rows["parameter"]) | set(rows["against"]))
    place = {name: number for number, name in enumerate(names)}
    for row in rows.to_dict("records"):
        low, high = sorted((place[row["parameter"]], place[row["against"]]))
        axes.add_patch(Rectangle((low - 0.5, high - 0.5), 1, 1, facecolor=palette.accent, alpha=0.08 + 0.55 * row["value"], linewidth=0))
        axes.text(low, high, f"{100 * row['value']:.0f} %", ha="center", va="center", fontsize=9, color=palette.ink)
    labels = [_short(name) for name in names]
    axes.set_xticks(range(len(names) - 1), labels[:-1], rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(1, len(names)), labels[1:], parse_math=False)
    axes.set_xlim(-0.5, len(names) - 1.5)
    axes.set_ylim(len(names) - 0.5, 0.5)
    set_plain(axes, palette, grid=None)
    set_title(axes, palette, estimator_label(variant))


def _by_variant(rows: pd.DataFrame, variants: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each variant, the main one last so that it lies on top."""
    parts = [(variant, having(rows, variant=variant)) for variant in reversed(variants)]
    return [(variant, part) for variant, part in parts if len(part)]


def _widths(rows: pd.DataFrame) -> list[int]:
    """The width at the end of each ``parameter``."""
    return [int(str(parameter).rpartition(" ")[2]) for parameter in rows["parameter"]]


def _by_width(axes: Axes, palette: Palette, rows: pd.DataFrame) -> None:
    widths = sorted(set(_widths(rows)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.set_xlabel("entries of the projection", color=palette.ink, fontsize=9)
    set_plain(axes, palette, grid="y")


def _error(row: Mapping[Any, Any]) -> float | None:
    return None if np.isnan(row["std_error"]) else row["std_error"]


def _short(name: str) -> str:
    shown = visible_text(name) or "(none)"
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"
