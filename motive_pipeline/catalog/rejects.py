"""The rejects of all stages and the clips that look alike, in tables and on one page."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.catalog.duplicates import DUPLICATE_COLUMNS, MAX_BITS, duplicates_table
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.pages import page_environment
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
    """The tables as one HTML page that loads nothing else. File names and details are escaped; a file is a link to it, a member of an archive one to the archive."""
    environment = page_environment(Path(__file__).parent)
    environment.filters["file_address"] = _file_address
    return environment.get_template("rejected.html.j2").render(
        num_rejects=len(rejects),
        num_files=len(set(rejects["path"])),
        counts=[list(row.values()) for row in counts],
        reject_columns=REJECT_COLUMNS,
        rejects=rejects.head(MAX_ROWS_SHOWN).to_numpy().tolist(),
        num_alike=len(duplicates),
        max_bits=MAX_BITS,
        alike_columns=DUPLICATE_COLUMNS,
        alike=duplicates.head(MAX_ROWS_SHOWN).to_numpy().tolist(),
    )


def _file_address(location: str) -> str:
    """The address of a file on this machine; empty for any other location."""
    return MediaFile.parse(location).path.as_uri() if location.startswith("/") and "\0" not in location else ""
