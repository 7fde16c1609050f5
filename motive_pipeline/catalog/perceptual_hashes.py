"""The perceptual hashes (and the rest of the appearance) of clips, in a row store of their own: they depend on the frames alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from motive_pipeline.catalog.catalog_clips import CatalogClip, require_unchanged
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.appearance import Appearance
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader

STAGE = "perceptual_hashes"


def perceptual_hashes(ws: Workspace, clips: Sequence[CatalogClip], seen: Mapping[str, Appearance]) -> dict[str, Appearance]:
    """The appearance of each of ``clips``, by clip_id: from ``seen``, from the store, or by reading the clip now.

    A clip whose file can no longer be read, or has other content than the catalog says, has no entry: rows are stored by content.
    """
    store = ws.store(STAGE, {"phash": ("digit",)})
    memory = HashMemory(ws.state)
    reader = ClipReader(FrameRule.of(ws.config), ws.config.engine, appearance=True)

    def row(clip: CatalogClip) -> dict[str, np.ndarray]:
        appearance = seen.get(clip.clip_id)
        if appearance is None:
            appearance = reader(clip.file).appearance
            require_unchanged(clip, memory)
        assert appearance is not None
        facts = np.array([-1 if appearance.cut_frame is None else appearance.cut_frame, appearance.is_frozen], dtype=np.int64)
        return {"phash": np.frombuffer(bytes.fromhex(appearance.phash), dtype=np.uint8).copy(), "facts": facts}

    keys = {clip.clip_id: digest(clip.clip_id) for clip in clips}
    outcome = compute_rows(
        store,
        [Work(key=keys[clip.clip_id], item=clip) for clip in clips],
        row,
        what="perceptual hashes",
        commit_rows=512,
        prefetch=lambda missing: reader.prefetch([clip.file for clip in missing if clip.clip_id not in seen]),
    )
    known = [clip.clip_id for clip in clips if keys[clip.clip_id] in outcome.refs]
    refs = [outcome.refs[keys[clip_id]] for clip_id in known]
    phashes, facts = (dict(store.read_many(refs, name)) for name in ("phash", "facts"))
    return {clip_id: _appearance(phashes[position], facts[position]) for position, clip_id in enumerate(known)}


def _appearance(phash: np.ndarray, facts: np.ndarray) -> Appearance:
    cut, frozen = facts.tolist()
    return Appearance(phash=phash.tobytes().hex(), cut_frame=None if cut < 0 else cut, is_frozen=bool(frozen))
