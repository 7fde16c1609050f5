"""Small published assets for the tests of influence, curation and training, in the very formats of the stages that make them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motive_pipeline.latents.stage import DIMS, PROMPT_BLOCK
from motive_pipeline.storage.digest import digest, digest_arrays, digest_frame
from motive_pipeline.storage.rows import Row
from motive_pipeline.storage.workspace import Reject, Workspace
from motive_pipeline.storage.zarr_groups import new_array, new_group, write_column, write_ids


def unit_rows(num_rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Random float32 rows of length 1."""
    rows = np.random.default_rng(seed).standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clip_names(num_clips: int, start: int = 0) -> list[str]:
    """Ids of 16 hex digits, ascending."""
    return [f"{number:016x}" for number in range(start, start + num_clips)]


def publish_gradients(
    ws: Workspace,
    asset: str,
    ids: Sequence[str],
    gradient: np.ndarray,
    *,
    norms: np.ndarray | None = None,
    chunk: int = 7,
    rejects: Sequence[Reject] = (),
    **attributes: Any,
) -> None:
    """``projected_gradients/<variant>`` or ``query_gradients/<variant>`` with these rows."""
    norms = np.ones(len(ids)) if norms is None else norms.astype(np.float64)

    def write(folder: Path) -> None:
        group = new_group(folder, {"projection": "fastfood", "role": asset} | attributes)
        write_ids(group, "clip_id", np.array(ids), "clip")
        write_column(group, "grad_norm", norms, "clip")
        write_column(group, "num_frames", np.full(len(ids), 17), "clip")
        new_array(group, "gradient", shape=gradient.shape, dtype="float32", chunks=(chunk, 512), dims=("clip", "proj"))[:] = gradient

    content = digest_arrays({"gradient": gradient, "clip_id": np.array(ids, dtype="S16"), "norm": norms})
    ws.publish(asset, content=content, write=write, started=time.time(), rejects=rejects)


def publish_influence_matrix(ws: Workspace, variant: str, query_ids: Sequence[str], clip_ids: Sequence[str], influence: np.ndarray) -> None:
    """``influence_matrix/<variant>`` with these scores."""

    def write(folder: Path) -> None:
        group = new_group(folder)
        write_ids(group, "query_id", np.array(query_ids), "query")
        write_ids(group, "clip_id", np.array(clip_ids), "clip")
        new_array(group, "influence", shape=influence.shape, dtype="float32", chunks=(2, 5), dims=("query", "clip"))[:] = influence

    ws.publish(f"influence_matrix/{variant}", content=digest_arrays({"i": influence}), write=write, started=time.time())


def publish_table(ws: Workspace, asset: str, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """An asset that is one Parquet table."""
    frame = pd.DataFrame(columns)
    ws.publish(
        asset,
        content=digest_frame(frame),
        write=lambda folder: frame.to_parquet(folder / f"{name}.parquet"),
        started=time.time(),
    )


def publish_clips(ws: Workspace, clip_ids: Sequence[str], magnitude_px: Sequence[float] | None = None) -> None:
    """``clip_catalog``, ``latents`` (index only), ``motion_masks`` and ``eligible_pool`` over these clips."""
    captions = [f"clip {clip_id[-2:]}" for clip_id in clip_ids]
    publish_table(
        ws,
        "clip_catalog",
        "catalog",
        {"clip_id": clip_ids, "path": [f"/clips/{c}.mp4" for c in clip_ids], "caption": captions},
    )
    publish_table(ws, "latents", "index", {"clip_id": clip_ids})
    px = list(magnitude_px) if magnitude_px is not None else [1.0] * len(clip_ids)
    publish_table(ws, "motion_masks", "index", {"clip_id": clip_ids, "motion_magnitude_px": px})
    publish_table(ws, "eligible_pool", "pool", {"clip_id": clip_ids})


def publish_latents(ws: Workspace, latents: Mapping[str, np.ndarray], prompts: Mapping[str, np.ndarray]) -> None:
    """``latents`` with these arrays (C, F, H, W) and prompt embeddings (L, E), through the real row store."""
    store = ws.store("latents", DIMS)
    rows = [
        Row(
            key=digest(clip_id),
            arrays={
                "latents": latents[clip_id],
                "prompt_embeds": prompts[clip_id][:PROMPT_BLOCK],
                "prompt_tokens": np.array(len(prompts[clip_id]), dtype=np.int64),
            },
        )
        for clip_id in latents
        if store.find(digest(clip_id)) is None
    ]
    store.append(rows)
    refs = [store.find(digest(clip_id)) for clip_id in latents]
    shapes = [array.shape for array in latents.values()]
    publish_table(
        ws,
        "latents",
        "index",
        {
            "clip_id": list(latents),
            "key": [ref.key for ref in refs],
            "content": [ref.content for ref in refs],
            "num_frames": [4 * (shape[1] - 1) + 1 for shape in shapes],
            "frames": [shape[1] for shape in shapes],
            "height": [shape[2] for shape in shapes],
            "width": [shape[3] for shape in shapes],
            "store": [f"latents/{ws.config.row_fingerprint('latents')}"] * len(refs),
        },
    )
