"""Controls for precision: ways to choose clips of the queries' motion that need no trained model.

On clips with a known motion class, precision only shows that the pipeline detects motion: comparing flow fields does this better, and an
untrained network may do it equally well. So every report with precision shows these controls beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from motive_pipeline.curation.controls import FLOW_SIMILARITY, UNTRAINED, flow_similarity_features, untrained_features
from motive_pipeline.curation.embeddings import voted_choice
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.ground_truth import GroundTruth
from motive_pipeline.storage.workspace import Workspace

CHANCE = "chance"


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One choice of clips compared with the ground truth.

    ``kind`` is ``arm``, ``control`` or ``chance``. ``precision`` is the share of the chosen clips that show the queries' motion and are no lures,
    ``lure`` the share of lures (NaN if the pool has none; :class:`GroundTruth`).
    """

    name: str
    kind: str
    precision: float
    lure: float
    num_clips: int


def precision_rows(ws: Workspace, truth: GroundTruth) -> list[Precision]:
    """The rows of the arms that choose, of the controls that are not arms, and of chance (the whole pool).

    Raises:
        NotPublished: an arm's subset, or one of its inputs.
    """
    pool = [str(clip_id) for clip_id in load_pool(ws).astype(str)]
    arms = [arm for arm in ws.config.arms if arm not in ("base", "full")]
    rows = [
        precision(arm, "arm", ws.published(f"curated_subset/{arm}").table("subset")["clip_id"].astype(str).tolist(), truth) for arm in arms
    ]
    for name, arm, features in (
        (FLOW_SIMILARITY, "flow_similarity", flow_similarity_features),
        (UNTRAINED, "untrained", untrained_features),
    ):
        if arm in arms:
            continue
        rows.append(precision(name, "control", voted_choice(ws, pool, features(ws, "query"), features(ws, "clip")), truth))
    return [*rows, precision(CHANCE, "chance", pool, truth)]


def precision(name: str, kind: str, clip_ids: Sequence[str], truth: GroundTruth) -> Precision:
    """Precision and lure of one choice of clips. Clips without ground truth do not count."""
    known = [clip_id for clip_id in clip_ids if clip_id in truth.motion.index]
    if not known:
        raise GateFailed(
            f"no ground truth is known for any of the {len(clip_ids)} clips of {name}, so there is nothing to compare them with"
        )
    shows_motion = truth.motion.loc[known].to_numpy() == truth.query_motion
    if truth.is_lure is None:
        return Precision(name=name, kind=kind, precision=float(shows_motion.mean()), lure=float("nan"), num_clips=len(known))
    is_lure = truth.is_lure.loc[known].to_numpy(bool)
    precise = float((shows_motion & ~is_lure).mean())
    return Precision(name=name, kind=kind, precision=precise, lure=float(is_lure.mean()), num_clips=len(known))
