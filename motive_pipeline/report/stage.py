"""Publishes ``eval_report``: one self-contained HTML page, the same numbers as Markdown and as a table, and a summary for the terminal."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from markupsafe import Markup

from motive_pipeline.evaluation.clip_maps import MapSet, caveats
from motive_pipeline.pages import page_environment
from motive_pipeline.report import plots
from motive_pipeline.report.audit_plot import audit_figures
from motive_pipeline.report.curve_plot import curves_figure
from motive_pipeline.report.findings import Findings, load_findings
from motive_pipeline.report.gallery import Gallery
from motive_pipeline.report.harmful_section import load_harmful_section
from motive_pipeline.report.loss_drop_plot import loss_drop_figure
from motive_pipeline.report.opening import opening
from motive_pipeline.report.provenance_record import provenance_record, write_provenance
from motive_pipeline.report.summary import best_table
from motive_pipeline.report.tables import Table, arm_name, escaped_markdown, markdown, numbers_frame
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, Workspace

STAGE = "eval_report"


def publish_report(ws: Workspace) -> Publication:
    """Publish ``eval_report``: ``report.html``, ``report.md``, ``numbers.parquet`` and ``provenance.json`` (provenance_record.py).

    Raises:
        NotPublished: an arm has no scores yet.
        GateFailed: the arms' scores cannot be compared, or a clip to be shown can no longer be read.
    """
    started = time.time()
    findings = load_findings(ws)
    gallery = Gallery(ws, findings.truth)
    queries, prompts = gallery.queries(), gallery.prompts(findings.arms)
    context = _context(ws, findings) | {
        "queries": queries,
        "prompts": prompts,
        "opening": opening(prompts, queries, findings.arms, findings.lead),
        "harmful": load_harmful_section(ws, gallery),
    }
    page = render_template("report.html.j2", context | _figures(findings) | {"audit_figures": _audit_figures(findings)})
    text = render_template("report.md.j2", context)
    numbers = numbers_frame(findings.numbers)
    record = provenance_record(ws)

    def write(folder: Path) -> None:
        (folder / "report.html").write_text(page, encoding="utf-8")
        (folder / "report.md").write_text(text, encoding="utf-8")
        write_parquet(numbers, folder / "numbers.parquet")
        write_provenance(folder, record)

    return ws.publish(
        "eval_report",
        content=digest(page, text, digest_frame(numbers), record),
        write=write,
        started=started,
        facts={
            "verdict": findings.verdict.headline,
            "trainings of an arm": findings.num_trainings,
            "size (MB)": round(len(page.encode()) / 1e6, 2),
            "arms": _records(findings.tables["arms"]),
        },
        preview=lambda file: plots.png(_arms_drawing(findings), file),
    )


def render_template(template: str, context: dict[str, Any]) -> str:
    """Render a template of this folder. In HTML all text is escaped; in Markdown the filter ``plain`` escapes captions."""
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"markdown": markdown, "plain": escaped_markdown}
    return environment.get_template(template).render(**context)


def _context(ws: Workspace, findings: Findings) -> dict[str, Any]:
    queries = ws.published("query_catalog").table("queries")
    categories = sorted({str(category) for category in queries.loc[queries["role"] == "query", "category"]} - {""})
    return {
        "findings": findings,
        "tables": findings.tables,
        "took_part": findings.took_part,
        "facts": findings.facts,
        "motion": " · ".join(categories),
        "lead": arm_name(findings.lead),
        "is_tiny": ws.config.model.path == "tiny",
        "metrics": [(metric, metric.style) for metric in findings.metrics],
        "is_in_sample": findings.drop_metric.name.startswith("in_sample"),
        "best": best_table(ws, letters=None),
        "maps_note": MapSet(ws, ws.config.lead_variant).note,
        "maps_caveats": caveats(ws, ws.config.lead_variant),
    }


def _figures(findings: Findings) -> dict[str, Markup]:
    """The plots as SVG. They contain no untrusted text, and matplotlib escapes what it writes."""
    drop = findings.drop_metric
    figures = {
        "opening_plot": plots.svg(
            functools.partial(plots.drop_figure, metric=drop, rows=findings.dots(drop, without="base"), width=plots.HALF_WIDTH_IN),
            name="opening",
        ),
        "arms_plot": plots.svg(_arms_drawing(findings), name="arms"),
        "drop_plot": plots.svg(
            functools.partial(plots.drop_figure, metric=drop, rows=findings.dots(drop, by_unit=True, without="base")), name="drop"
        ),
        "differences_plot": plots.svg(
            functools.partial(
                plots.differences_figure,
                panels={metric: findings.difference_dots(metric) for metric in findings.main_metrics},
                lead=findings.lead,
            ),
            name="differences",
        ),
        "precision_plot": "",
        "curve_plot": "",
        "loss_drop_plot": "",
    }
    if findings.curves.steps:
        figures["curve_plot"] = plots.svg(functools.partial(curves_figure, curves=findings.curves, lead=findings.lead), name="curve")
    if findings.loss_drop.drops:
        figures["loss_drop_plot"] = plots.svg(
            functools.partial(loss_drop_figure, found=findings.loss_drop, lead=findings.lead), name="loss_drop"
        )
    if findings.precision:
        *rows, chance = findings.precision
        drawing = functools.partial(
            plots.precision_figure,
            names=[row.name for row in rows],
            precision=[row.precision for row in rows],
            lure=[row.lure for row in rows],
            kinds=[row.kind for row in rows],
            chance=chance.precision,
            lead=findings.lead,
        )
        figures["precision_plot"] = plots.svg(drawing, name="precision")
    return {name: Markup(figure) for name, figure in figures.items()}


def _audit_figures(findings: Findings) -> list[dict[str, str]]:
    """Each figure of the audit as SVG, with its label and note. Names of categories are text in it, which matplotlib escapes."""
    found = audit_figures(findings.audit.rows, findings.variants)
    return [{"svg": Markup(plots.svg(each.draw, name=f"audit_{each.name}")), "label": each.label, "note": each.note} for each in found]


def _arms_drawing(findings: Findings) -> plots.DrawFigure:
    return functools.partial(plots.arms_figure, panels={metric: findings.dots(metric) for metric in findings.metrics})


def _records(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]
