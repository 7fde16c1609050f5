"""What an arm's choosing function gives: the clips it prefers, and those that something other than their rank kept out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

COLUMNS = ("clip_id", "rank", "reason", "other_id", "detail")


def left_out_table(rows: Sequence[tuple[str, int | None, str, str | None, str]] = ()) -> pd.DataFrame:
    """Clips that were kept out, with the columns :data:`COLUMNS`.

    ``rank`` is the place that the clip has in the arm's order of all ranked clips (1 is the best; none for a clip without a rank), ``reason`` a word, ``other_id`` the chosen
    clip that it gave way to, if it did, and ``detail`` a sentence.
    """
    table = pd.DataFrame(list(rows), columns=list(COLUMNS), dtype="object")
    return table.assign(rank=table["rank"].astype("Int64"))


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The clips of an arm, best first. ``left_out`` is a table of :func:`left_out_table`; ``facts`` say more about the choice."""

    clip_ids: Shaped[np.ndarray, " M"]
    left_out: pd.DataFrame = field(default_factory=left_out_table)
    facts: Mapping[str, Any] = field(default_factory=dict)
