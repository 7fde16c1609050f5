"""The influence of every clip on one video that is in no catalog (``motive ask``). Nothing is published, and no row is stored.

The video goes through the row functions of the stages, so its gradient and its influences have the bits that it would have as a query of the
config. Whatever can be refused is refused before a model is loaded.

Axes: N clips, Q queries of the config, P stored entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped

from motive_pipeline.attribution.gradient_set import GradientSet
from motive_pipeline.attribution.influence import QueryRows, influence_by_clips, require_equal_settings
from motive_pipeline.attribution.second_moments import ASSET as MOMENTS
from motive_pipeline.attribution.second_moments import second_moments_content
from motive_pipeline.attribution.stage import are_present, gradient_row, gradients_asset, load_gradient_pass, load_gradients
from motive_pipeline.catalog.catalog_clips import CatalogClip, require_unchanged
from motive_pipeline.config import Variant
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.graph import weighs_loss
from motive_pipeline.latents.stage import latents_alone, latents_of_row, require_allowed
from motive_pipeline.models.load import model_hash, require_fitting
from motive_pipeline.motion.stage import mask_alone
from motive_pipeline.storage.published_settings import changed_settings
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.video.decode import DecodedClip, FrameRule
from motive_pipeline.video.readers import ClipReader, Prober


@dataclass(frozen=True, kw_only=True)
class ReadVideo:
    """A video that the method accepts: its frames, and the row of its motion mask (motion/stage.py)."""

    clip: CatalogClip
    decoded: DecodedClip
    mask_row: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class VideoInfluence:
    """The influence of every clip on a video, in the order of the clips' ids.

    ``num_lower_N`` counts, for each clip, the config's queries on which its influence is lower; ``num_queries`` is 0 where none can be compared.
    """

    row: Mapping[str, np.ndarray]
    """The video's gradient, as the store would have it: ``gradient``, ``grad_norm``, ``num_frames``."""
    clip_id_N: Shaped[np.ndarray, " N"]
    influence_N: Float32[np.ndarray, " N"]
    num_lower_N: Int64[np.ndarray, " N"]
    num_queries: int


def comparable_gradients(ws: Workspace, variant: Variant) -> GradientSet:
    """The published gradients of the clips, if model and settings are still those that they were made with. Loads no model.

    Raises:
        NotPublished: there are none yet.
        MotiveError: model, settings, latents, masks or second moments are others, or there is no such model any more.
    """
    config = ws.config.of_variant(variant)
    asset = gradients_asset(variant, "clip")
    publication = ws.published(asset)
    clips = load_gradients(ws, variant, "clip", config.influence.proj_dim)
    _require_present_settings(ws, publication, variant, has_changed=clips.attributes["mask"] != config.gradient.mask)
    screened = [
        "latents",
        *(["motion_masks"] if weighs_loss(config.gradient.mask, "clip") else []),
        *([MOMENTS] if config.influence.uses_adam else []),
    ]
    for upstream in screened:
        _require_present_settings(ws, ws.published(upstream), variant)
    require_fitting(ws)
    _require_same_model(ws, clips, variant)
    moments = second_moments_content(ws) if config.influence.uses_adam else None
    is_older = any(publication.provenance["upstream"].get(key) != ws.data_version(key) for key in screened)
    if clips.attributes["second_moments"] != moments or (is_older and not are_present(ws, variant, clips.clip_ids)):
        raise MotiveError(
            f"{asset} was made from other {', '.join(each.replace('_', ' ') for each in screened)} than those published now, so the video's gradient could not be "
            f"compared with it. {_again(variant)}."
        )
    if not len(clips):
        raise GateFailed(f"{asset} holds no gradient, so there is nothing to compare the video with; its rejects say why")
    return clips


def read_video(ws: Workspace, clip: CatalogClip) -> ReadVideo:
    """Decode a video once and measure its motion, as for a query. Loads no video model.

    Raises:
        RejectRow: the file is no video or is too short, a policy rejects it, nothing moves in it, or whatever else rejects a query.
    """
    facts = Prober(ws.config.engine)(clip.file)
    decoded = ClipReader(FrameRule.of(ws.config), ws.config.engine, appearance=True)(clip.file)
    require_allowed(ws, clip, decoded, (facts.width, facts.height))
    mask_row = mask_alone(ws, clip, decoded)
    require_unchanged(clip, HashMemory(ws.state))
    return ReadVideo(clip=clip, decoded=decoded, mask_row=mask_row)


def influence_on_video(ws: Workspace, variant: Variant, video: ReadVideo, clips: GradientSet) -> VideoInfluence:
    """Encode the video, take its gradient under the variant's own draws, and multiply it with the clips' gradients.

    Raises:
        RejectRow: latents or gradient are not finite, or the device has too little memory.
        GateFailed: the device is too small for the model.
        MotiveError: the model cannot be loaded.
    """
    encoded = latents_alone(ws, video.clip, video.decoded)
    mask_FHW = torch.from_numpy(video.mask_row["mask"]) if weighs_loss(ws.config.of_variant(variant).gradient.mask, "query") else None
    gradient = load_gradient_pass(ws, variant)
    row = gradient_row(gradient, *latents_of_row(encoded), mask_FHW, num_frames=int(encoded["num_frames"]))
    return _influence_of_row(ws, variant, row, clips)


def _influence_of_row(ws: Workspace, variant: Variant, row: Mapping[str, np.ndarray], clips: GradientSet) -> VideoInfluence:
    """One product for the video and the config's queries together."""
    gradients, norms = [row["gradient"][None]], [row["grad_norm"][None]]
    queries = _comparable_queries(ws, variant, clips)
    if queries is not None:
        gradients.append(np.asarray(queries.gradient_NP[:]))
        norms.append(queries.norms_N)
    rows = QueryRows(gradient_QP=np.concatenate(gradients), norm_Q=np.concatenate(norms))
    influence_N, num_lower_N = np.zeros(len(clips), np.float32), np.zeros(len(clips), np.int64)
    for start, tile_QN in influence_by_clips(ws, variant, rows, clips):
        stop = start + tile_QN.shape[1]
        influence_N[start:stop] = tile_QN[0]
        num_lower_N[start:stop] = (tile_QN[1:] < tile_QN[0]).sum(axis=0)
    return VideoInfluence(row=row, clip_id_N=clips.id_N, influence_N=influence_N, num_lower_N=num_lower_N, num_queries=len(rows.norm_Q) - 1)


def _comparable_queries(ws: Workspace, variant: Variant, clips: GradientSet) -> GradientSet | None:
    """The gradients of the config's queries, if they are published and were made as the clips' were."""
    if ws.published_or_none(gradients_asset(variant, "query")) is None:
        return None
    queries = load_gradients(ws, variant, "query", ws.config.of_variant(variant).influence.proj_dim)
    try:
        require_equal_settings(variant, queries, clips)
    except GateFailed:
        return None
    return queries if len(queries) else None


def _require_present_settings(ws: Workspace, publication: Publication, variant: Variant, *, has_changed: bool = False) -> None:
    saved = publication.provenance
    if not has_changed and saved["row_fingerprint"] == ws.config.row_fingerprint(saved["stage"], saved["lane"]):
        return
    words = "; ".join(changed_settings(ws.config, publication)) or "the settings of another version"
    raise MotiveError(
        f"{publication.asset} was made with other settings than {ws.config.file} has ({words}), so the video's gradient could not be compared with "
        f"the clips'. {_again(variant)}, or set them back."
    )


def _require_same_model(ws: Workspace, clips: GradientSet, variant: Variant) -> None:
    present, made_by = model_hash(ws), clips.attributes["model_hash"]
    if present != made_by:
        raise MotiveError(
            f"the model {ws.config.model.path} is not the one that {gradients_asset(variant, 'clip')} was made with (hash {present[:12]} instead of "
            f"{made_by[:12]}), so the video's gradient could not be compared with the clips'. {_again(variant)}, or set model.path to the model of before."
        )


def _again(variant: Variant) -> str:
    return f"Run `motive rank --variant {variant}` to compute the gradients again"
