"""What a run prints at the end: the path of the report, the best clips, and the arms side by side. It reads what is published and computes nothing, so it
must not import what computes: torch and matplotlib take longer to import than a run that finds nothing stale takes in all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from motive_pipeline.graph import Rule
from motive_pipeline.report.tables import Table, arm_name, format_number, plain_text
from motive_pipeline.storage.workspace import Publication, Workspace

SUMMARY_CLIPS = 10
_CAPTION_LETTERS = 52
_ORDER: dict[Rule, str] = {
    "vote": "By votes, then by mean influence over the queries.",
    "mean_influence": "By mean influence over the queries.",
}


def summary(ws: Workspace) -> str:
    """The summary after a run: the path of the report, the best clips, and the arms side by side.

    Raises:
        NotPublished: there is no report yet.
    """
    report = ws.published("eval_report")
    best = best_table(ws)
    return "\n".join(
        [
            f"Report: {report.path / 'report.html'}",
            "",
            f"{best.title} by {arm_name(ws.config.lead_arm)}" if best.rows else best.title,
            *([plain_text(best)] if best.rows else []),
            "",
            f"The arms side by side (95 % intervals): {report.facts['verdict']}",
            plain_text(_published_arms_table(report)),
            *_preference_hint(ws),
        ]
    )


def _preference_hint(ws: Workspace) -> list[str]:
    """The path of the page on which people can compare the arms."""
    bundle = ws.published_or_none("preference_bundle")
    return ["", f"Ask people, blind: {bundle.path / 'index.html'} (docs/preference.md)"] if bundle else []


def _published_arms_table(report: Publication) -> Table:
    """The table of the arms, as in the report."""
    numbers = report.table("numbers")
    numbers = numbers[numbers["table"] == "arms"]
    shown = numbers.pivot(index="row", columns="column", values="shown")
    arms, metrics = list(dict.fromkeys(numbers["row"])), list(dict.fromkeys(numbers["column"]))
    units = dict(zip(numbers["column"], numbers["unit"], strict=True))
    rows = [[f"{metric} ({units[metric]})", *(str(shown.at[arm, metric]) for arm in arms)] for metric in metrics]
    return Table(key="arms", title="The arms side by side", columns=["metric", *arms], rows=rows, caption="")


def best_clips(ws: Workspace, count: int) -> list[Mapping[str, object]]:
    """The first clips of the lead variant's ranking that have a vote: rank, votes, mean influence, caption, file. What no query voted for is not among
    the best, however few there are. Where the lead arm chooses by wishes of its own, its first clips, with their ranks in its subset."""
    catalog = ws.published("clip_catalog").table("catalog").set_index("clip_id")
    ranking = ws.published(f"voted_ranking/{ws.config.lead_variant}").table("ranking").query("votes > 0")
    if ws.config.arm(ws.config.lead_arm).selection:
        subset = ws.published(f"curated_subset/{ws.config.lead_arm}").table("subset")
        ranking = subset.merge(ranking.drop(columns="rank"), on="clip_id")
    ranking = ranking.sort_values("rank").head(count)
    return [
        {
            "rank": int(row["rank"]),
            "votes": int(row["votes"]),
            "mean_influence": float(row["mean_influence"]),
            "caption": str(catalog.at[row["clip_id"], "caption"]),
            "file": str(catalog.at[row["clip_id"], "path"]),
        }
        for row in ranking.to_dict("records")
    ]


def best_table(ws: Workspace, *, letters: int | None = _CAPTION_LETTERS) -> Table:
    """The first clips of the ranking. Captions are cut to ``letters``, and control characters are removed."""
    rows = [
        [
            str(clip["rank"]),
            str(clip["votes"]),
            format_number(float(str(clip["mean_influence"])), 4, signed=True),
            _one_line(str(clip["caption"]), letters),
            _one_line(str(clip["file"]) if letters else Path(str(clip["file"])).name, None),
        ]
        for clip in best_clips(ws, SUMMARY_CLIPS)
    ]
    # what no query voted for is not shown, however few clips are left
    title = f"The {'ten' if len(rows) == SUMMARY_CLIPS else len(rows)} best clips" if rows else "No clip stands out: none has a vote"
    return Table(
        key="best",
        title="The best clip" if len(rows) == 1 else title,
        columns=["rank", "votes", "mean influence", "caption", "file"],
        rows=rows,
        caption=f"{_ORDER[ws.config.of_variant(ws.config.lead_variant).vote.rule]} Clips without a vote are not listed.{_wishes(ws)}",
        words=frozenset({3, 4}),
    )


def _wishes(ws: Workspace) -> str:
    """What the lead arm selects by, besides its ranking."""
    words = ws.config.arm(ws.config.lead_arm).selection.in_words()
    return f" {arm_name(ws.config.lead_arm)} selects from that order: {'; '.join(words)}." if words else ""


def _one_line(text: str, letters: int | None) -> str:
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(line.split())
    return line if letters is None or len(line) <= letters else line[: letters - 1] + "…"
