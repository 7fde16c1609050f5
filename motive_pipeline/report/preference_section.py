"""The report's section on the preference study: a table of wins, ties and losses, Bradley-Terry strengths, and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from motive_pipeline.evaluation.bootstrap import MIN_PROMPTS, Estimate
from motive_pipeline.graph.metrics import Style
from motive_pipeline.report.tables import Number, Table, arm_name, format_estimate, format_number, with_origin
from motive_pipeline.storage.workspace import Workspace

MIN_RATERS = 3
"""With fewer raters the report states nothing about what people prefer."""

BACKEND, SOURCE = "people", "preference_study"

WIN_RATE = Style(title="win rate", unit="% of votes", factor=100.0, decimals=1, meaning="share of votes won, a tie counting half")
STRENGTH = Style(title="strength", unit="log-odds", factor=1.0, decimals=2, meaning="Bradley-Terry strength against the average arm")


@dataclass(frozen=True, kw_only=True)
class PreferenceSection:
    """Sentences, tables (none without votes) and the numbers of the tables."""

    sentences: Sequence[str]
    tables: Sequence[Table]
    numbers: Sequence[Number]


def load_preference_section(ws: Workspace) -> PreferenceSection:
    """The section for the published preference study.

    Raises:
        NotPublished: the settings compare arms, and the study is not published yet.
    """
    if not ws.config.comparisons:
        return _without_tables("The settings name no two arms for people to compare.")
    study = ws.published("preference_study")
    preference, raters = study.table("preference"), study.table("raters")
    left_out = len(study.rejects())
    if preference.empty:
        none = "Nobody has voted yet" if not left_out else f"No vote counts: {_counted(left_out, 'result file')} left out"
        return _without_tables(
            f"{none}. The folder that “motive path preference_bundle” prints holds a page on which people compare the arms' videos blind, side by "
            "side. The result files that it saves become a table here."
        )
    votes = study.table("votes")
    found = [_table(preference), _strengths(study.table("strengths"), len(votes))]
    return PreferenceSection(
        sentences=[*_verdict_sentences(preference), _participation(raters, votes, left_out)],
        tables=[with_origin(table, numbers) for table, numbers in found if table.rows],
        numbers=[number for _, numbers in found for number in numbers],
    )


def _without_tables(sentence: str) -> PreferenceSection:
    return PreferenceSection(sentences=[sentence], tables=[], numbers=[])


def _table(preference: pd.DataFrame) -> tuple[Table, list[Number]]:
    rows, numbers = [], []
    for row in preference.to_dict("records"):
        pair = f"{arm_name(row['arm_a'])} against {arm_name(row['arm_b'])}"
        votes = int(row["wins"] + row["ties"] + row["losses"])
        rate = Estimate(value=row["win_rate"], low=row["ci_low"], high=row["ci_high"], num_trainings=1, num_prompts=int(row["num_prompts"]))
        cells = [
            *(_count(row, column, votes) for column in ("wins", "ties", "losses")),
            _number(row, "win_rate", rate, format_estimate(rate, WIN_RATE), WIN_RATE.unit, votes),
        ]
        numbers += cells
        lean = f"{row['prompts_for']} : {row['prompts_against']}"
        rows.append(
            [pair, *(cell.shown for cell in cells), lean, _p_value(row["sign_test_p"]), str(row["num_raters"]), _alpha(row["agreement"])]
        )
    table = Table(
        key="preference",
        title="What people prefer",
        columns=[
            "pair",
            "wins",
            "ties",
            "losses",
            "win rate (% of votes)",
            "prompts for : against",
            "sign test p",
            "raters",
            "agreement (alpha)",
        ],
        rows=rows,
        caption="Blind votes on videos of the same prompt and sampling seed. Win rate: a tie counts half. The 95 % intervals come from a bootstrap "
        "over raters and prompts; an interval that contains 50 does not show which arm people prefer. The intervals do not cover how trainings "
        "vary or how other people would vote. Sign test: each prompt counts once. Agreement: Krippendorff's alpha, 1 full, 0 as by chance.",
    )
    return table, numbers


def _strengths(strengths: pd.DataFrame, num_votes: int) -> tuple[Table, list[Number]]:
    rows, numbers = [], []
    for row in strengths.to_dict("records"):
        found = Estimate(value=row["value"], low=row["low"], high=row["high"], num_trainings=1, num_prompts=0)
        shown = format_estimate(found, STRENGTH, signed=True)
        numbers.append(
            Number(
                table="strengths", row=row["arm"], column="strength", value=found.value, ci_low=found.low, ci_high=found.high,
                num=num_votes, unit=STRENGTH.unit, shown=shown, backend=BACKEND, source=SOURCE,
            )
        )  # fmt: skip
        rows.append([arm_name(row["arm"]), shown])
    table = Table(
        key="strengths",
        title="All arms on one scale",
        columns=["arm", "strength (log-odds)"],
        rows=rows,
        caption="Bradley-Terry strengths against the average arm, with 95 % intervals: an arm 1.1 above another wins three votes of four. There is no "
        "interval if all votes on every pair of arms agree, and the interval is too narrow if all votes on some pair agree.",
    )
    return table, numbers


def _count(row: dict, column: str, votes: int) -> Number:
    return _number(
        row,
        column,
        Estimate(value=float(row[column]), low=math.nan, high=math.nan, num_trainings=1, num_prompts=0),
        str(row[column]),
        "votes",
        votes,
    )


def _number(row: dict, column: str, found: Estimate, shown: str, unit: str, votes: int) -> Number:
    return Number(
        table="preference", row=f"{row['arm_a']}/{row['arm_b']}", column=column, value=found.value, ci_low=found.low, ci_high=found.high,
        num=votes, unit=unit, shown=shown, backend=BACKEND, source=SOURCE,
    )  # fmt: skip


def _verdict_sentences(preference: pd.DataFrame) -> list[str]:
    """One sentence for each pair of arms that enough raters compared."""
    if max(preference["num_raters"].tolist()) < MIN_RATERS:
        return [f"Fewer than {MIN_RATERS} raters: the votes below describe these raters and say nothing about people in general."]
    sentences = []
    for row in preference.to_dict("records"):
        first, second = arm_name(row["arm_a"]), arm_name(row["arm_b"])
        if row["num_raters"] < MIN_RATERS:
            sentences.append(f"{first} against {second}: fewer than {MIN_RATERS} raters.")
        elif math.isnan(row["ci_low"]):
            sentences.append(
                f"{first} against {second}: votes on fewer than {MIN_PROMPTS} prompts do not show how much prompts differ, so there is no interval."
            )
        elif row["ci_low"] > 0.5 or row["ci_high"] < 0.5:
            winner, loser = (first, second) if row["ci_low"] > 0.5 else (second, first)
            sentences.append(f"People prefer the videos of {winner} to those of {loser}.")
        else:
            sentences.append(f"The votes do not show whether people prefer {first} or {second}.")
    return sentences


def _participation(raters: pd.DataFrame, votes: pd.DataFrame, left_out: int) -> str:
    failed = raters[raters["failed"]]
    words = [
        f"{_counted(sum(raters['counted'].tolist()), 'rater')} gave {_counted(len(votes), 'vote')} on {_counted(len(set(votes['prompt'])), 'prompt')}."
    ]
    if len(failed):
        fate = "left out" if not any(failed["counted"].tolist()) else "counted anyway"
        words.append(f"{_counted(len(failed), 'rater')} failed the catch trials and {'is' if len(failed) == 1 else 'are'} {fate}.")
    if left_out:
        words.append(f"{_counted(left_out, 'result file')} left out in total; “Left out” below and the table “rejects” say why.")
    return " ".join(words)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else format_number(value, 3)


def _alpha(value: float) -> str:
    return "–" if math.isnan(value) else format_number(value, 2)
