"""What training on random subsets of the pool does to each query's loss: the targets of the linear datamodeling score.

All queries and all variants share the subsets. Subsets come one after the other, each with all its trainings.

Axis suffixes: T trainings of a subset, Q queries, S subsets, N clips of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from motive_pipeline.curation.arms import random_choice
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.curation.vote import num_selected
from motive_pipeline.evaluation.audit.retraining import Query, Retraining, Run
from motive_pipeline.storage.workspace import Workspace

FIRST_SUBSET_SEED = 1_000_003
"""Distance of the subsets' seeds from that of the random arm."""

DRAWS_A_SUBSET = 10


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What the trainings did: ``drop_TQS`` is the drop of each query's motion-weighted loss in % of the base model's, for the subsets that have all
    their trainings; ``member_SN`` are their clips among ``clip_id_N``. ``unfinished`` says what is left to train."""

    drop_TQS: Float[np.ndarray, "T Q S"]
    member_SN: Bool[np.ndarray, "S N"]
    queries: Sequence[Query]
    clip_id_N: Shaped[np.ndarray, " N"]
    unfinished: str
    seconds_a_training: float


def random_subsets(clip_id_N: Shaped[np.ndarray, " N"], size: int, count: int, seed: int) -> list[tuple[str, ...]]:
    """``count`` different random subsets of ``size`` clips, each ascending; fewer if a small pool gives no more in :data:`DRAWS_A_SUBSET` draws for each."""
    found: dict[tuple[str, ...], None] = {}
    for number in range(DRAWS_A_SUBSET * count):
        if len(found) < count:
            subset = random_choice(clip_id_N, size, FIRST_SUBSET_SEED * (seed + 1) + number)
            found[tuple(sorted(subset.astype(str).tolist()))] = None
    return list(found)


def planned_subsets(ws: Workspace) -> list[tuple[str, ...]]:
    """The subsets of the settings."""
    pool, audit = load_pool(ws), ws.config.audit
    return random_subsets(pool, num_selected(len(pool), audit.subset_share), audit.subsets, audit.seed)


def subset_effects(ws: Workspace, retraining: Retraining) -> Effects:
    """Train on the subsets of the settings, as far as the time allows; returns what is there then.

    Raises:
        GateFailed: see :meth:`Retraining.trained`.
    """
    pool, numbers = load_pool(ws), range(ws.config.audit.trainings)
    planned = [[Run(clip_ids=subset, training=number) for number in numbers] for subset in planned_subsets(ws)]
    trained = retraining.trained([run for runs in planned for run in runs], what="trainings on random subsets")
    whole = [runs for runs in planned if all(run in trained.drop_Q for run in runs)]
    drop_STQ = np.array([[trained.drop_Q[run] for run in runs] for runs in whole]).reshape(
        len(whole), len(numbers), len(retraining.queries)
    )
    member_SN = np.array([np.isin(pool.astype(str), runs[0].clip_ids) for runs in whole], bool).reshape(len(whole), len(pool))
    return Effects(
        drop_TQS=np.ascontiguousarray(drop_STQ.transpose(1, 2, 0)),
        member_SN=member_SN,
        queries=retraining.queries,
        clip_id_N=pool,
        unfinished=trained.unfinished,
        seconds_a_training=trained.seconds_a_training,
    )
