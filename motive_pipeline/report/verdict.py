"""The verdict in words: the numbers speak for the lead arm, against it, or are not enough to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motive_pipeline.evaluation.bootstrap import MIN_PROMPTS, Estimate
from motive_pipeline.graph import ARMS
from motive_pipeline.graph.metrics import Metric
from motive_pipeline.report.tables import arm_name, format_estimate, joined

MIN_TRAININGS = 3
RIVALS = tuple(arm.name for arm in ARMS.values() if arm.is_rival)
"""The built-in arms that the lead arm has to beat, beside those of the config's own variants. It is also compared with the base model and with the pool
without its worst clips, without a verdict."""

_COUNT_WORDS = {0: "No training", 1: "One training", 2: "Two trainings"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A headline, and the sentences that explain it."""

    headline: str
    sentences: Sequence[str]


def verdict(
    differences: Mapping[tuple[Metric, str], Estimate],
    metrics: Sequence[Metric],
    *,
    lead: str,
    own: Mapping[Metric, Estimate],
    num_trainings: int,
) -> Verdict:
    """The verdict over ``metrics`` (the first is the main one), from the paired differences ``lead`` - rival. ``own`` holds the lead arm's estimates."""
    rivals = [arm for metric, arm in differences if metric == metrics[0] and (arm in RIVALS or arm not in ARMS)]
    if num_trainings < MIN_TRAININGS:
        return _no_verdict(num_trainings)
    if not rivals:
        return Verdict(
            headline=f"No verdict: there is no arm to compare {arm_name(lead)} with",
            sentences=[f"Switch on one of {', '.join(RIVALS)} under arms."],
        )
    main = {rival: differences[metrics[0], rival] for rival in rivals}
    if (num := min(found.num_prompts for found in main.values())) < MIN_PROMPTS:
        return _too_few_prompts(num, metrics[0], lead)
    sentences = [_sentence(metric, own[metric], {rival: differences[metric, rival] for rival in rivals}) for metric in metrics]
    return Verdict(headline=_headline(metrics[0], main, lead), sentences=sentences)


def _no_verdict(num_trainings: int) -> Verdict:
    count = _COUNT_WORDS[num_trainings]
    return Verdict(
        headline=f"{count} per arm: no verdict",
        sentences=[
            f"Trainings vary by chance, and this is part of every difference between arms. It takes at least {MIN_TRAININGS} trainings of each arm "
            "(finetune.seeds) to separate chance from effect. The intervals below cover only the choice of prompts and queries."
        ],
    )


def _too_few_prompts(num: int, metric: Metric, lead: str) -> Verdict:
    return Verdict(
        headline=f"{num} {'query or prompt' if num == 1 else 'queries or prompts'} in common: no verdict",
        sentences=[
            f"{arm_name(lead)} is compared on {metric.style.title} query by query or prompt by prompt. Fewer than {MIN_PROMPTS} do not show how much they differ, so "
            "there are values and no intervals. Give more (queries.held_out_path, generate.prompts)."
        ],
    )


def _headline(metric: Metric, found: Mapping[str, Estimate], lead: str) -> str:
    name = metric.style.title
    beaten, lost, undecided = _by_outcome(metric, found)
    if not lost and not undecided:
        return f"{arm_name(lead)} beats {_names(beaten)} on {name}"
    parts = [f"beats {_names(beaten)}"] if beaten else []
    parts += [f"loses to {_names(lost)}"] if lost else []
    parts += [f"is not clearly different from {_names(undecided)}"] if undecided else []
    return f"On {name}, {arm_name(lead)} {joined(parts)}"


def _sentence(metric: Metric, own: Estimate, found: Mapping[str, Estimate]) -> str:
    style = metric.style
    beaten, lost, undecided = _by_outcome(metric, found)
    shown = "; ".join(f"against {arm_name(rival)} {format_estimate(estimate, style, signed=True)}" for rival, estimate in found.items())
    says = [f"better than {_names(beaten)}"] if beaten else []
    says += [f"worse than {_names(lost)}"] if lost else []
    says += [f"not clearly different from {_names(undecided)}"] if undecided else []
    unit = "percentage points" if style.unit.startswith("%") else "score, lower is better" if metric.lower_is_better else "score"
    title = f"{style.title[0].upper()}{style.title[1:]}"
    return f"{title} {format_estimate(own, style)} {style.unit}: {joined(says)}. Difference in {unit}, 95 % interval: {shown}."


def _by_outcome(metric: Metric, found: Mapping[str, Estimate]) -> tuple[list[str], list[str], list[str]]:
    """The rivals that the lead arm beats, those it loses to, and those whose interval contains zero."""
    sign = -1 if metric.lower_is_better else 1
    beaten = [rival for rival, estimate in found.items() if estimate.excludes_zero and sign * estimate.value > 0]
    lost = [rival for rival, estimate in found.items() if estimate.excludes_zero and sign * estimate.value < 0]
    return beaten, lost, [rival for rival in found if rival not in (*beaten, *lost)]


def _names(arms: Sequence[str]) -> str:
    return joined([arm_name(arm) for arm in arms])
