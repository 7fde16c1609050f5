"""How many clips and queries took part, of how many there are, and what became of the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.storage.workspace import Workspace

_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Participants:
    """``used`` of ``total`` took part; ``left_out`` says of each other one why it did not (``q_box.mp4 rejected, no_motion``)."""

    noun: str
    nouns: str
    used: int
    total: int
    left_out: Sequence[str] = ()

    @property
    def count(self) -> str:
        """``3 queries``, or ``2 of 3 queries``."""
        noun = self.noun if self.total == 1 else self.nouns
        return f"{self.total} {noun}" if self.used == self.total else f"{self.used} of {self.total} {noun}"

    @property
    def told(self) -> str:
        """The count with the reasons: ``2 of 3 queries: q_box.mp4 rejected, no_motion``."""
        more = f"; and {len(self.left_out) - _NAMED} more" if len(self.left_out) > _NAMED else ""
        return f"{self.count}: {'; '.join(self.left_out[:_NAMED])}{more}" if self.left_out else self.count


def query_participants(ws: Workspace, role: str, used: Collection[str]) -> Participants:
    """The queries (or held-out queries, by ``role``), of which those with an id in ``used`` took part.

    A file that the catalog could not read has no role; it counts as held-out if it lies in their folder.
    """
    queries = ws.published("query_catalog").table("queries").query("role == @role")
    unread = [reject for reject in _rejects(ws, ["query_catalog"]) if _role_of(ws, reject[0]) == role]
    of_queries = [
        asset.key for asset in ws.graph.assets.values() if asset.output.role == "query" and asset.lane in ("", ws.config.lead_variant)
    ]
    reasons = {clip_id: reason for _, clip_id, reason in _rejects(ws, of_queries)}
    absent = [
        (str(path), str(query_id)) for path, query_id in zip(queries["path"], queries["query_id"], strict=True) if query_id not in used
    ]
    left_out = [_told(path, reason) for path, _, reason in unread] + [_told(path, reasons.get(query_id)) for path, query_id in absent]
    total = len(queries) + len(unread)
    kind = "held-out " if role == "held_out" else ""
    return Participants(noun=f"{kind}query", nouns=f"{kind}queries", used=total - len(left_out), total=total, left_out=left_out)


def clip_participants(ws: Workspace, num_used: int) -> Participants:
    """The clips, of which ``num_used`` took part: each different content and each file that the catalog could not read."""
    catalog = ws.published("clip_catalog")
    return Participants(
        noun="training clip", nouns="training clips", used=num_used, total=len(catalog.table("catalog")) + len(catalog.rejects())
    )


def _rejects(ws: Workspace, assets: Collection[str]) -> list[tuple[str, str, str]]:
    """(path, clip_id, reason) of what these assets rejected, one for each path."""
    found = [publication.rejects() for asset in assets if (publication := ws.published_or_none(asset)) is not None]
    frame = pd.concat(found).drop_duplicates("path") if found else pd.DataFrame(columns=["path", "clip_id", "reason"])
    return list(frame[["path", "clip_id", "reason"]].astype(str).itertuples(index=False, name=None))


def _role_of(ws: Workspace, path: str) -> str:
    folder = ws.config.queries.held_out_path
    return "held_out" if folder is not None and Path(path).is_relative_to(folder) else "query"


def _told(path: str, reason: str | None) -> str:
    return f"{MediaFile.parse(path).name} rejected, {reason}" if reason else f"{MediaFile.parse(path).name} not used"
