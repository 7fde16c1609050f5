"""The audit's verdict in words: what the evidence supports, what it does not, and what to change.

It reads the rows of the checks and computes nothing but Holm's correction, over the tests of one kind. Thresholds are on figures, not on
significance alone: a bias that is certain and tiny is no reason to change anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from scipy import stats

from motive_pipeline.evaluation.audit.estimators import CONTROLS
from motive_pipeline.evaluation.audit.group_verdict import group_headline, group_sentences
from motive_pipeline.evaluation.audit.lds import holm
from motive_pipeline.evaluation.audit.lds_check import LEVEL
from motive_pipeline.evaluation.audit.table import AuditRow
from motive_pipeline.evaluation.audit.wording import CHANGE, HEADLINE, SUPPORTED, UNSUPPORTED, error, listed, number, sentence

MIN_RELIABILITY = 0.3
"""Targets less reliable than this decide nothing: training does not tell one subset from another."""

MIN_AGREEMENT = 0.7
"""Two ways to compute the same influence that agree less than this give different choices."""

SURE_AGREEMENT = 0.5
"""A sample supports agreement if it is above this even one standard error lower."""

MAX_BIAS = 0.3
"""A rank correlation with length or magnitude above this is a bias worth a word."""

MIN_STABILITY = 0.7
"""If less of the choice than this survives without one query, single queries decide it."""

NEGLIGIBLE_LOSS = 0.9
"""The rank correlation with the wider projection below which a wider one is worth its disk."""


def verdict_rows(
    rows: Sequence[AuditRow], *, variants: Sequence[str], proj_dim: int, reliability: float, unfinished: str, asked_lds: bool
) -> list[AuditRow]:
    """Rows of the check ``verdict``: ``parameter`` says which kind of sentence it is, ``verdict`` holds the sentence. The headline comes first."""
    said = [
        *_training(rows, variants, reliability, unfinished, asked_lds),
        *group_sentences(rows, variants),
        *_estimate(rows, variants[0], proj_dim),
        *_queries(rows, variants[0]),
        *_biases(rows),
        *_leaks(rows, variants[0]),
    ]
    return [AuditRow(check="verdict", parameter=kind, verdict=sentence) for kind, sentence in said]


def _training(
    rows: Sequence[AuditRow], variants: Sequence[str], reliability: float, unfinished: str, asked_lds: bool
) -> Iterator[tuple[str, str]]:
    """Whether influence predicts what training does. The headline rests on this alone; where it was not asked for, on what leaving out groups showed."""
    if not asked_lds:
        yield HEADLINE, group_headline(rows, variants[0]) or "Not tested: whether influence predicts what training does"
        yield CHANGE, "Put lds into audit.checks to train on random subsets and score every variant and control by what happens."
        return
    if math.isnan(reliability):
        said = next(row.verdict for row in rows if row.check == "lds")
        yield HEADLINE, "No conclusion yet: too few trainings"
        yield UNSUPPORTED, sentence(said)
        return
    if reliability < MIN_RELIABILITY:
        yield HEADLINE, "No conclusion: the trainings are too noisy to tell one subset from another"
        yield (
            UNSUPPORTED,
            f"Two trainings of the same subsets agree by {number(reliability)} only (at least {MIN_RELIABILITY} is needed), so no score means anything.",
        )
        yield (
            CHANGE,
            "Until then choose by flow similarity (the arm flow_similarity) or at random. Make the targets more reliable: more audit.trainings, smaller "
            "steps (audit.learning_rate, audit.ema), audit.timesteps: stratified.",
        )
        return
    yield from _against_controls(rows, variants)
    if unfinished:
        yield CHANGE, sentence(f"The score rests on a part of the trainings: {unfinished}")


def _against_controls(rows: Sequence[AuditRow], variants: Sequence[str]) -> Iterator[tuple[str, str]]:
    scores = {row.variant: row for row in rows if row.check == "lds" and row.parameter == "mean over queries"}
    outcomes = {
        variant: {row.against: row.verdict.partition(" (")[0] for row in rows if row.check == "lds_difference" and row.variant == variant}
        for variant in variants
    }
    best = max(variants, key=lambda variant: (sum(_beats(outcomes[variant], control) for control in CONTROLS), scores[variant].value))
    known = [control for control in CONTROLS if control in outcomes[best]]
    beaten = [control for control in known if _beats(outcomes[best], control)]
    left = [control for control in known if control not in beaten]
    if not left:
        yield HEADLINE, f"The influence of {best} predicts what training does better than every control"
    elif beaten:
        yield (
            HEADLINE,
            f"The influence of {best} predicts what training does better than {listed(beaten)}, but not clearly better than {listed(left)}",
        )
    else:
        yield HEADLINE, "No evidence that influence predicts what training does better than a control"
    for variant in variants:
        row = scores[variant]
        interval = "" if math.isnan(row.ci_low) else f", 95 % interval {number(row.ci_low)} to {number(row.ci_high)}"
        share = next(each.value for each in rows if each.check == "lds" and each.variant == variant and each.against == "ceiling")
        kind = SUPPORTED if row.ci_low > 0 else UNSUPPORTED
        what = "predicts" if row.ci_low > 0 else "is not shown to predict"
        yield (
            kind,
            f"{variant} {what} what training on a subset does: LDS {number(row.value)}{interval}, {number(share)} of what these targets allow.",
        )
        better = [against for against, outcome in outcomes[variant].items() if outcome == "better"]
        worse = [against for against, outcome in outcomes[variant].items() if outcome == "worse"]
        if better:
            yield SUPPORTED, f"{variant} predicts better than {listed(better)} (Holm, all comparisons together at {LEVEL:.0%})."
        if worse:
            yield UNSUPPORTED, f"{variant} predicts worse than {listed(worse)} (Holm, all comparisons together at {LEVEL:.0%})."
    if shown := [control for control in left if scores[control].ci_low > 0]:
        yield (
            CHANGE,
            f"Choose by {shown[0]}, which costs less, unless another variant or more draws score higher; more audit.subsets narrow the intervals.",
        )
    elif left:
        yield (
            CHANGE,
            f"No control that {best} does not beat is shown to predict it either: more audit.subsets narrow the intervals. Which choice teaches, trained "
            f"arms show: {best} beside {listed(left)}.",
        )
    elif best != variants[0]:
        yield CHANGE, f"Choose by {best} instead of {variants[0]}."


def _estimate(rows: Sequence[AuditRow], variant: str, proj_dim: int) -> Iterator[tuple[str, str]]:
    """Projection, timestep, noise, precision: whether the influence is what the method means by it."""
    projected = _value(rows, "projection", f"spearman at {proj_dim}", variant)
    if projected is not None:
        is_wide = projected.value >= NEGLIGIBLE_LOSS
        alike = f"{proj_dim} entries rank the clips as {projected.against} do ({number(projected.value)})"
        yield SUPPORTED if is_wide else UNSUPPORTED, f"The projection is wide enough: {alike}."
        if not is_wide:
            yield CHANGE, f"Raise influence.proj_dim above {proj_dim}; what is stored allows it without a new gradient."
    own = next((row for row in rows if row.check == "timestep" and row.variant == variant), None)
    noise = next((row for row in rows if row.check == "noise" and row.variant == variant), None)
    for row, what in ((own, "one timestep"), (noise, "one noise")):
        if row is None or math.isnan(row.value):
            continue
        is_sure = row.value >= MIN_AGREEMENT and row.value - (0.0 if math.isnan(row.std_error) else row.std_error) >= SURE_AGREEMENT
        with_what = f"the {row.against} timesteps" if row is own else f"{row.against} does"
        yield (
            SUPPORTED if is_sure else UNSUPPORTED,
            f"Influence by {what} ranks as {with_what}: agreement {number(row.value)}{error(row)}, on a sample of {row.num_units} clips and queries.",
        )
    if any(row is not None and row.value < MIN_AGREEMENT for row in (own, noise)):
        yield (
            CHANGE,
            "Average several draws (gradient.timestep as a list, gradient.num_noises, or a variant with draws); each costs one more gradient pass.",
        )
    precise = next((row for row in rows if row.check == "precision" and row.parameter.startswith("spearman")), None)
    if precise is not None and not math.isnan(precise.value):
        is_enough = precise.value >= MIN_AGREEMENT
        alike = f"gradients in bfloat16 and float32 rank pairs of clips alike ({number(precise.value)})"
        yield SUPPORTED if is_enough else UNSUPPORTED, f"Either precision is enough: {alike}."
        if not is_enough:
            yield CHANGE, "Set model.dtype: float32."


def _queries(rows: Sequence[AuditRow], variant: str) -> Iterator[tuple[str, str]]:
    stable = _value(rows, "queries", "chosen without one query", variant)
    if stable is None:
        said = next((row.verdict for row in rows if row.check == "queries" and row.variant == variant), "")
        if said:
            yield UNSUPPORTED, sentence(f"Stability of the choice is unknown: {said}")
            yield CHANGE, "Add queries of the same motion."
        return
    kind = SUPPORTED if stable.value >= MIN_STABILITY else UNSUPPORTED
    yield (
        kind,
        f"The choice does not hang on single queries: without one, {100 * stable.value:.0f} % of it stays, on average over the queries.",
    )
    if stable.value < MIN_STABILITY:
        yield CHANGE, "Add queries of the same motion: single ones decide the choice."


def _biases(rows: Sequence[AuditRow]) -> Iterator[tuple[str, str]]:
    """Correlations of influence with length and magnitude, by all variants together under Holm."""
    tested = [
        row
        for row in rows
        if (row.check, row.parameter) in {("length", "mean influence"), ("motion", "correlation with magnitude")} and row.std_error > 0
    ]
    adjusted = holm([2 * float(stats.norm.sf(abs(row.value) / row.std_error)) for row in tested])
    found = [row for row, p_value in zip(tested, adjusted, strict=True) if p_value <= LEVEL and abs(row.value) >= MAX_BIAS]
    for row in found:
        what = "length" if row.check == "length" else "motion magnitude"
        yield UNSUPPORTED, f"The influence of {row.variant} is independent of {what}: it is not (rank correlation {number(row.value)})."
    if tested and not found:
        yield (
            SUPPORTED,
            f"Influence is no filter for length or motion magnitude (no rank correlation above {MAX_BIAS}, Holm over {len(tested)} tests).",
        )


def _leaks(rows: Sequence[AuditRow], variant: str) -> Iterator[tuple[str, str]]:
    found = [row for row in rows if row.check == "leakage" and row.variant == variant and row.value > 0]
    for row in found:
        yield UNSUPPORTED, f"Leakage: {row.parameter}: {row.value:.0f} of {row.num_units}."
    if found:
        yield CHANGE, "Take the queries' copies and the near-duplicates out of the clips (the table duplicates lists them)."
    elif any(row.check == "leakage" for row in rows):
        yield SUPPORTED, "No query is in the pool, and no chosen clip looks like a query or like another chosen clip."


def _beats(outcomes: dict[str, str], control: str) -> bool:
    return outcomes.get(control) == "better"


def _value(rows: Sequence[AuditRow], check: str, parameter: str, variant: str) -> AuditRow | None:
    """The row with this figure, if it has a number."""
    found = (row for row in rows if (row.check, row.parameter, row.variant, row.query_id) == (check, parameter, variant, ""))
    return next((row for row in found if not math.isnan(row.value)), None)
