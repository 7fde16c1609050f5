"""The rejects of all stages and the clips that look alike, in tables and on one page."""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.catalog.duplicates import DUPLICATE_COLUMNS, MAX_BITS, duplicates_table
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import REJECT_COLUMNS, Publication, Workspace

MAX_ROWS_SHOWN = 2000
"""The page shows this many rows; the tables have all."""


def publish_rejected(ws: Workspace) -> Publication:
    """Gather the rejects of all stages: ``rejected.parquet`` (path, clip_id, stage, reason, detail) and ``rejected.html``.

    ``duplicates.parquet`` lists the clips that look alike, and the queries that are also among the clips. These clips are used.
    """
    started = time.time()
    tables = [publication.rejects() for asset in ws.graph.rejecting if (publication := ws.published_or_none(asset))]
    frame = pd.concat([pd.DataFrame(columns=list(REJECT_COLUMNS), dtype="object"), *tables], ignore_index=True)
    counts = reason_counts(frame)
    duplicates = duplicates_table(ws)
    kinds = Counter(duplicates["kind"])

    def write(folder: Path) -> None:
        write_parquet(frame, folder / "rejected.parquet")
        write_parquet(duplicates, folder / "duplicates.parquet")
        (folder / "rejected.html").write_text(page(frame, counts, duplicates), encoding="utf-8")

    return ws.publish(
        "rejected_clips",
        content=digest_frame(frame) if duplicates.empty else digest(digest_frame(frame), digest_frame(duplicates)),
        write=write,
        started=started,
        facts={"rejected": len(frame), "files": len(set(frame["path"])), "by reason": counts}
        | {f"pairs: {kind}": kinds[kind] for kind in ("near_duplicate", "query_like_clip", "query_in_pool") if kinds[kind]},
        scores={("duplicates", "duplicates"): duplicates},
    )


def reason_counts(rejects: pd.DataFrame) -> list[dict[str, Any]]:
    """The number of rejects for each (stage, reason), most frequent first."""
    counted = Counter(zip(rejects["stage"], rejects["reason"], strict=True))
    rows = [{"stage": stage, "reason": reason, "count": count} for (stage, reason), count in counted.items()]
    return sorted(rows, key=lambda row: (-row["count"], row["stage"], row["reason"]))


def page(rejects: pd.DataFrame, counts: list[dict[str, Any]], duplicates: pd.DataFrame) -> str:
    """The tables as one HTML page that loads nothing else. File names and details are escaped."""
    shown = rejects.head(MAX_ROWS_SHOWN)
    note = f"<p>The first {MAX_ROWS_SHOWN} of {len(rejects)} rows; rejected.parquet has all.</p>" if len(rejects) > len(shown) else ""
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Rejected clips</title>\n'
        "<style>body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}"
        "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;word-break:break-word}</style>\n"
        f"<h1>Rejected clips</h1>\n<p>{len(rejects)} rejected, {len(set(rejects['path']))} files. Nothing was changed or deleted.</p>\n"
        + _table(("stage", "reason", "count"), (row.values() for row in counts))
        + note
        + _table(REJECT_COLUMNS, shown.itertuples(index=False), links=frozenset({0}))
        + _alike(duplicates)
        + "</html>\n"
    )


def _alike(duplicates: pd.DataFrame) -> str:
    if duplicates.empty:
        return "<h1>Clips that look alike</h1>\n<p>None.</p>\n"
    shown = duplicates.head(MAX_ROWS_SHOWN)
    return (
        f"<h1>Clips that look alike</h1>\n<p>{len(duplicates)} pairs whose perceptual hashes differ in at most {MAX_BITS} of 256 bits"
        f"{'; the nearest are shown, duplicates.parquet has all' * (len(duplicates) > len(shown))}. All of them are used.</p>\n"
        + _table(DUPLICATE_COLUMNS, shown.itertuples(index=False), links=frozenset({4, 5}))
    )


def _table(names: Iterable[str], rows: Iterable[Iterable[Any]], *, links: frozenset[int] = frozenset()) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(str(cell), is_file=place in links)}</td>" for place, cell in enumerate(row)) + "</tr>\n"
        for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>\n"


def _cell(text: str, *, is_file: bool) -> str:
    """The text, escaped. A file becomes a link to it, a member of an archive a link to the archive."""
    shown = html.escape(text)
    if not is_file or not text.startswith("/") or "\0" in text:
        return shown
    return f'<a href="{html.escape(MediaFile.parse(text).path.as_uri())}">{shown}</a>'
