"""Ways to score clips that need no trained model: how similar their flow is to the queries', and the gradients of an untrained network.

They are arms of their own (graph/arms.py), and controls: what attribution does no better than they do proves nothing of the model.

Axes: Q queries, N clips in order of clip id, F latent frames, h w latent cells, P projected entries, 2 = (dx, dy).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8

from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.gradient_set import prefix
from motive_pipeline.attribution.loss_masks import LossMasks
from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips
from motive_pipeline.curation.embeddings import voted_choice
from motive_pipeline.engine import Outcome, Work, compute_rows
from motive_pipeline.errors import GateFailed
from motive_pipeline.graph import Arm, Role
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.adapter import reset_adapter
from motive_pipeline.models.load import latent_grid, load_attributed_model, model_folder, model_hash
from motive_pipeline.models.protocol import LatentGrid, VideoModel
from motive_pipeline.motion.parallel import here_or_spread
from motive_pipeline.motion.trackers import DisTracker
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader

FLOW_SIMILARITY = "flow similarity"
UNTRAINED = "untrained network"
UNTRAINED_SEED = 1
VERSION = 1
"""Raise it when the result of a control changes."""

Features = Mapping[str, Float[np.ndarray, " P"]]
"""clip id -> a unit-length vector; the score of a clip for a query is their cosine."""

_TRACKER = DisTracker(preset="medium", reference="first", min_side_px=128)


def similar_flow(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " M"]:
    """The clips by the queries' votes over the similarity of flow fields, best first."""
    return _voted(ws, arm, pool, flow_similarity_features)


def untrained_gradients(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " M"]:
    """The clips by the queries' votes over the gradients of a network with random weights, best first."""
    return _voted(ws, arm, pool, untrained_features)


def _voted(
    ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"], features: Callable[[Workspace, Role], Features]
) -> Shaped[np.ndarray, " M"]:
    queries, clips = features(ws, "query"), features(ws, "clip")
    known = [clip_id for clip_id in pool.astype(str).tolist() if clip_id in clips]
    if not queries or not known:
        raise GateFailed(f"curated_subset/{arm.name}: no {'query' if known else 'clip'} could be read, so nothing can be chosen")
    return np.array(voted_choice(ws, known, queries, clips), dtype="S16")


def flow_similarity_features(ws: Workspace, role: Role, *, of: Collection[str] | None = None) -> Features:
    """The flow field of each clip on the latent grid as one unit-length vector: what the motion mask is made of, with directions, and no model.

    ``of`` limits the clips; held-out queries have no features.
    """
    rule, grid = FrameRule.of(ws.config), latent_grid(ws)
    store = _store(ws, "flow_similarity")
    clips = _clips(ws, role, of)
    size = list(rule.content().values())
    work = [Work(key=digest(VERSION, clip.clip_id, size, grid.temporal_stride, grid.spatial_stride), item=clip) for clip in clips]
    missing = [piece.item for piece in work if store.find(piece.key) is None]
    with here_or_spread(ws, _flow_rows, missing) as ready:
        return _features(store, work, compute_rows(store, work, ready, what=f"{FLOW_SIMILARITY} ({role})"))


def _flow_rows(ws: Workspace) -> Callable[[CatalogClip], dict[str, np.ndarray]]:
    return functools.partial(_flow_row, read=ClipReader(FrameRule.of(ws.config), ws.config.engine), grid=latent_grid(ws))


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


def untrained_features(ws: Workspace, role: Role) -> Features:
    """The projected gradient of each clip for the same architecture with random weights: same mask, loss, noise and projection."""
    latents, masks = LatentSet(ws, role), LossMasks(ws, role, ws.config.gradient)
    gradient = functools.cache(lambda: untrained_gradient(ws))
    store = _store(ws, "untrained_network")
    clips = [clip for clip in _clips(ws, role) if clip.clip_id in latents and clip.clip_id in masks]
    weights = model_hash(ws)
    work = [
        Work(
            key=digest(VERSION, UNTRAINED_SEED, weights, latents.content(clip.clip_id), masks.content(clip.clip_id)),
            item=clip,
        )
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
    model = load_attributed_model(ws.config, path=model_folder(ws.config.model))
    reset_weights(model, UNTRAINED_SEED)
    return build_clip_gradient(model, ws.config.gradient.model_copy(update={"combine": "mean_gradient"}))


def reset_weights(model: VideoModel, seed: int) -> None:
    """Reset the transformer to the initial weights of its class, drawn from ``seed``, and its adapter to a fresh one. The global random state is unchanged.

    The class has diffusers' ``from_config``, or can be called without arguments.
    """
    transformer = model.transformer
    kind: Any = type(transformer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = kind.from_config(transformer.config) if hasattr(kind, "from_config") else kind()
    weights = fresh.state_dict()
    names = {name: name.replace(".base_layer.", ".") for name in transformer.state_dict() if ".lora_" not in name}
    transformer.load_state_dict({name: weights[original] for name, original in names.items()}, strict=False)
    reset_adapter(transformer, seed)


def _store(ws: Workspace, name: str) -> RowStore:
    """The row store of a control, under the fingerprint of the gradient pass, which all controls share."""
    return ws.store_at(f"{name}/{ws.config.row_fingerprint('gradient')}", {"feature": ("feature",)})


def _clips(ws: Workspace, role: Role, of: Collection[str] | None = None) -> list[CatalogClip]:
    return [clip for clip in catalog_clips(ws, role) if clip.part != "held_out" and (of is None or clip.clip_id in of)]


def _features(store: RowStore, work: Sequence[Work[CatalogClip]], outcome: Outcome) -> dict[str, Float[np.ndarray, " P"]]:
    found: dict[str, np.ndarray] = {}
    for piece in work:
        ref = outcome.refs.get(piece.key)
        if isinstance(ref, RowRef):
            found[piece.item.clip_id] = store.read(ref, "feature")
    return found
