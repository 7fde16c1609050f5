"""Controls for precision: ways to choose clips of the queries' motion that need no trained model.

On clips with a known motion class, precision only shows that the pipeline detects motion: comparing flow fields does this better, and an
untrained network may do it equally well. So every report with precision shows these controls beside it.

Axes: Q queries, N clips of the pool in order of clip id, F latent frames, h w latent cells, P projected entries, 2 = (dx, dy).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.gradient_set import prefix
from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips
from motive_pipeline.curation.embeddings import voted_choice
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.engine import Outcome, Work, compute_rows
from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.ground_truth import GroundTruth
from motive_pipeline.graph import Role
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.load import latent_grid, load_model, model_folder, model_hash
from motive_pipeline.models.protocol import LatentGrid, VideoModel
from motive_pipeline.motion.parallel import in_parallel
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.motion.trackers import DisTracker
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader

FLOW_SIMILARITY = "flow similarity"
UNTRAINED = "untrained network"
CHANCE = "chance"
UNTRAINED_SEED = 1
VERSION = 1
"""Raise it when the result of a control changes."""

_TRACKER = DisTracker(preset="medium", reference="first", min_side_px=128)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One choice of clips compared with the ground truth.

    ``kind`` is ``arm``, ``control`` or ``chance``. ``precision`` is the share of the chosen clips that show the queries' motion, ``lure`` the
    share with the queries' background colour and another motion (NaN if colours do not go with motions).
    """

    name: str
    kind: str
    precision: float
    lure: float
    num_clips: int


def precision_rows(ws: Workspace, truth: GroundTruth) -> list[Precision]:
    """The rows of the arms that choose, of the controls, and of chance (the whole pool).

    Raises:
        NotPublished: an arm's subset, or one of its inputs.
    """
    pool = [str(clip_id) for clip_id in load_pool(ws).astype(str)]
    arms = [arm for arm in ws.config.arms if arm not in ("base", "full")]
    rows = [
        precision(arm, "arm", ws.published(f"curated_subset/{arm}").table("subset")["clip_id"].astype(str).tolist(), truth) for arm in arms
    ]
    for name, features in ((FLOW_SIMILARITY, flow_similarity_features), (UNTRAINED, untrained_features)):
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
    has_background = truth.background.loc[known].isin(truth.query_backgrounds).to_numpy()
    lure = float((has_background & ~shows_motion).mean()) if truth.is_confounded else float("nan")
    return Precision(name=name, kind=kind, precision=float(shows_motion.mean()), lure=lure, num_clips=len(known))


def flow_similarity_features(ws: Workspace, role: Role) -> dict[str, Float32[np.ndarray, " P"]]:
    """The flow field of each clip on the latent grid as one unit-length vector: what the motion mask is made of, with directions, and no model."""
    rule, grid = FrameRule.of(ws.config), latent_grid(ws)
    store = _store(ws, "flow_similarity")
    clips = _clips(ws, role)
    size = list(rule.content().values())
    work = [Work(key=digest(VERSION, clip.clip_id, size, grid.temporal_stride, grid.spatial_stride), item=clip) for clip in clips]
    row = functools.partial(_flow_row, read=ClipReader(rule, ws.config.engine), grid=grid)
    missing = [piece.item for piece in work if store.find(piece.key) is None]
    with in_parallel(row, missing, threads=ws.config.engine.threads) as ready:
        return _features(store, work, compute_rows(store, work, ready, what=f"{FLOW_SIMILARITY} ({role})"))


def _flow_row(clip: CatalogClip, *, read: ClipReader, grid: LatentGrid) -> dict[str, np.ndarray]:
    return {"feature": flow_field(read(clip.file).frames_THWC, grid)}


def flow_field(frames_THWC: UInt8[np.ndarray, "T H W 3"], grid: LatentGrid) -> Float32[np.ndarray, " P"]:
    """The displacement over each latent frame, averaged over latent cells, flattened, with unit length (zero if nothing moves)."""
    num_frames, height, width = frames_THWC.shape[:3]
    _, _, rows, columns = grid.shape(num_frames, height, width)
    ends = frames_THWC[:: grid.temporal_stride]
    flows = [_TRACKER.displacement(ends[at : at + 2])[1] for at in range(len(ends) - 1)] or [np.zeros((height, width, 2), np.float32)]
    field_P = (
        np.stack([cv2.resize(flow, (columns, rows), interpolation=cv2.INTER_AREA) for flow in flows]).astype(np.float64).reshape(1, -1)
    )
    return prefix(field_P, field_P.shape[1])[0]


def untrained_features(ws: Workspace, role: Role) -> dict[str, Float32[np.ndarray, " P"]]:
    """The projected gradient of each clip for the same architecture with random weights: same mask, loss, noise and projection."""
    latents, masks = LatentSet(ws, role), MaskSet(ws, role)
    gradient = functools.cache(lambda: untrained_gradient(ws))
    store = _store(ws, "untrained_network")
    clips = [clip for clip in _clips(ws, role) if clip.clip_id in latents and clip.clip_id in masks]
    weights = model_hash(ws)
    work = [
        Work(key=digest(VERSION, UNTRAINED_SEED, weights, latents.content(clip.clip_id), masks.content(clip.clip_id)), item=clip)
        for clip in clips
    ]

    def row(clip: CatalogClip) -> dict[str, np.ndarray]:
        return {"feature": gradient()(*latents.get(clip.clip_id), masks.get(clip.clip_id)).gradient_P}

    features = _features(store, work, compute_rows(store, work, row, what=f"{UNTRAINED} ({role})"))
    num_entries = min(ws.config.influence.proj_dim, *(len(feature) for feature in features.values()))
    if ws.config.gradient.projection == "exact":
        return features
    return {clip_id: prefix(feature[None], num_entries)[0] for clip_id, feature in features.items()}


def untrained_gradient(ws: Workspace) -> ClipGradient:
    """The method's gradient pass through the same architecture with random weights."""
    # The loaded base model is shared, so load its folder again.
    model = load_model(ws.config.model, threads=ws.config.engine.threads, path=model_folder(ws.config.model))
    reset_weights(model, UNTRAINED_SEED)
    return build_clip_gradient(model, ws.config.gradient)


def reset_weights(model: VideoModel, seed: int) -> None:
    """Reset the transformer to the initial weights of its class, drawn from ``seed``. The global random state is unchanged."""
    transformer = model.transformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(transformer).from_config(transformer.config)  # type: ignore[attr-defined]
    transformer.load_state_dict(fresh.state_dict())


def _store(ws: Workspace, name: str) -> RowStore:
    """The row store of a control, under the fingerprint of the gradient pass, which all controls share."""
    return ws.store_at(f"{name}/{ws.config.row_fingerprint('gradient')}", {"feature": ("feature",)})


def _clips(ws: Workspace, role: Role) -> list[CatalogClip]:
    return [clip for clip in catalog_clips(ws, role) if clip.part != "held_out"]


def _features(store: RowStore, work: Sequence[Work[CatalogClip]], outcome: Outcome) -> dict[str, Float[np.ndarray, " P"]]:
    found: dict[str, np.ndarray] = {}
    for piece in work:
        ref = outcome.refs.get(piece.key)
        if isinstance(ref, RowRef):
            found[piece.item.clip_id] = store.read(ref, "feature")
    return found
