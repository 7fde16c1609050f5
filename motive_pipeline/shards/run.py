"""``motive run --shard i/n``: makes the rows of one share of the clips that depend on a clip alone.

These are latents with prompt embeddings and perceptual hashes, motion masks, embeddings, and the projected gradients of every variant, of clips and of
queries. Their keys are those of a run without shards, so the main root can take them over as they are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from motive_pipeline.bucket.lease import LEASE_S
from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips
from motive_pipeline.catalog.clip_rows import RowRun
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError, NotPublished, RejectRow
from motive_pipeline.graph.resolve import Asset
from motive_pipeline.models.load import require_device
from motive_pipeline.models.memory_limit import device_memory
from motive_pipeline.shards.record import (
    CATALOGS,
    AssetRows,
    ShardRecord,
    forget_record,
    save_record,
    sharded_assets,
    sharded_stores,
    sources_of_rows,
)
from motive_pipeline.shards.share import Share
from motive_pipeline.shards.workspace import ShardWorkspace
from motive_pipeline.storage.clip_folders import bring_archives
from motive_pipeline.storage.merging import merge
from motive_pipeline.storage.published_settings import changed_settings
from motive_pipeline.storage.root_copy import copy_of
from motive_pipeline.storage.shard_folders import shown

log = logging.getLogger(__name__)

LOCK_WAIT_S = 10.0
"""How long a shard waits for a former try of itself to end; a scheduler may start it again while that one stops."""

LEASE_WAIT_S = 1.25 * LEASE_S
"""The same for a root in a bucket: the lease of a try that was killed on another machine has to run out."""

LOOKED_AT = 100
"""So many of the shard's clips are looked for on this machine before any work."""

MAX_RETRIED_SHARE = 0.5
"""A shard in which more rows than this could not be made for a passing reason (missing files, memory) is not complete."""


def run_shard(config: Config, share: Share, folder: Path) -> ShardRecord:
    """Make all rows of the share that are in neither the main root nor the shard's own ``folder``, then write the completion record.

    Raises:
        MotiveError: the catalogs are not published under the current settings, the files or the model are not on this machine, several devices are
            configured, another process runs this shard, or most rows of an asset could not be made for a passing reason.
    """
    _require_one_device(config)
    require_device(config.model.device)
    ws = ShardWorkspace(config, share, folder)
    wait_s = LOCK_WAIT_S if copy_of(folder) is None else LEASE_WAIT_S
    with ws.lock.holding(wait_s=wait_s, who=f"motive run --shard {share}"):
        forget_record(folder)
        _require_catalogs(ws)
        bring_archives(config)
        clips, queries = catalog_clips(ws, "clip"), catalog_clips(ws, "query")
        log.info("shard %s: %d clips and %d queries; rows go to %s", share, len(clips), len(queries), shown(folder))
        _require_files([*clips, *queries])
        sources = sources_of_rows(ws)
        done: dict[str, AssetRows] = {}
        waiting: dict[str, str] = {}
        num_of = {"clip": len(clips), "query": len(queries)}
        for asset in sharded_assets(ws):
            assert asset.role is not None
            if (why := _waits_for(ws, asset)) is not None:
                log.warning("shard %s: %s is left out: %s", share, asset.key, why)
                waiting[asset.key] = why
            elif num_of[asset.role]:
                done[asset.key] = _make(ws, asset)
        record = ShardRecord(
            number=share.number,
            count=share.count,
            num_clips=len(clips),
            num_queries=len(queries),
            sources=sources,
            stores=_stores(ws),
            assets=done,
            waiting=waiting,
            machine=_machine(ws),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        save_record(folder, record)
    return record


def _require_one_device(config: Config) -> None:
    if config.engine.kind == "ray":
        raise MotiveError(
            "engine.kind: ray spreads a run over a cluster, and a shard is a run of one machine. Set engine.kind: local for shards."
        )
    devices = config.engine.all_devices
    if len(devices) > 1:
        raise MotiveError(
            f"engine.devices gives {len(devices)} devices ({', '.join(devices)}), and a shard uses one, model.device. Start one shard for each device, "
            "for instance `CUDA_VISIBLE_DEVICES=0 motive run --shard 1/8`, or leave engine.devices out."
        )


def _require_catalogs(ws: ShardWorkspace) -> None:
    """Raise NotPublished unless both catalogs are published under the current settings."""
    for name in CATALOGS:
        publication = ws.published_or_none(name)
        if publication is not None and publication.fingerprint == ws.fingerprint(name):
            continue
        why = "is not published"
        if publication is not None:
            why = f"was published under other settings ({'; '.join(changed_settings(ws.config, publication))})"
        raise NotPublished(f"--shard {ws.share}: {name} {why}. Run `motive run --until catalog` first, once for all shards.")


def _require_files(clips: Sequence[CatalogClip]) -> None:
    """Raise MotiveError if this machine has none of the first clips."""
    looked_at = clips[:LOOKED_AT]
    if looked_at and not any(map(_is_here, looked_at)):
        raise MotiveError(
            f"none of the {len(looked_at)} clips looked for is on this machine, for instance {looked_at[0].location}. A shard reads the clips at "
            "the paths of the catalog: mount the same folder at the same place."
        )


def _is_here(clip: CatalogClip) -> bool:
    try:
        clip.file.current_stat()
    except (OSError, RejectRow):
        return False
    return True


def _waits_for(ws: ShardWorkspace, asset: Asset) -> str | None:
    """Why ``asset`` cannot be made by shards yet: something that rests on all clips is not published. None if it can."""
    made_here = {each.key for each in sharded_assets(ws)}
    for key in (key for key in asset.inputs if key not in made_here):
        publication = ws.published_or_none(key)
        if publication is None or publication.fingerprint != ws.fingerprint(key):
            return (
                f"it needs {key}, which rests on all clips and is not published under these settings. When all shards are merged, run "
                f"`motive run --select '+key:\"{key}\"'`, then all shards again: they make only what is left"
            )
    return None


def _make(ws: ShardWorkspace, asset: Asset) -> AssetRows:
    started = time.monotonic()
    run: RowRun = asset.rows(ws)
    if not asset.lane:
        ws.keep(run)
    store = ws.store_at(f"{asset.stage.name}/{ws.config.row_fingerprint(asset.stage.name, asset.lane)}")
    refused = run.outcome.rejects
    retried = [reject for key, reject in refused.items() if store.find(key) is None]
    if len(retried) > MAX_RETRIED_SHARE * len(run.clips):
        raise MotiveError(
            f"shard {ws.share}: {len(retried)} of {len(run.clips)} rows of {asset.key} could not be made, for instance {retried[0].reason}: "
            f"{retried[0].detail}. All other rows are kept. Mend that and run the shard again."
        )
    counts = run.outcome.counts
    return AssetRows(
        computed=counts.computed,
        reused=counts.reused,
        rejected=counts.rejected,
        retried=len(retried),
        seconds=round(time.monotonic() - started, 3),
    )


def _stores(ws: ShardWorkspace) -> dict[str, Any]:
    """The shard's row stores, with few large segments each."""
    found = {}
    for name, described in sharded_stores(ws).items():
        store = ws.store_at(name)
        merge(store)
        found[name] = replace(described, rows=len(store), rejects=store.num_rejects)
    return found


def _machine(ws: ShardWorkspace) -> dict[str, Any]:
    return {"libraries": ws.libraries(), "device": device_memory(ws.config.model.device)[1]}
