"""Clips -> latents and prompt embeddings, computed once for each clip.

Axes: T decoded frames, F latent frames, H W (latent or pixel) height and width, C channels, L prompt tokens, E embedding width.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips, require_unchanged, shown_sizes
from motive_pipeline.catalog.clip_rows import RowRun, RowSet
from motive_pipeline.catalog.perceptual_hashes import perceptual_hashes
from motive_pipeline.config import Config, Policies
from motive_pipeline.devices.spread import on_devices
from motive_pipeline.engine import Computed, Outcome, Work, compute_rows
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.graph import Role
from motive_pipeline.keys import latent_key
from motive_pipeline.latents.prompts import DistinctPrompts
from motive_pipeline.models.conditioning import PROMPT, Conditioning
from motive_pipeline.models.load import encoders_hash, latent_grid, load_model, require_fitting
from motive_pipeline.models.memory_limit import require_memory
from motive_pipeline.models.prompt_tokens import cut_prompts
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.storage.digest import digest_arrays
from motive_pipeline.storage.facts import spread
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.video.appearance import Appearance
from motive_pipeline.video.decode import DecodedClip, FrameRule
from motive_pipeline.video.flags import FLAGS, flag_bits, flag_names, is_mostly_cropped
from motive_pipeline.video.readers import ClipReader

log = logging.getLogger(__name__)

STAGE = "latents"
DIMS = {
    "latents": ("channel", "frame", "height", "width"),
    "prompt_embeds": ("token", "embedding"),
    "prompt_attention_mask": ("token",),
    "first_frame_latents": ("channel", "condition_frame", "height", "width"),
    "image_embeds": ("image_token", "image_embedding"),
}

_OTHERS = ("latents", "prompt_tokens", "num_frames", "flags")
"""The arrays of a row besides the model's conditioning."""

PROMPT_BLOCK = 32
"""Prompt embeddings are stored without trailing rows of zeros, in whole blocks of this many tokens, so that few shapes occur."""


REJECTABLE = {
    "alpha": "it has an alpha channel, which is left out",
    "caption_cut": "its caption has more tokens than model.max_prompt_tokens, and the rest is not used",
    "cropped_by_file": "its file says that only a part of its picture is to be shown",
    "frozen": "nothing changes in it",
    "hdr": "it is HDR (PQ or HLG)",
    "hidden_cut": "a cut hides in it",
    "interlaced": "it is interlaced",
    "mostly_cropped": "the centre crop cuts more than half of its picture away",
    "non_square_pixels": "its pixels are not square",
    "rotated": "it is stored turned",
    "time_repaired": "time stamps were missing or jumped back",
    "truncated": "the file was cut off",
    "upscaled": "it is less than half as large as it is used",
    "variable_rate": "its frame rate varies",
}
"""The flags that ``clips.policies`` can reject, and the words for each."""


UNFIT = {
    "caption_cut": "clips have captions longer than model.max_prompt_tokens, and the text encoder does not see the rest. Captions that differ only there "
    "count as equal. Raise model.max_prompt_tokens up to what the model was trained with, or shorten them",
    "mostly_cropped": "clips lose more than half of their picture to the centre crop, and motion there does not count. Choose clips.width and "
    "clips.height that suit them, or crop them yourself",
}
"""The flags that say that a clip does not fit the settings, and the words for a warning."""


class LatentSet(RowSet):
    """The published latents of one role."""

    asset_of: ClassVar[dict[Role, str]] = {"clip": "latents", "query": "query_latents"}

    def __init__(self, ws: Workspace, role: Role) -> None:
        """Raises NotPublished if nothing is published yet."""
        super().__init__(ws, role)
        self._encode_again = _EncodeAgain(ws, role)

    def get(self, clip_id: str) -> tuple[Float[torch.Tensor, "C F h w"], Conditioning]:
        """(latents, conditioning), exactly as the model returned them. They are encoded again if they are not kept.

        Raises:
            MotiveError: they are not kept, and encoding now gives different ones.
            RejectRow: they are not kept, and the clip's file can no longer be used.
        """
        if self.has(clip_id, "latents"):
            row = {name: self.read(clip_id, name) for name in self.names(clip_id)}
        else:
            row = self._encode_again(clip_id, self.content(clip_id))
        return latents_of_row(row)


def publish_latents(ws: Workspace, *, role: Role) -> Publication:
    """Encode every clip (or query) of the catalog and publish the index.

    Raises:
        GateFailed: more than ``clips.max_reject_share`` of the clips were rejected, no query is left, or the device is too small for the model.
    """
    made = _encoded(ws, role)
    made.run.require_enough(ws)
    columns = _columns(ws, made)
    facts = _facts(columns, made.run.outcome)
    _warn(facts, made.run.asset)
    flags = pd.DataFrame({"clip_id": [clip.clip_id for clip, _ in made.run.accepted()], "flags": columns["flags"]})
    return made.run.publish(ws, columns, facts=facts, scores={("clip_flags", "clip_flags"): flags} if role == "clip" else None)


def latent_rows(ws: Workspace, *, role: Role) -> RowRun:
    """Encode every clip (or query) of the catalog, and publish nothing."""
    return _encoded(ws, role).run


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """All rows of a role, without those that ``clips.policies`` rejects; appearance and flags are by clip_id."""

    run: RowRun
    store: RowStore
    appearances: Mapping[str, Appearance]
    flagged: Mapping[str, tuple[str, ...]]


def _encoded(ws: Workspace, role: Role) -> _Encoded:
    started = time.time()
    require_fitting(ws)
    clips = catalog_clips(ws, role)
    encoders = encoders_hash(ws)
    store = ws.store(STAGE, DIMS)
    keys = [latent_key(clip.clip_id, clip.caption, encoders) for clip in clips]
    captions = [clip.caption for clip, key in zip(clips, keys, strict=True) if store.find(key) is None]
    seen: dict[str, Appearance] = {}
    with on_devices(ws, partial(_ClipEncoder, captions=captions)) as row_function:
        outcome = compute_rows(
            store,
            [Work(key=key, item=clip) for key, clip in zip(keys, clips, strict=True)],
            row_function,
            what=LatentSet.asset_of[role],
            commit_rows=ws.config.engine.commit_rows,
            commit_s=ws.config.engine.commit_s,
            prefetch=row_function.prefetch,
            left_out=frozenset() if ws.config.engine.keep_latents else frozenset(DIMS),
            told=lambda clip, appearance: seen.update({clip.clip_id: appearance}),
        )
    run = RowRun(asset=LatentSet.asset_of[role], role=role, clips=clips, keys=keys, outcome=outcome, started=started)
    appearances = perceptual_hashes(ws, [clip for clip, _ in run.accepted()], seen)
    flagged = _flags(ws, store, run, appearances)
    run = _by_policies(run, flagged, ws.config.clips.policies)
    return _Encoded(run=run, store=store, appearances=appearances, flagged=flagged)


def latents_of_row(row: Mapping[str, np.ndarray]) -> tuple[Float[torch.Tensor, "C F h w"], Conditioning]:
    """(latents, conditioning) of a row (:func:`latent_row`), exactly as the model returned them."""
    stored_LE = row[PROMPT]
    prompt_LE = np.zeros((int(row["prompt_tokens"]), stored_LE.shape[1]), dtype=np.float32)
    prompt_LE[: len(stored_LE)] = stored_LE
    told = {name: array for name, array in row.items() if name not in _OTHERS} | {PROMPT: prompt_LE}
    return torch.from_numpy(row["latents"]), {name: torch.from_numpy(np.asarray(array)) for name, array in told.items()}


def require_allowed(ws: Workspace, clip: CatalogClip, decoded: DecodedClip, shown_size: tuple[int, int]) -> None:
    """Check a clip that is in no catalog against ``clips.policies``. ``shown_size`` is (width, height) of the file. Loads no weights.

    Raises:
        RejectRow: it has a flag that a policy rejects.
    """
    frame = (ws.config.clips.width, ws.config.clips.height)
    unfit = _unfit_flags(shown_size, frame, is_cut=clip.caption in cut_prompts(ws, [clip.caption]))
    flags = {*decoded.flags, *(decoded.appearance.flags() if decoded.appearance is not None else ()), *unfit}
    for flag in _rejected_flags(ws.config.clips.policies):
        if flag in flags:
            raise RejectRow(flag, _why_rejected(flag))


def latents_alone(ws: Workspace, clip: CatalogClip, decoded: DecodedClip) -> dict[str, np.ndarray]:
    """:func:`latent_row` of a clip that is in no catalog, with the bits that a published row would have. Loads the model's encoders.

    Raises:
        RejectRow: as :func:`latent_row`.
        GateFailed: the device is too small for the encoders.
    """
    model = _load_encoders(ws.config)
    try:
        return latent_row(clip, model, decoded)
    finally:
        model.release_encoders()


def _load_encoders(config: Config) -> VideoModel:
    require_memory(config, "latents")
    return load_model(config.model, threads=config.engine.threads, encodes_only=True)


class _EncodeAgain:
    """Encodes a clip whose latents are not kept. ``content`` is the hash that was published."""

    def __init__(self, ws: Workspace, role: Role) -> None:
        self._ws = ws
        self._role: Role = role

    @cached_property
    def _row_function(self) -> _ClipEncoder:
        return _ClipEncoder(self._ws)

    @cached_property
    def _clips(self) -> dict[str, CatalogClip]:
        return {clip.clip_id: clip for clip in catalog_clips(self._ws, self._role)}

    def __call__(self, clip_id: str, content: str) -> dict[str, np.ndarray]:
        clip = self._clips.get(clip_id)
        row = None if clip is None else self._row_function.encode(clip)[0]
        self._row_function.release()
        if row is None or digest_arrays(row) != content:
            raise MotiveError(
                f"{LatentSet.asset_of[self._role]}: the latents of clip {clip_id} are not kept (engine.keep_latents: false), and encoding it "
                "now gives others: its file, its caption, the model or a setting has changed. Run `motive run` to publish them anew."
            )
        return row


class _ClipEncoder:
    """The row function: clip -> arrays, and the clip's appearance (or None) aside. It loads the model with the first missing row, so a run without work
    loads none."""

    def __init__(self, ws: Workspace, captions: Sequence[str] = ()) -> None:
        """``captions`` are those of all clips to come."""
        self._config = ws.config
        self._prompts = DistinctPrompts(captions)
        self._model: VideoModel | None = None
        self._reader = ClipReader(FrameRule.of(ws.config), ws.config.engine, appearance=True)
        self._memory = HashMemory(ws.state)

    def prefetch(self, clips: Sequence[CatalogClip]) -> None:
        """Queue the clips that are asked for next, in order."""
        self._reader.prefetch([clip.file for clip in clips])

    def __call__(self, clip: CatalogClip) -> Computed:
        arrays, appearance = self.encode(clip)
        return Computed(arrays=arrays, aside=appearance)

    def encode(self, clip: CatalogClip) -> tuple[dict[str, np.ndarray], Appearance | None]:
        """The row of a clip, and its appearance. Raises what :func:`latent_row` raises, or RejectRow as the clip's reader does."""
        if self._model is None:
            self._model = _load_encoders(self._config)
        decoded = self._reader(clip.file)
        row = latent_row(clip, self._model, decoded, self._prompts)
        require_unchanged(clip, self._memory)
        return row, decoded.appearance

    def release(self) -> None:
        """Free the device's memory of the model's encoders."""
        if self._model is not None:
            self._model.release_encoders()


def latent_row(clip: CatalogClip, model: VideoModel, decoded: DecodedClip, prompts: DistinctPrompts | None = None) -> dict[str, np.ndarray]:
    """One row: ``latents`` (C, F, H, W), ``prompt_embeds`` (tokens kept, E), ``prompt_tokens`` (L), ``num_frames`` (T), ``flags`` (bits), and whatever
    else the model is told of the caption and the first frame, under its own name.

    Raises:
        RejectRow: ``non_finite_latents``, or ``out_of_memory`` (tried again next time).
    """
    try:
        latents_CFHW = model.encode_video(decoded.frames_THWC).numpy()
        conditioning = (prompts or DistinctPrompts())(clip.caption, model.encode_prompt)
        of_frame = model.encode_first_frame(decoded.frames_THWC[0], len(decoded.frames_THWC))
        told = {name: tensor.numpy() for name, tensor in (*conditioning.items(), *of_frame.items())}
    except torch.OutOfMemoryError as error:
        raise RejectRow("out_of_memory", f"encoding {len(decoded.frames_THWC)} frames: {error}", transient=True) from error
    expected = model.grid.shape(*decoded.frames_THWC.shape[:3])
    if latents_CFHW.shape != expected:
        raise ValueError(f"the model gave latents of shape {latents_CFHW.shape} for {clip.location}; its grid says {expected}")
    if not (np.isfinite(latents_CFHW).all() and all(np.isfinite(array).all() for array in told.values())):
        raise RejectRow("non_finite_latents", "the model's latents or prompt embedding hold NaN or infinity")
    prompt_LE = told.pop(PROMPT)
    return {
        "latents": latents_CFHW.astype(np.float32),
        PROMPT: trimmed(prompt_LE.astype(np.float32)),
        **told,
        "prompt_tokens": np.array(len(prompt_LE), dtype=np.int64),
        "num_frames": np.array(len(decoded.frames_THWC), dtype=np.int64),
        "flags": np.array(flag_bits(decoded.flags), dtype=np.int64),
    }


def trimmed(prompt_LE: Float[np.ndarray, "L E"]) -> Float[np.ndarray, "kept E"]:
    """``prompt_LE`` without trailing rows of zeros. The last block of :data:`PROMPT_BLOCK` tokens is kept whole."""
    used = np.flatnonzero(np.abs(prompt_LE).max(axis=1))
    needed = int(used[-1]) + 1 if used.size else 1
    return prompt_LE[: -(-needed // PROMPT_BLOCK) * PROMPT_BLOCK]


def _flags(ws: Workspace, store: RowStore, run: RowRun, appearances: Mapping[str, Appearance]) -> dict[str, tuple[str, ...]]:
    """The flags of each accepted clip, by clip_id: what its row says, what its frames look like, and how clip and caption fit the settings.

    Only the first of these are part of the row, so the others make no row stale.
    """
    accepted = run.accepted()
    unfit = _unfit(ws, run)
    bits = store.column([ref for _, ref in accepted], "flags").tolist()
    seen = (appearances[clip.clip_id].flags() if clip.clip_id in appearances else () for clip, _ in accepted)
    return {
        clip.clip_id: (*flag_names(own), *further, *unfit[clip.clip_id])
        for (clip, _), own, further in zip(accepted, bits, seen, strict=True)
    }


def _unfit(ws: Workspace, run: RowRun) -> dict[str, tuple[str, ...]]:
    """Which of caption_cut and mostly_cropped hold for each accepted clip."""
    clips = [clip for clip, _ in run.accepted()]
    cut = cut_prompts(ws, (clip.caption for clip in clips))
    sizes, frame = shown_sizes(ws, run.role), (ws.config.clips.width, ws.config.clips.height)
    return {clip.clip_id: _unfit_flags(sizes[clip.clip_id], frame, is_cut=clip.caption in cut) for clip in clips}


def _unfit_flags(shown_size: tuple[int, int], frame: tuple[int, int], *, is_cut: bool) -> tuple[str, ...]:
    """Which of :data:`UNFIT` hold. Both sizes are (width, height); ``frame`` is the one that clips are used with."""
    holds = {"caption_cut": is_cut, "mostly_cropped": is_mostly_cropped(*shown_size, width=frame[0], height=frame[1])}
    return tuple(name for name in UNFIT if holds[name])


def _by_policies(run: RowRun, flagged: Mapping[str, tuple[str, ...]], policies: Policies) -> RowRun:
    """The same run without the clips with a flag that ``clips.policies`` rejects. Their rows stay stored, in case the policy changes."""
    for flag in _rejected_flags(policies):
        if ids := {clip for clip, flags in flagged.items() if flag in flags}:
            run = run.without(dict.fromkeys(ids, _why_rejected(flag)), flag)
    return run


def _rejected_flags(policies: Policies) -> list[str]:
    return [flag for flag in REJECTABLE if getattr(policies, flag) == "reject"]


def _why_rejected(flag: str) -> str:
    return f"{REJECTABLE[flag]}; clips.policies.{flag} rejects that"


def _columns(ws: Workspace, made: _Encoded) -> dict[str, list[Any]]:
    """Columns of the index: num_frames (decoded), frames, height, width (of the latent grid), flags (comma-separated), phash."""
    accepted, appearances = made.run.accepted(), made.appearances
    num_frames = made.store.column([ref for _, ref in accepted], "num_frames").tolist()
    grid, size = latent_grid(ws), (ws.config.clips.height, ws.config.clips.width)
    shapes = [grid.shape(frames, *size) for frames in num_frames]
    return {
        "num_frames": num_frames,
        "frames": [shape[1] for shape in shapes],
        "height": [shape[2] for shape in shapes],
        "width": [shape[3] for shape in shapes],
        "flags": [",".join(made.flagged[clip.clip_id]) for clip, _ in accepted],
        "phash": [appearances[clip.clip_id].phash if clip.clip_id in appearances else "" for clip, _ in accepted],
    }


def _facts(columns: dict[str, list[Any]], outcome: Outcome) -> dict[str, Any]:
    flagged = Counter(flag for names in columns["flags"] for flag in names.split(","))
    return {
        "clips": len(columns["flags"]),
        "rejected": len(outcome.rejects),
        **spread("decoded frames", np.array(columns["num_frames"])),
        "latent shapes": [
            {"frames": f, "height": h, "width": w, "clips": number}
            for (f, h, w), number in sorted(Counter(zip(columns["frames"], columns["height"], columns["width"], strict=True)).items())
        ],
        **{f"flagged {flag}": flagged[flag] for flag in (*FLAGS, "frozen", "hidden_cut", *UNFIT) if flagged[flag]},
    }


def _warn(facts: Mapping[str, Any], asset: str) -> None:
    for flag, words in UNFIT.items():
        if number := facts.get(f"flagged {flag}"):
            log.warning("%s: %d of %d %s (flag %s).", asset, number, facts["clips"], words, flag)
