"""Clips -> motion masks on the latent grid, and how much each clip moves.

Axes: T decoded frames, F latent frames, h w latent cells.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips, require_unchanged
from motive_pipeline.catalog.clip_rows import RowRun, RowSet
from motive_pipeline.devices.spread import is_spread, on_devices
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.graph import Role
from motive_pipeline.graph.trackers import TRACKERS
from motive_pipeline.keys import mask_key
from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.models.load import latent_grid, require_fitting
from motive_pipeline.motion.field import PEAK_SHARE, MaskRule, motion_field
from motive_pipeline.motion.overlay import overlay_mask
from motive_pipeline.motion.parallel import in_parallel, one_at_a_time, one_opencv_thread
from motive_pipeline.motion.trackers import Tracker, build_tracker
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.video.contact_sheet import Tile, evenly, write_sheet
from motive_pipeline.video.decode import DecodedClip, FrameRule
from motive_pipeline.video.readers import ClipReader

STAGE = "motion_masks"
DIMS: dict[str, tuple[str, ...]] = {"mask": ("frame", "height", "width"), "motion_magnitude_px": (), "motion_peak_px": ()}

FAINT_WEIGHT = 0.01
"""A mask whose largest weight is below this weighs nothing."""

_PREVIEW_CLIPS = 6
_PREVIEW_FRAMES = 4


class MaskSet(RowSet):
    """The published motion masks of one role."""

    asset_of: ClassVar[dict[Role, str]] = {"clip": "motion_masks", "query": "query_masks"}

    def get(self, clip_id: str) -> Float[torch.Tensor, "F h w"]:
        """The mask, weights in [0, 1], on the grid of the clip's latents."""
        return torch.from_numpy(self.read(clip_id, "mask"))


def publish_motion_masks(ws: Workspace, *, role: Role) -> Publication:
    """Compute the motion mask of every clip (or query) of the catalog and publish the index.

    A training clip that does not move (``motion.still_px``) keeps its mask. Such a query is rejected: it shows no motion to look for.

    Raises:
        GateFailed: more than ``motion.max_reject_share`` of the clips were rejected, every clip is still, or too few queries are left.
    """
    store, grid = ws.store(STAGE, DIMS), latent_grid(ws)
    run, still = _tracked(ws, role, store)
    run.require_enough(ws)
    if len(still) == len(run.accepted()):
        raise GateFailed(
            f"{MaskSet.asset_of[role]}: all {len(still)} clips are still, or their masks are next to zero, so no clip could teach any motion. The "
            f"fastest one: {_fastest(store, run, still)}"
        )
    magnitude_px, peak_px = (_column(store, run, name) for name in ("motion_magnitude_px", "motion_peak_px"))
    scores: dict[tuple[str, str], pd.DataFrame | Path] = {}
    if role == "clip":
        ids = [clip.clip_id for clip, _ in run.accepted()]
        scores["motion", "motion"] = pd.DataFrame({"clip_id": ids, "motion_magnitude_px": magnitude_px})
    return run.publish(
        ws,
        {"motion_magnitude_px": magnitude_px, "motion_peak_px": peak_px},
        facts=_facts(magnitude_px, num_still=len(still)),
        scores=scores,
        preview=_Preview(store, run, ClipReader(FrameRule.of(ws.config), ws.config.engine), grid),
    )


def mask_rows(ws: Workspace, *, role: Role) -> RowRun:
    """Compute the motion mask of every clip (or query) of the catalog, and publish nothing."""
    return _tracked(ws, role, ws.store(STAGE, DIMS))[0]


def _tracked(ws: Workspace, role: Role, store: RowStore) -> tuple[RowRun, dict[str, str]]:
    """All rows of a role, and the clips that are still, each with the words for it; still queries are rejected instead."""
    started = time.time()
    require_fitting(ws)
    clips, grid = catalog_clips(ws, role), latent_grid(ws)
    keys = [mask_key(clip.clip_id, grid.temporal_stride, grid.spatial_stride) for clip in clips]
    work = [Work(key=key, item=clip) for key, clip in zip(keys, clips, strict=True)]
    with _row_function(ws, [piece.item for piece in work if store.find(piece.key) is None]) as row:
        outcome = compute_rows(
            store, work, row, what=MaskSet.asset_of[role], commit_rows=ws.config.engine.commit_rows, commit_s=ws.config.engine.commit_s
        )
    run = RowRun(asset=MaskSet.asset_of[role], role=role, clips=clips, keys=keys, outcome=outcome, started=started)
    still = _still(store, run, ws.config.motion.still_px)
    return (run.without(still, "no_motion"), {}) if role == "query" else (run, still)


@contextmanager
def _row_function(ws: Workspace, missing: Sequence[CatalogClip]) -> Iterator[Any]:
    """``clip -> arrays``. In one process, a tracker that works ``by_threads`` tracks ``engine.threads`` clips at once; a network tracks one clip at a time,
    while the next ones are read.
    """
    rows = _MaskRows(ws)
    if is_spread(ws):
        with on_devices(ws, one_at_a_time(_MaskRows)) as spread:
            yield spread
    elif TRACKERS[ws.config.motion.tracker].by_threads:
        with in_parallel(rows.computed, missing, threads=ws.config.engine.threads) as row:
            yield lambda clip: rows.checked(clip, row(clip))
    else:
        rows.prefetch(missing)
        yield rows


class _MaskRows:
    """The row function: clip -> arrays. It loads the tracker with the first clip."""

    def __init__(self, ws: Workspace) -> None:
        self._read = ClipReader(FrameRule.of(ws.config), ws.config.engine)
        self._memory = HashMemory(ws.state)
        self._tracker = functools.cache(functools.partial(_tracker, ws))
        self._grid, self._mask_rule = latent_grid(ws), MaskRule.of(ws.config.motion)

    def prefetch(self, clips: Sequence[CatalogClip]) -> None:
        """Queue the clips that are asked for next, in order."""
        self._read.prefetch([clip.file for clip in clips])

    def __call__(self, clip: CatalogClip) -> dict[str, np.ndarray]:
        return self.checked(clip, self.computed(clip))

    def computed(self, clip: CatalogClip) -> dict[str, np.ndarray]:
        """The row, in any thread. Raises what :func:`mask_row` raises."""
        return mask_row(clip, self._tracker(), self._grid, self._read, self._mask_rule)

    def checked(self, clip: CatalogClip, row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``row``, in the thread that made this object. Raises RejectRow if the clip's file has changed since it was catalogued."""
        require_unchanged(clip, self._memory)
        return row


def mask_alone(ws: Workspace, clip: CatalogClip, decoded: DecodedClip) -> dict[str, np.ndarray]:
    """:func:`mask_row` of a clip that is in no catalog, with the bits that a published row would have.

    Raises:
        RejectRow: ``non_finite_motion``, or, as for a query, ``no_motion``.
    """
    by_threads = TRACKERS[ws.config.motion.tracker].by_threads
    with one_opencv_thread() if by_threads else nullcontext():
        found = mask_row(clip, _tracker(ws), latent_grid(ws), lambda _: decoded, MaskRule.of(ws.config.motion))
    why = _why_still(float(found["motion_peak_px"]), float(found["mask"].max()), ws.config.motion.still_px)
    if why is not None:
        raise RejectRow("no_motion", why)
    return found


def _tracker(ws: Workspace) -> Tracker:
    return build_tracker(ws.config.motion, device=ws.config.model.device, threads=ws.config.engine.threads)


def mask_row(
    clip: CatalogClip, tracker: Tracker, grid: LatentGrid, read: Callable[[MediaFile], DecodedClip], mask_rule: MaskRule
) -> dict[str, np.ndarray]:
    """One row: ``mask`` (F, h, w), ``motion_magnitude_px``, the mean over the clip of the displacement's magnitude, and ``motion_peak_px``
    (:func:`~.field.peak`).

    Raises:
        RejectRow: the clip cannot be read (:func:`~motive_pipeline.video.decode.read_clip`), or ``non_finite_motion``.
    """
    frames_THWC = read(clip.file).frames_THWC
    field = motion_field(frames_THWC, tracker, mask_rule)
    mask_Fhw = field.mask(grid)
    if not (np.isfinite(mask_Fhw).all() and np.isfinite(field.magnitude_px)):
        raise RejectRow("non_finite_motion", "the tracker's displacement holds NaN or infinity")
    figures = {"motion_magnitude_px": field.magnitude_px, "motion_peak_px": field.peak_px}
    return {"mask": mask_Fhw} | {name: np.array(value, dtype=np.float64) for name, value in figures.items()}


def _still(store: RowStore, run: RowRun, still_px: float) -> dict[str, str]:
    """The accepted clips that do not move, or whose masks are next to zero, each with the words for it."""
    peaks, weights = _column(store, run, "motion_peak_px"), _largest_weights(store, run)
    reasons = {
        clip.clip_id: _why_still(peak_px, weight, still_px)
        for (clip, _), peak_px, weight in zip(run.accepted(), peaks, weights, strict=True)
    }
    return {clip_id: why for clip_id, why in reasons.items() if why is not None}


def _why_still(peak_px: float, largest_weight: float, still_px: float) -> str | None:
    """Why a clip counts as still, in words; None if it moves."""
    if peak_px < still_px:
        return (
            f"all but {PEAK_SHARE:.1%} of its pixels move by less than {peak_px:.3f} px relative to the rest of the picture, where "
            f"motion.still_px asks for {still_px:g}"
        )
    if largest_weight < FAINT_WEIGHT:
        return (
            f"its peak is {peak_px:.3f} px, but the largest weight of its mask is {largest_weight:.2g}: motion.floor_px is too large for it, or "
            "motion.weigh_by and motion.camera leave nothing"
        )
    return None


def _fastest(store: RowStore, run: RowRun, still: Mapping[str, str]) -> str:
    peaks = _column(store, run, "motion_peak_px")
    clip, _ = run.accepted()[int(np.argmax(peaks))]
    return still[clip.clip_id]


def _largest_weights(store: RowStore, run: RowRun) -> np.ndarray:
    """The largest weight in the mask of each accepted clip, in order."""
    refs = [ref for _, ref in run.accepted()]
    largest = np.zeros(len(refs))
    for positions, masks_BFhw in store.read_blocks(refs, "mask"):
        largest[positions] = masks_BFhw.reshape(len(masks_BFhw), -1).max(axis=1)
    return largest


def _column(store: RowStore, run: RowRun, name: str) -> list[float]:
    """A figure of each accepted clip, in order."""
    return store.column([ref for _, ref in run.accepted()], name).tolist()


def _facts(magnitude_px: list[float], *, num_still: int) -> dict[str, Any]:
    return {
        "clips": len(magnitude_px),
        "motion magnitude (px), smallest": round(min(magnitude_px), 4),
        "motion magnitude (px), median": round(float(np.median(magnitude_px)), 4),
        "motion magnitude (px), largest": round(max(magnitude_px), 4),
        "clips without motion": num_still,
        "share without motion": round(num_still / len(magnitude_px), 4),
    }


@dataclass(frozen=True)
class _Preview:
    """A contact sheet: one row for each of some clips, with the mask drawn over some frames."""

    store: RowStore
    run: RowRun
    read: ClipReader
    grid: LatentGrid

    def __call__(self, path: Path) -> None:
        tiles = [tile for clip, ref in evenly(self.run.accepted(), _PREVIEW_CLIPS) for tile in self._tiles(clip, ref)]
        write_sheet(path, tiles, columns=_PREVIEW_FRAMES)

    def _tiles(self, clip: CatalogClip, ref: RowRef) -> Sequence[Tile]:
        mask_Fhw = self.store.read(ref, "mask")
        latent_frames = [round(step * (len(mask_Fhw) - 1) / (_PREVIEW_FRAMES - 1)) for step in range(_PREVIEW_FRAMES)]
        texts = [clip.file.name, clip.clip_id, *[""] * _PREVIEW_FRAMES][:_PREVIEW_FRAMES]
        try:
            frames_THWC = self.read(clip.file).frames_THWC
        except RejectRow as rejection:
            return [Tile(picture_HWC=None, text=rejection.reason)] * _PREVIEW_FRAMES
        return [
            Tile(picture_HWC=overlay_mask(frames_THWC[k * self.grid.temporal_stride], mask_Fhw[k]), text=text)
            for k, text in zip(latent_frames, texts, strict=True)
        ]
