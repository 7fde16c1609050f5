"""The gate on rejects: a stage that could not use too many of its clips publishes nothing, and says which they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from motive_pipeline.errors import GateFailed
from motive_pipeline.graph import Role
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Reject, Workspace

QUERY_LIMIT = "queries.max_reject_share"
_EXAMPLES = 3


def require_few_rejects(ws: Workspace, asset: str, rejects: Sequence[Reject], *, total: int, role: Role = "clip") -> None:
    """Stop ``asset`` if too many of ``total`` clips (or queries) were rejected.

    The limit is the stage's own setting for clips, and ``queries.max_reject_share`` for queries. The rejects of a stage that is stopped are
    written to ``<state>/rejects/<asset>.csv``, since what is not published is in no table.

    Raises:
        GateFailed: the share is above the limit, or every clip was rejected. The message counts the reasons and shows examples.
    """
    listing = ws.state / "rejects" / f"{asset.replace('/', '-')}.csv"
    key = QUERY_LIMIT if role == "query" else ws.graph.asset(asset).stage.reject_limit
    assert key is not None
    max_share = ws.config.setting(key)
    if not total or (len(rejects) < total and len(rejects) <= max_share * total):
        listing.unlink(missing_ok=True)
        return
    atomic.write_text(listing, pd.DataFrame([vars(reject) for reject in rejects]).to_csv(index=False))
    reasons = sorted(Counter(reject.reason for reject in rejects).items(), key=lambda pair: (-pair[1], pair[0]))
    counted = ", ".join(f"{reason}: {count}" for reason, count in reasons[:5])
    examples = "; ".join(f"{reject.path}: {reject.detail}" for reject in rejects[:_EXAMPLES])
    kind = {"clip": "clips", "query": "queries"}[role]
    raise GateFailed(
        f"{asset}: {len(rejects)} of {total} {kind} rejected ({counted}); {key} allows a share of {max_share:g}, and at least one must remain. "
        f"For instance {examples}. All are listed in {listing}. Repair or remove the files, or raise the limit."
    )


def lost_queries(ws: Workspace) -> str | None:
    """A warning when queries were rejected: what follows rests on the others. None when all are used."""
    of_queries = [asset.key for asset in ws.graph.assets.values() if asset.output.role == "query" or asset.key == "query_catalog"]
    rejects = [publication.rejects() for key in of_queries if (publication := ws.published_or_none(key))]
    lost = pd.concat(rejects).drop_duplicates("path") if rejects else pd.DataFrame()
    if lost.empty:
        return None
    named = "; ".join(
        f"{path}: {reason} ({detail})" for path, reason, detail in lost[["path", "reason", "detail"]].head(_EXAMPLES).to_numpy()
    )
    more = f"; and {len(lost) - _EXAMPLES} more" if len(lost) > _EXAMPLES else ""
    subject = "1 query is" if len(lost) == 1 else f"{len(lost)} queries are"
    return f"{subject} not used, and the ranking and the scores rest on the others: {named}{more}"
