"""The audit's figures: small panels, a line of them for each question. A check with a single number has a table and no plot.

:mod:`~motive_pipeline.report.audit_panels` draws the panels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motive_pipeline.report import audit_panels
from motive_pipeline.report.panel_parts import having, starting
from motive_pipeline.report.plots import PANELS_A_LINE, DrawFigure, Palette, panel_grid

DrawPanel = Callable[[Axes, Palette], None]


@dataclass(frozen=True, kw_only=True)
class AuditFigure:
    """A figure of the section: its name, what it shows for a screen reader, how to read it, and how to draw it."""

    name: str
    label: str
    note: str
    draw: DrawFigure


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel, and how many rows it needs (0: as high as it comes)."""

    draw: DrawPanel
    rows: int = 0


def audit_figures(rows: pd.DataFrame, variants: Sequence[str]) -> list[AuditFigure]:
    """The figures of the checks that are in ``rows`` (of the table ``audit``) with more than one number; ``variants`` are named main one first."""
    known = pd.DataFrame(rows[rows["value"].notna()])
    figures = [
        ("training", _training_panels(known, variants),
         "What training shows: scores of the variants and controls, their differences, and the effect of leaving out groups of clips",
         "Dot: value; bar: 95 % interval. Variants in colour, controls in grey. The dashed line is the ceiling that the reliability of the trainings sets."),
        ("estimate", _estimate_panels(known, variants),
         "How exact the influence is: by width of the projection, by timestep and by number of draws",
         "Full line: rank correlation; dotted: overlap of the best 10 %. Crosses and the hollow dot are what theory predicts. Bars by timestep: one standard error, over a sample of a few clips and queries."),
        ("choice", _choice_panels(known, variants),
         "What the choice rests on: agreement with the controls, single queries, length and motion",
         "Dot: the main variant, with its 95 % interval where there is one; small hollow dots: the other variants. Small full dots: single queries."),
        ("categories", _category_panels(known, variants),
         "Heat map of the overlap of the best clips of each two categories of queries",
         "Share of the best clips that two categories have in common."),
    ]  # fmt: skip
    return [
        AuditFigure(
            name=name, label=f"{label}; the tables below have the same numbers", note=note, draw=functools.partial(_drawn, panels=panels)
        )
        for name, panels, label, note in figures
        if panels
    ]


def _drawn(palette: Palette, panels: Sequence[Panel]) -> Figure:
    """The panels side by side, at most :data:`PANELS_A_LINE` in a line."""
    figure, axes = panel_grid(len(panels), max(2.2, *(0.3 * panel.rows + 0.9 for panel in panels)))
    for place, panel in zip(axes.ravel(), panels, strict=False):
        panel.draw(place, palette)
    return figure


def _training_panels(known: pd.DataFrame, variants: Sequence[str]) -> list[Panel]:
    scores = having(known, check="lds", parameter="mean over queries")
    differences = having(known, check="lds_difference")
    groups = having(known, check="leave_group_out", query_id="")
    ceiling = starting(having(known, check="reliability"), "ceiling")["value"].tolist()
    panels = []
    if len(scores):
        draw = functools.partial(audit_panels.scores_panel, scores=scores, variants=variants, ceiling=ceiling[0] if ceiling else None)
        panels.append(Panel(draw=draw, rows=len(scores)))
    if len(differences):
        draw = functools.partial(audit_panels.differences_panel, differences=differences)
        panels.append(Panel(draw=draw, rows=len(differences)))
    if len(groups):
        draw = functools.partial(audit_panels.groups_panel, groups=groups, variants=variants)
        panels.append(Panel(draw=draw, rows=len(groups)))
    return panels


def _estimate_panels(known: pd.DataFrame, variants: Sequence[str]) -> list[Panel]:
    drawn = {
        "projection": (audit_panels.widths_panel, audit_panels.cosine_error_panel),
        "timestep": (audit_panels.timesteps_panel,),
        "draws": (audit_panels.draws_panel,),
    }
    found = {check: having(known, check=check) for check in drawn}
    return [
        Panel(draw=functools.partial(draw, rows=found[check], variants=variants))
        for check, draws in drawn.items()
        for draw in draws
        if len(found[check]) > 1
    ]


def _choice_panels(known: pd.DataFrame, variants: Sequence[str]) -> list[Panel]:
    panels = []
    controls = having(known, check="controls")
    for start, name in (("spearman", "rank correlation with"), ("top 10 % overlap", "overlap of the best 10 % with")):
        chosen = starting(controls, start)
        if len(chosen) > 1:
            draw = functools.partial(audit_panels.controls_panel, rows=chosen, variants=variants, title=name)
            panels.append(Panel(draw=draw, rows=len(set(chosen["against"]))))
    queries = having(known, check="queries")
    if len(queries) > 1:
        panels.append(Panel(draw=functools.partial(audit_panels.queries_panel, rows=queries, variants=variants), rows=2))
    single = audit_panels.single_figures(known)
    if len(single) > 1:
        draw = functools.partial(audit_panels.single_panel, rows=single, variants=variants)
        panels.append(Panel(draw=draw, rows=len(set(single["name"]))))
    return panels


def _category_panels(known: pd.DataFrame, variants: Sequence[str]) -> list[Panel]:
    """One heat map for each of the first variants; two categories have one number, which needs none."""
    found = {variant: having(known, check="query_overlap", variant=variant) for variant in variants[:PANELS_A_LINE]}
    return [
        Panel(
            draw=functools.partial(audit_panels.categories_panel, rows=rows, variant=variant),
            rows=len(set(rows["parameter"]) | set(rows["against"])),
        )
        for variant, rows in found.items()
        if len(rows) > 1
    ]
