"""Whether every file of a catalog's source is accounted for."""

from __future__ import annotations

import json
from collections.abc import Mapping

from motive_pipeline.storage.workspace import Publication


def accounted(publication: Publication) -> dict[str, int]:
    """What became of the ``files`` of a catalog: each is a clip, a merged duplicate (another file of a clip's content), a reject, or no video.

    The clips, the duplicates and the rejects are counted in the published tables, the files and those that are not videos by a walk through the
    folder. So the sum is ``files`` only if nothing was lost on the way.
    """
    sources = publication.table("catalog")["sources"]
    return {
        "files": int(publication.facts["files"]),
        "clips": len(sources),
        "merged duplicates": sum(len(json.loads(names)) - 1 for names in sources),
        "rejects": len(publication.rejects()),
        "not videos": int(publication.facts["not videos"]),
    }


def num_lost(figures: Mapping[str, int]) -> int:
    """How many ``files`` of :func:`accounted` became nothing of the rest; 0 when all add up."""
    return 2 * figures["files"] - sum(figures.values())
