"""The report's figures: tables, numbers and a verdict, from what the stages published. Nothing is rendered here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from motive_pipeline.curation.pool import load_pool
from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.evaluation.controls import Precision, precision_table
from motive_pipeline.evaluation.flow_distance import FRECHET, HISTOGRAM, FlowDistances
from motive_pipeline.evaluation.ground_truth import GroundTruth, load_truth
from motive_pipeline.evaluation.metrics import DYNAMIC, Metric
from motive_pipeline.evaluation.values import (
    HELD_OUT_DROP,
    IN_SAMPLE_DROP,
    QUERY_MOTION,
    difference,
    difference_matrix,
    estimate,
    metrics_of,
    num_trainings,
    unit_values,
    value_matrix,
)
from motive_pipeline.evaluation.vbench.dimensions import BACKEND as VBENCH
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.report.plots import Dots
from motive_pipeline.report.preference_section import PreferenceSection, load_preference_section
from motive_pipeline.report.prompt_by_prompt import by_unit_table, counts, missing_videos, unit_texts
from motive_pipeline.report.provenance_tables import rejects_table, settings_table, versions_table
from motive_pipeline.report.tables import (
    Number,
    Table,
    arm_name,
    column_heading,
    estimate_number,
    format_number,
    with_origin,
)
from motive_pipeline.report.verdict import Verdict, verdict
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything the report states."""

    arms: Sequence[str]
    units: pd.DataFrame
    metrics: Sequence[Metric]
    estimates: dict[tuple[Metric, str], Estimate]
    differences: dict[tuple[Metric, str], Estimate]
    """MOTIVE minus another arm."""
    main_metrics: Sequence[Metric]
    """The metrics that the verdict rests on."""
    missing_videos: Sequence[str]
    """Sentences on arms that lack videos."""
    num_trainings: int
    verdict: Verdict
    preference: PreferenceSection
    precision: Sequence[Precision]
    truth: GroundTruth | None
    tables: dict[str, Table]
    numbers: Sequence[Number]
    overlap: Sequence[str]
    """Ids of queries whose clips are also in the pool."""
    facts: dict[str, int | float | str]

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
                is_main=arm == "motive",
            )
            for arm in self.arms
            if arm != without
        ]

    def counts(self, metric: Metric) -> str:
        """The backend of a metric, and the number of videos or queries behind its values."""
        return f"{metric.backend}; {counts(self.units, metric)}"

    def difference_dots(self, metric: Metric) -> list[Dots]:
        """The rows of a plot: MOTIVE minus each other arm, with the difference of each unit (averaged over trainings) as single values."""
        return [
            Dots(
                name=f"minus {arm_name(arm)}",
                estimate=self.differences[metric, arm],
                single=difference_matrix(self.units, metric, "motive", arm).mean(axis=0).tolist(),
                is_main=False,
            )
            for arm in self.arms
            if arm != "motive"
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
    others = [arm for arm in arms if arm != "motive"]
    differences = {
        (metric, other): difference(units, metric, "motive", other, num_samples=num_samples) for metric in metrics for other in others
    }
    estimates |= {(FRECHET, arm): distances.estimate(arm) for arm in arms}
    differences |= {(FRECHET, other): distances.difference("motive", other) for other in others}
    main_metrics = _main_metrics(metrics)
    texts = unit_texts(ws)
    truth = load_truth(ws)
    precision = precision_table(ws, truth) if truth is not None else []
    tables: dict[str, Table] = {}
    numbers: list[Number] = []
    parts = [
        *_by_source("arms", metrics, lambda chosen: _arms_table(arms, chosen, estimates)),
        *_by_source("differences", metrics, lambda chosen: _differences_table(others, chosen, differences)),
        *(by_unit_table(units, metric, others, texts, key=key) for metric, key in zip(main_metrics, BY_UNIT, strict=True)),
        _lengths_table(ws),
        *([_precision_table(precision, truth)] if truth is not None else []),
        *(_by_source("trainings", metrics, lambda chosen: _trainings_table(arms, chosen, units)) if num_trainings(units, arms) > 1 else []),
    ]
    for table, its_numbers in parts:
        tables[table.key] = with_origin(table, its_numbers)
        numbers += its_numbers
    preference = load_preference_section(ws)
    numbers += preference.numbers
    for table in (*preference.tables, rejects_table(ws), settings_table(ws), versions_table(ws)):
        tables[table.key] = table
    overlap = _overlap(ws)
    return Findings(
        arms=arms,
        units=units,
        metrics=metrics,
        estimates=estimates,
        num_trainings=num_trainings(units, arms),
        differences=differences,
        main_metrics=main_metrics,
        missing_videos=missing_videos(units, arms),
        verdict=verdict(differences, main_metrics, num_trainings=num_trainings(units, arms)),
        preference=preference,
        precision=precision,
        truth=truth,
        tables=tables,
        numbers=numbers,
        overlap=overlap,
        facts=_facts(ws, units),
    )


def _distances(ws: Workspace) -> FlowDistances:
    flows = {arm: ws.published(f"eval_scores/{arm}").table("flow") for arm in ws.config.arms}
    queries = ws.published("eval_scores/motive").table("query_flow")
    return FlowDistances.of(flows, queries, num_samples=ws.config.evaluate.bootstrap_samples)


def _units(ws: Workspace, arm: str) -> pd.DataFrame:
    scores = ws.published(f"eval_scores/{arm}")
    return unit_values(arm, scores.table("per_video"), scores.table("causal"))


def _main_metrics(metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics of the verdict: the causal check, then whether videos show the queries' motion (by label if it is known, else by flow)."""
    drop = [metric for metric in (HELD_OUT_DROP, IN_SAMPLE_DROP) if metric in metrics][:1]
    return [*drop, QUERY_MOTION if QUERY_MOTION in metrics else HISTOGRAM]


def _by_source(
    key: str, metrics: Sequence[Metric], table: Callable[[Sequence[Metric]], tuple[Table, list[Number]]]
) -> Iterator[tuple[Table, list[Number]]]:
    """The table of our own metrics as ``key`` and that of VBench's, if any, as ``<key>_vbench``. One table of both would not fit on paper."""
    yield table([metric for metric in metrics if metric.backend != VBENCH])
    theirs = [metric for metric in metrics if metric.backend == VBENCH]
    if theirs:
        found, numbers = table(theirs)
        yield replace(found, key=f"{key}_vbench", title=f"{found.title}: VBench"), numbers


def _arms_table(
    arms: Sequence[str], metrics: Sequence[Metric], estimates: dict[tuple[Metric, str], Estimate]
) -> tuple[Table, list[Number]]:
    numbers = {
        (arm, metric): estimate_number("arms", arm, metric, estimates[metric, arm], source=f"eval_scores/{arm}")
        for arm in arms
        for metric in metrics
    }
    table = Table(
        key="arms",
        title="The arms side by side",
        columns=["arm", *(column_heading(metric) for metric in metrics)],
        rows=[[arm_name(arm), *(numbers[arm, metric].shown for metric in metrics)] for arm in arms],
        caption="Means with 95 % intervals, by bootstrap over prompts (over queries for the loss) and, where there are several, over trainings.",
        strong_rows=_strong_rows(arms),
    )
    return table, list(numbers.values())


def _differences_table(
    others: Sequence[str], metrics: Sequence[Metric], differences: dict[tuple[Metric, str], Estimate]
) -> tuple[Table, list[Number]]:
    numbers = {
        (other, metric): estimate_number(
            "differences", other, metric, differences[metric, other], source=f"eval_scores/motive, eval_scores/{other}", signed=True
        )
        for other in others
        for metric in metrics
    }
    table = Table(
        key="differences",
        title="MOTIVE minus each other arm",
        columns=["MOTIVE minus …", *(column_heading(metric) for metric in metrics)],
        rows=[[arm_name(other), *(numbers[other, metric].shown for metric in metrics)] for other in others],
        caption="Paired differences with 95 % intervals: same prompt, same sampling seed, same training number. An interval that contains 0 "
        "does not show which arm is better.",
    )
    return table, list(numbers.values())


def _trainings_table(arms: Sequence[str], metrics: Sequence[Metric], units: pd.DataFrame) -> tuple[Table, list[Number]]:
    rows, numbers = [], []
    for arm in arms:
        matrices = {metric: value_matrix(units, arm, metric) for metric in metrics}
        for training in matrices[metrics[0]].index:
            name = f"{arm_name(arm)}, training {training}" if arm != "base" else arm_name(arm)
            means = {metric: _mean_only(matrices[metric].loc[training].to_numpy(np.float64)) for metric in metrics}
            cells = [
                estimate_number("trainings", f"{arm}/{training}", metric, means[metric], source=f"eval_scores/{arm}") for metric in metrics
            ]
            numbers += cells
            rows.append([name, *(cell.shown for cell in cells)])
    table = Table(
        key="trainings",
        title="Each training by itself",
        columns=["arm and training", *(column_heading(metric) for metric in metrics)],
        rows=rows,
        caption="Means of single trainings. The spread within an arm shows how much trainings vary by chance.",
    )
    return table, numbers


def _mean_only(values_J: np.ndarray) -> Estimate:
    return Estimate(value=float(values_J.mean()), low=math.nan, high=math.nan, num_trainings=1, num_prompts=len(values_J))


def _precision_table(precision: Sequence[Precision], truth: GroundTruth) -> tuple[Table, list[Number]]:
    rows, numbers = [], []
    columns = ["precision", "lure"] if truth.is_confounded else ["precision"]
    for choice in precision:
        cells = [
            Number(
                table="precision",
                row=choice.name,
                column=column,
                value=getattr(choice, column),
                ci_low=math.nan,
                ci_high=math.nan,
                num=choice.num_clips,
                unit="% of clips",
                shown=format_number(100 * getattr(choice, column), 1),
                source=f"curated_subset/{choice.name}" if choice.kind == "arm" else "eligible_pool",
            )
            for column in columns
        ]
        numbers += cells
        rows.append([arm_name(choice.name), choice.kind, *(cell.shown for cell in cells), str(choice.num_clips)])
    table = Table(
        key="precision",
        title="Precision against the ground truth, next to the controls",
        columns=["choice", "kind", *(f"{column} (% of clips)" for column in columns), "clips"],
        rows=rows,
        caption=f"Precision: chosen clips that show “{truth.query_motion}”. "
        + ("Lure: chosen clips with the queries' background colour and another motion. " if truth.is_confounded else "")
        + "Chance is the whole pool. Controls use no trained model.",
        strong_rows=frozenset(position for position, choice in enumerate(precision) if choice.name == "motive"),
        words=frozenset({1}),
    )
    return table, numbers


def _lengths_table(ws: Workspace) -> tuple[Table, list[Number]]:
    index = LatentSet(ws, "clip").index
    length = pd.Series(index["num_frames"].to_numpy(np.float64), index=index["clip_id"].astype(str))
    magnitude = ws.published("motion_masks").table("index")
    motion_px = pd.Series(magnitude["motion_magnitude_px"].to_numpy(np.float64), index=magnitude["clip_id"].astype(str))
    rows, numbers = [], []
    choosing = [arm for arm in ws.config.arms if arm not in ("base", "full")]
    for name, clip_ids in [("pool", load_pool(ws).astype(str).tolist()), *((arm, _subset(ws, arm)) for arm in choosing)]:
        cells = [
            Number(
                table="lengths", row=name, column=column, value=float(values.loc[clip_ids].mean()), ci_low=math.nan, ci_high=math.nan,
                num=len(clip_ids), unit=unit, shown=format_number(float(values.loc[clip_ids].mean()), decimals),
                source="eligible_pool" if name == "pool" else f"curated_subset/{name}",
            )
            for column, unit, values, decimals in (("length", "frames", length, 1), ("motion_magnitude", "px", motion_px, 3))
        ]  # fmt: skip
        numbers += cells
        rows.append([arm_name(name), str(len(clip_ids)), *(cell.shown for cell in cells)])
    table = Table(
        key="lengths",
        title="The chosen clips beside the pool",
        columns=["choice", "clips", "mean length (frames)", "mean motion magnitude (px a frame)"],
        rows=rows,
        caption="Longer clips have less noisy gradients and therefore somewhat larger cosines. If MOTIVE's clips are much longer than the pool's, "
        "length may have been selected along with motion. Influence is not meant to select lively clips either.",
        strong_rows=frozenset(position for position, row in enumerate(rows) if row[0] == arm_name("motive")),
    )
    return table, numbers


def _subset(ws: Workspace, arm: str) -> list[str]:
    return ws.published(f"curated_subset/{arm}").table("subset")["clip_id"].astype(str).tolist()


def _overlap(ws: Workspace) -> list[str]:
    queries = ws.published("query_catalog").table("queries")["query_id"].astype(str)
    return sorted(set(queries) & set(load_pool(ws).astype(str).tolist()))


def _facts(ws: Workspace, units: pd.DataFrame) -> dict[str, int | float | str]:
    queries = ws.published("query_catalog").table("queries")
    prompts = set(units.loc[(units["metric"] == DYNAMIC.name) & (units["arm"] == "motive"), "unit"])
    roles = queries["role"].tolist()
    return {
        "clips": len(load_pool(ws)),
        "chosen": len(_subset(ws, "motive")),
        "queries": roles.count("query"),
        "held_out": roles.count("held_out"),
        "prompts": len(prompts),
        "draws": ws.config.evaluate.held_out_draws,
    }


def _strong_rows(arms: Sequence[str]) -> frozenset[int]:
    return frozenset(position for position, arm in enumerate(arms) if arm == "motive")
