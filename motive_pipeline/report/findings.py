"""The report's figures: tables, numbers and a verdict, from what the stages published. Nothing is rendered here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.catalog.reject_gate import lost_queries
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.evaluation.controls import Precision, precision_rows
from motive_pipeline.evaluation.flow_distance import FlowDistances
from motive_pipeline.evaluation.ground_truth import GroundTruth, load_truth
from motive_pipeline.evaluation.values import difference, difference_matrix, estimate, metrics_of, num_trainings, unit_values, value_matrix
from motive_pipeline.graph import BASE
from motive_pipeline.graph.metrics import DYNAMIC, FRECHET, HELD_OUT_DROP, HISTOGRAM, IN_SAMPLE_DROP, QUERY_MOTION, Metric
from motive_pipeline.report.audit_section import AuditSection, load_audit_section
from motive_pipeline.report.choice_tables import chosen_clips, lengths_table, precision_table
from motive_pipeline.report.loss_drop_section import LossDrop, load_loss_drop
from motive_pipeline.report.participants import Participants, clip_participants, query_participants
from motive_pipeline.report.plots import Dots
from motive_pipeline.report.preference_section import PreferenceSection, load_preference_section
from motive_pipeline.report.prompt_by_prompt import by_unit_table, counts, missing_videos, unit_texts
from motive_pipeline.report.provenance_tables import accounting, rejects_table, settings_table, versions_table
from motive_pipeline.report.score_tables import arms_table, by_backend, differences_table, trainings_table
from motive_pipeline.report.tables import (
    Number,
    Table,
    arm_name,
    with_origin,
)
from motive_pipeline.report.training_curves import TrainingCurves, curve_table, load_curves
from motive_pipeline.report.verdict import Verdict, verdict
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything the report states."""

    arms: Sequence[str]
    lead: str
    """The arm that the others are compared with (``lead_arm``)."""
    variants: tuple[str, ...]
    """The gradient variants, that of the lead arm first."""
    units: pd.DataFrame
    metrics: Sequence[Metric]
    estimates: dict[tuple[Metric, str], Estimate]
    differences: dict[tuple[Metric, str], Estimate]
    """The lead arm minus another arm."""
    main_metrics: Sequence[Metric]
    """The metrics that the verdict rests on."""
    missing_videos: Sequence[str]
    """Sentences on arms that lack videos."""
    num_trainings: int
    verdict: Verdict
    preference: PreferenceSection
    audit: AuditSection
    precision: Sequence[Precision]
    truth: GroundTruth | None
    tables: dict[str, Table]
    numbers: Sequence[Number]
    overlap: Sequence[str]
    """Ids of queries whose clips are also in the pool."""
    facts: dict[str, int | float | str]
    took_part: dict[str, Participants]
    """The ``clips``, ``queries`` and ``held_out`` queries behind the numbers."""
    curves: TrainingCurves
    loss_drop: LossDrop

    @property
    def drop_metric(self) -> Metric:
        """The metric of the causal check: on held-out queries if there are any."""
        return HELD_OUT_DROP if HELD_OUT_DROP in self.metrics else IN_SAMPLE_DROP

    def dots(self, metric: Metric, *, by_unit: bool = False, without: str = "") -> list[Dots]:
        """The rows of a plot: each arm's estimate with its trainings (or its units) as single values. The arm ``without`` is left out."""
        return [
            Dots(
                name=arm_name(arm),
                estimate=self.estimates[metric, arm],
                single=value_matrix(self.units, arm, metric).mean(axis=0 if by_unit else 1).tolist(),
                is_main=arm == self.lead,
            )
            for arm in self.arms
            if arm != without
        ]

    def counts(self, metric: Metric) -> str:
        """The backend of a metric, and the number of videos or queries behind its values."""
        return f"{metric.backend}; {counts(self.units, metric)}"

    def difference_dots(self, metric: Metric) -> list[Dots]:
        """The rows of a plot: the lead arm minus each other arm, with the difference of each unit (averaged over trainings) as single values."""
        return [
            Dots(
                name=f"minus {arm_name(arm)}",
                estimate=self.differences[metric, arm],
                single=difference_matrix(self.units, metric, self.lead, arm).mean(axis=0).tolist(),
                is_main=False,
            )
            for arm in self.arms
            if arm != self.lead
        ]


BY_UNIT = ("by_query", "by_prompt")
"""Keys of the tables of differences by unit: for the loss, and for the main metric of videos."""


def load_findings(ws: Workspace) -> Findings:
    """Read the scores of all arms and everything else that the report states.

    Raises:
        NotPublished: the scores of an arm, or one of their inputs, are not published yet.
        GateFailed: the arms' scores cannot be compared.
    """
    arms, num_samples = ws.config.arms, ws.config.evaluate.bootstrap_samples
    distances = _distances(ws)
    units = pd.concat([part for arm in arms for part in (_units(ws, arm), distances.units(arm))], ignore_index=True)
    metrics = metrics_of(units)
    estimates = {(metric, arm): estimate(units, arm, metric, num_samples=num_samples) for metric in metrics for arm in arms}
    lead = ws.config.lead_arm
    others = [arm for arm in arms if arm != lead]
    differences = {
        (metric, other): difference(units, metric, lead, other, num_samples=num_samples) for metric in metrics for other in others
    }
    estimates |= {(FRECHET, arm): distances.estimate(arm) for arm in arms}
    differences |= {(FRECHET, other): distances.difference(lead, other) for other in others}
    main_metrics = _main_metrics(metrics)
    texts = unit_texts(ws)
    truth = load_truth(ws)
    precision = precision_rows(ws, truth) if truth is not None else []
    curves = load_curves(ws)
    tables: dict[str, Table] = {}
    numbers: list[Number] = []
    parts = [
        *by_backend("arms", metrics, lambda chosen: arms_table(arms, chosen, estimates, lead=lead)),
        *by_backend("differences", metrics, lambda chosen: differences_table(others, chosen, differences, arm=lead)),
        *(by_unit_table(units, metric, others, texts, lead=lead, key=key) for metric, key in zip(main_metrics, BY_UNIT, strict=True)),
        lengths_table(ws),
        *([precision_table(precision, truth, lead=lead)] if truth is not None else []),
        *_without_harmful(units, metrics, distances, num_samples=num_samples),
        *([curve_table(curves)] if curves.steps else []),
        *(by_backend("trainings", metrics, lambda chosen: trainings_table(arms, chosen, units)) if num_trainings(units, arms) > 1 else []),
    ]
    for table, its_numbers in parts:
        tables[table.key] = with_origin(table, its_numbers)
        numbers += its_numbers
    preference = load_preference_section(ws)
    audit = load_audit_section(ws)
    loss_drop = load_loss_drop(ws)
    numbers += [*preference.numbers, *audit.numbers, *loss_drop.numbers]
    for table in (*preference.tables, *loss_drop.tables, rejects_table(ws), settings_table(ws), versions_table(ws)):
        tables[table.key] = table
    overlap = _overlap(ws)
    return Findings(
        arms=arms,
        lead=lead,
        variants=tuple(sorted(ws.config.variants, key=lambda variant: variant != ws.config.lead_variant)),
        units=units,
        metrics=metrics,
        estimates=estimates,
        num_trainings=num_trainings(units, arms),
        differences=differences,
        main_metrics=main_metrics,
        missing_videos=missing_videos(units, arms),
        verdict=verdict(
            differences,
            main_metrics,
            lead=lead,
            own={metric: estimates[metric, lead] for metric in main_metrics},
            num_trainings=num_trainings(units, arms),
        ),
        preference=preference,
        audit=audit,
        precision=precision,
        truth=truth,
        tables=tables,
        numbers=numbers,
        overlap=overlap,
        facts=_facts(ws, units),
        took_part=_took_part(ws, units),
        curves=curves,
        loss_drop=loss_drop,
    )


def _without_harmful(
    units: pd.DataFrame, metrics: Sequence[Metric], distances: FlowDistances, *, num_samples: int
) -> list[tuple[Table, list[Number]]]:
    """The tables of what leaving out the worst clips does, where both arms are there to be compared."""
    arm, other = "without_harmful", "full"
    if not {arm, other} <= set(units["arm"]):
        return []
    found = {(metric, other): difference(units, metric, arm, other, num_samples=num_samples) for metric in metrics}
    found[FRECHET, other] = distances.difference(arm, other)
    return list(by_backend(arm, metrics, lambda chosen: differences_table([other], chosen, found, arm=arm, key=arm)))


def _distances(ws: Workspace) -> FlowDistances:
    flows = {arm: ws.published(f"eval_scores/{arm}").table("flow") for arm in ws.config.arms}
    queries = ws.published(f"eval_scores/{ws.config.lead_arm}").table("query_flow")
    return FlowDistances.of(flows, queries, num_samples=ws.config.evaluate.bootstrap_samples)


def _units(ws: Workspace, arm: str) -> pd.DataFrame:
    scores = ws.published(f"eval_scores/{arm}")
    return unit_values(arm, scores.table("per_video"), scores.table("causal"))


def _main_metrics(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics of the verdict: the causal check, then whether videos show the queries' motion (by label if it is known, else by flow)."""
    drop = [metric for metric in (HELD_OUT_DROP, IN_SAMPLE_DROP) if metric in metrics][:1]
    return [*drop, QUERY_MOTION if QUERY_MOTION in metrics else HISTOGRAM]


def _overlap(ws: Workspace) -> list[str]:
    queries = ws.published("query_catalog").table("queries")["query_id"].astype(str)
    return sorted(set(queries) & set(load_pool(ws).astype(str).tolist()))


def _facts(ws: Workspace, units: pd.DataFrame) -> dict[str, int | float | str]:
    prompts = set(units.loc[(units["metric"] == DYNAMIC.name) & (units["arm"] == ws.config.lead_arm), "unit"])
    return {
        "clips": len(load_pool(ws)),
        "chosen": len(chosen_clips(ws, ws.config.lead_arm)),
        "other_sizes": _other_sizes(ws),
        "without_harmful": len(chosen_clips(ws, "without_harmful")) if "without_harmful" in ws.config.arms else 0,
        "prompts": len(prompts),
        "draws": ws.config.evaluate.held_out_draws,
        "lost_queries": lost_queries(ws) or "",
        "accounting": accounting(ws),
    }


def _other_sizes(ws: Workspace) -> str:
    """The arms that train on another number of clips than the lead arm, in words; those of which the report says so anyway are left out."""
    num_chosen = len(chosen_clips(ws, ws.config.lead_arm))
    sizes = {arm: len(chosen_clips(ws, arm)) for arm in ws.config.arms if arm not in (BASE, "full", "without_harmful")}
    return ", ".join(f"“{arm_name(arm)}” on {size}" for arm, size in sizes.items() if size != num_chosen)


def _took_part(ws: Workspace, units: pd.DataFrame) -> dict[str, Participants]:
    measured = units.loc[units["metric"].isin([HELD_OUT_DROP.name, IN_SAMPLE_DROP.name]), "unit"]
    return {
        "clips": clip_participants(ws, len(ws.published(f"voted_ranking/{ws.config.lead_variant}").table("ranking"))),
        "queries": query_participants(ws, "query", set(load_influence(ws, ws.config.lead_variant).query_ids)),
        "held_out": query_participants(ws, "held_out", set(measured)),
    }
