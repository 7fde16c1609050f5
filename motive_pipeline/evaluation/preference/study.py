"""Publishes ``preference_study``: the table ``preference`` from the result files, with raters, agreement and rejected files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.evaluation.preference.results import Refusal, ResultFile, load_results, result_files, results_folder
from motive_pipeline.evaluation.preference.statistics import krippendorff_alpha, sign_test, strengths, win_rate
from motive_pipeline.files.file_stat import printable
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, Reject, Workspace

ASSET = STAGE = "preference_study"
BUNDLE = "preference_bundle"

SCORES = {"left": 1.0, "tie": 0.5, "right": 0.0}
"""The score of the left video for each choice."""

VOTE_COLUMNS = {"rater": "object", "arm_a": "object", "arm_b": "object", "prompt": "object", "pair": "int64", "score": "float64"}
RATER_COLUMNS = {
    "rater": "object", "plan": "int64", "votes": "int64", "skipped": "int64", "ties": "int64", "left": "int64", "catch_right": "int64",
    "catch_seen": "int64", "failed": "bool", "counted": "bool", "median_s": "float64", "file": "object",
}  # fmt: skip
PREFERENCE_COLUMNS = {
    field.name: {"string": "object", "double": "float64"}.get(str(field.type), str(field.type)) for field in TABLES["preference"]
}
STRENGTH_COLUMNS = {"arm": "object", "value": "float64", "low": "float64", "high": "float64"}


@dataclass(frozen=True, kw_only=True)
class Study:
    """The evaluated result files: one row for each vote that counts, for each rater, and for each comparison of arms."""

    votes: pd.DataFrame
    raters: pd.DataFrame
    preference: pd.DataFrame
    strengths: pd.DataFrame
    agreement: float
    rejects: list[Reject]


def publish_preference_study(ws: Workspace) -> Publication:
    """Publish ``preference_study``: ``preference.parquet`` (the rows of the table ``preference``), ``raters.parquet``, ``votes.parquet``,
    ``strengths.parquet``. Without result files the tables are empty.

    Raises:
        NotPublished: there is no bundle.
        ConfigError: ``preference.results_path`` is not a folder.
    """
    started = time.time()
    key = Key.of(ws.published(BUNDLE))
    settings = ws.config.preference
    study = evaluate_study(
        key,
        *load_results(result_files(ws), key),
        min_catch_share=settings.min_catch_share,
        exclude_failed=settings.exclude_failed,
        num_samples=ws.config.evaluate.bootstrap_samples,
    )
    tables = {name: getattr(study, name) for name in ("preference", "raters", "votes", "strengths")}

    def write(folder: Path) -> None:
        for name, table in tables.items():
            write_parquet(table, folder / f"{name}.parquet")

    return ws.publish(
        ASSET,
        content=digest({name: digest_frame(table) for name, table in tables.items()}),
        write=write,
        started=started,
        facts=_facts(ws, study),
        table_rows=len(study.votes),
        rejects=study.rejects,
        scores={("preference", ASSET): study.preference},
    )


def evaluate_study(
    key: Key,
    taken: Sequence[ResultFile],
    refused: Sequence[Refusal],
    *,
    min_catch_share: float,
    exclude_failed: bool,
    num_samples: int,
) -> Study:
    """The study of these result files."""
    rows = [_rater_row(file, key, min_catch_share) for file in taken]
    for row in rows:
        row["counted"] = not (row["failed"] and exclude_failed)
    raters = _frame(rows, RATER_COLUMNS)
    counted = set(raters.loc[raters["counted"], "rater"])
    votes = _frame([vote for file in taken if file.result.rater in counted for vote in _votes(file, key)], VOTE_COLUMNS)
    ranked = strengths(votes, num_samples=num_samples) if len(votes) else []
    failed = [
        Refusal(
            path=file.path,
            reason="failed_catch_trials",
            detail=f"{row['catch_right']} of {row['catch_seen']} catch trials right; preference.min_catch_share requires {min_catch_share:g}",
        )
        for file, row in zip(taken, rows, strict=True)
        if not row["counted"]
    ]
    return Study(
        votes=votes,
        raters=raters,
        preference=_comparisons(votes, key, num_samples),
        strengths=_frame([vars(strength) for strength in ranked], STRENGTH_COLUMNS),
        agreement=krippendorff_alpha(votes),
        rejects=[
            Reject(path=printable(str(refusal.path)), clip_id="", stage=STAGE, reason=refusal.reason, detail=refusal.detail)
            for refusal in sorted([*refused, *failed], key=lambda refusal: str(refusal.path))
        ],
    )


def _rater_row(file: ResultFile, key: Key, min_catch_share: float) -> dict[str, Any]:
    """One rater: the number of answers, signs of carelessness, and the result of the catch trials."""
    result = file.result
    plan = key.plan(result.plan)
    answers = [(vote, plan[vote.turn]) for vote in result.votes if vote.choice != "skip"]
    catches = [(vote.choice == "left") == trial.first_left and vote.choice != "tie" for vote, trial in answers if trial.is_catch]
    pairs = [vote for vote, trial in answers if not trial.is_catch]
    return {
        "rater": result.rater,
        "plan": result.plan,
        "votes": len(pairs),
        "skipped": len(result.votes) - len(answers),
        "ties": sum(vote.choice == "tie" for vote in pairs),
        "left": sum(vote.choice == "left" for vote in pairs),
        "catch_right": sum(catches),
        "catch_seen": len(catches),
        "failed": bool(catches) and sum(catches) < min_catch_share * len(catches),
        "median_s": float(pd.Series([vote.ms for vote in pairs], dtype="float64").median()) / 1000 if pairs else 0.0,
        "file": printable(file.path.name),
    }


def _votes(file: ResultFile, key: Key) -> list[dict[str, Any]]:
    """A rater's answers on pairs; ``score`` is the score of ``arm_a``."""
    plan = key.plan(file.result.plan)
    rows = []
    for vote in file.result.votes:
        trial = plan[vote.turn]
        if vote.choice == "skip" or trial.is_catch:
            continue
        pair = key.pairs[trial.pair]
        left = SCORES[vote.choice]
        score = left if trial.first_left else 1.0 - left
        rows.append(
            {**{name: pair[name] for name in ("arm_a", "arm_b", "prompt")}, "rater": file.result.rater, "pair": trial.pair, "score": score}
        )
    return rows


def _comparisons(votes: pd.DataFrame, key: Key, num_samples: int) -> pd.DataFrame:
    """The rows of the table ``preference``, in the order of the study's comparisons."""
    rows = []
    for arm_a, arm_b in dict.fromkeys((pair["arm_a"], pair["arm_b"]) for pair in key.pairs):
        chosen = pd.DataFrame(votes[(votes["arm_a"] == arm_a) & (votes["arm_b"] == arm_b)])
        if chosen.empty:
            continue
        scores = chosen["score"].tolist()
        rate, sign = win_rate(chosen, num_samples=num_samples), sign_test(chosen)
        rows.append(
            {
                "arm_a": arm_a,
                "arm_b": arm_b,
                "wins": scores.count(1.0),
                "ties": scores.count(0.5),
                "losses": scores.count(0.0),
                "win_rate": rate.value,
                "ci_low": rate.low,
                "ci_high": rate.high,
                "num_raters": len(set(chosen["rater"])),
                "num_prompts": len(set(chosen["prompt"])),
                "prompts_for": sign.num_for,
                "prompts_against": sign.num_against,
                "sign_test_p": sign.p_value,
                "agreement": krippendorff_alpha(chosen),
            }
        )
    return _frame(rows, PREFERENCE_COLUMNS)


def _frame(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """A table whose columns have their types even without rows."""
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _facts(ws: Workspace, study: Study) -> dict[str, Any]:
    raters = study.raters
    return {
        "raters": len(raters),
        "raters who failed catch trials": sum(raters["failed"].tolist()),
        "raters left out": raters["counted"].tolist().count(False),
        "files left out": len(study.rejects),
        "votes": len(study.votes),
        "agreement (Krippendorff's alpha)": round(study.agreement, 3)
        if len(study.votes) and study.agreement == study.agreement
        else "unknown",
        "comparisons": _as_records(study.preference),
        "strengths": _as_records(study.strengths),
        "by rater": _as_records(raters),
        "put result files into": str(results_folder(ws)),
    }


def _as_records(table: pd.DataFrame) -> list[dict[str, Any]] | str:
    rows = table.to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows] or "none yet"
