"""The clips that work against the queries: a training step on one of them raises the queries' loss, on average, instead of lowering it.

The view ``harmful`` (``storage/scores.py``) is the same rule in SQL, over the ranking of every variant.
"""

from __future__ import annotations

import numpy as np
import pandas as pd


def worst_first(ranking: pd.DataFrame) -> pd.DataFrame:
    """A ranking (columns clip_id, mean_influence and others) from the lowest mean influence to the highest, ties by clip id."""
    return ranking.sort_values(["mean_influence", "clip_id"], ignore_index=True)


def harmful_clips(ranking: pd.DataFrame) -> pd.DataFrame:
    """The harmful clips of a published ranking, worst first: clip_id, mean_influence, rank (1 = worst).

    They are the K clips with the lowest mean influence, K being the number that the ranking selects (``subset.share``), without those whose mean
    influence is not below zero: such a clip helps less than others, but it does no harm.
    """
    worst = worst_first(ranking).head(ranking["selected"].tolist().count(True))
    harmful = worst.loc[worst["mean_influence"] < 0, ["clip_id", "mean_influence"]]
    return pd.DataFrame(harmful).assign(rank=np.arange(1, len(harmful) + 1))
