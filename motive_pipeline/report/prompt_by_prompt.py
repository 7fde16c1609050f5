"""Behind the means: how many videos each number rests on, which videos are missing, and the differences prompt by prompt."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from motive_pipeline.evaluation.values import difference_matrix
from motive_pipeline.graph.metrics import FLICKERING, HELD_OUT_DROP, IN_SAMPLE_DROP, Metric
from motive_pipeline.report.tables import Number, Table, arm_name, format_number
from motive_pipeline.storage.workspace import Workspace

MAX_ROWS = 200
"""A table shows at most this many prompts; ``numbers.parquet`` has all."""

LOSSES = (HELD_OUT_DROP, IN_SAMPLE_DROP)


def unit_texts(ws: Workspace) -> dict[str, str]:
    """The text of each unit: the prompt of a video, the caption of a query."""
    queries = ws.published("query_catalog").table("queries")
    texts = dict(zip(queries["query_id"].astype(str), queries["caption"].astype(str), strict=True))
    for arm in ws.config.arms:
        videos = ws.published(f"generated_videos/{arm}").table("videos").drop_duplicates("prompt_index")
        for index, prompt in zip(videos["prompt_index"], videos["prompt"].astype(str), strict=True):
            texts.setdefault(f"prompt {index:05d}", prompt)
    return texts


def counts(units: pd.DataFrame, metric: Metric) -> str:
    """The number of videos (or queries) behind the values of a metric."""
    chosen = units[(units["metric"] == metric.name) & (units["backend"] == metric.backend)]
    if metric in LOSSES:
        number = len(set(chosen["unit"].tolist()))
        return f"{number} {'query' if number == 1 else 'queries'}"
    by_arm: Counter[str] = Counter()
    for arm, number in zip(chosen["arm"].tolist(), chosen["num"].tolist(), strict=True):
        by_arm[arm] += int(number)
    trained = sorted({number for arm, number in by_arm.items() if arm != "base"})
    text = f"{trained[0]} videos an arm" if len(trained) == 1 else f"{trained[0]} to {trained[-1]} videos an arm"
    return text + (f", {by_arm['base']} of the base model" if "base" in by_arm and [by_arm["base"]] != trained else "")


def missing_videos(units: pd.DataFrame, arms: Sequence[str]) -> list[str]:
    """A sentence for each arm that lacks a prompt in some training, so that its numbers rest on fewer prompts than others'."""
    videos = units[units["metric"] == FLICKERING.name]
    every = set(videos["unit"].tolist())
    sentences = []
    for arm in arms:
        own = videos[videos["arm"] == arm]
        trainings = set(own["training"].tolist())
        present = Counter(own["unit"].tolist())
        missing = [name for name in every if present[name] < len(trainings)]
        if missing:
            sentences.append(
                f"{arm_name(arm)}: {len(missing)} of {len(every)} prompts lack a video of some training. Its means and all comparisons with it leave "
                "these prompts out."
            )
    return sentences


def by_unit_table(
    units: pd.DataFrame, metric: Metric, others: Sequence[str], texts: Mapping[str, str], *, lead: str, key: str
) -> tuple[Table, list[Number]]:
    """The difference ``lead`` - arm for each prompt (or query), averaged over trainings; a dash where one of the two arms has no value."""
    style = metric.style
    means: dict[str, dict[str, float]] = {other: difference_matrix(units, metric, lead, other).mean(axis=0).to_dict() for other in others}  # type: ignore[misc]
    names = sorted({name for found in means.values() for name in found})
    num_trainings = len(set(units.loc[units["arm"] == lead, "training"].tolist()))
    numbers = [
        Number(
            table=key,
            row=name,
            column=other,
            value=found[name],
            ci_low=math.nan,
            ci_high=math.nan,
            num=num_trainings,
            unit=style.unit,
            shown=format_number(found[name] * style.factor, style.decimals, signed=True),
            backend=metric.backend,
            source=f"eval_scores/{lead}, eval_scores/{other}",
        )
        for other, found in means.items()
        for name in names
        if name in found
    ]
    shown = {(number.row, number.column): number.shown for number in numbers}
    what = "query" if metric in LOSSES else "prompt"
    better = f"below 0 {arm_name(lead)} is closer to the queries" if metric.lower_is_better else f"above 0 {arm_name(lead)} is better"
    table = Table(
        key=key,
        title=f"{what[0].upper()}{what[1:]} by {what}: {metric.label}",
        columns=[what, *(f"minus {arm_name(other)}" for other in others)],
        rows=[[texts.get(name, name), *(shown.get((name, other), "–") for other in others)] for name in names[:MAX_ROWS]],
        caption=f"{arm_name(lead)} minus each other arm, in {style.unit}, averaged over trainings; {better}."
        + (f" The first {MAX_ROWS} of {len(names)}; numbers.parquet has all." if len(names) > MAX_ROWS else ""),
    )
    return table, numbers
