"""The completion record of a shard: what it was made from, and how many rows it has. It is written last."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from motive_pipeline.catalog import perceptual_hashes
from motive_pipeline.curation.encoders import encoder_content
from motive_pipeline.errors import NotPublished
from motive_pipeline.graph import STAGES
from motive_pipeline.graph.resolve import Asset
from motive_pipeline.models.load import encoders_hash, model_hash
from motive_pipeline.shards.share import RECORD
from motive_pipeline.storage import atomic
from motive_pipeline.storage.root_copy import copy_of
from motive_pipeline.storage.sealed import read_sealed, write_sealed
from motive_pipeline.storage.workspace import Workspace

CATALOGS = ("clip_catalog", "query_catalog")


@dataclass(frozen=True, kw_only=True)
class StoreRows:
    """One row store of a shard: the stage, lane, settings and code that decide its rows, and how many rows and rejections it has."""

    stage: str
    lane: str
    settings: dict[str, Any]
    code_version: int
    rows: int = 0
    rejects: int = 0


@dataclass(frozen=True, kw_only=True)
class AssetRows:
    """What a shard did for one asset. ``retried`` of the rejected rows are not stored: they are tried again."""

    computed: int
    reused: int
    rejected: int
    retried: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """All of a record. ``sources`` and ``stores`` must be those of the other shards and of the root that the shard is merged into.

    ``machine`` holds what may change the last bits of a row, and is only compared to warn: versions of libraries, device, threads. ``waiting`` names the
    assets that had to be left out, and why.
    """

    number: int
    count: int
    num_clips: int
    num_queries: int
    sources: dict[str, str | None]
    stores: dict[str, StoreRows]
    assets: dict[str, AssetRows]
    waiting: dict[str, str]
    machine: dict[str, Any] = field(default_factory=dict)
    finished_at: str = ""


def save_record(folder: Path, record: ShardRecord) -> None:
    """Write the record of the shard in ``folder``: the shard is complete."""
    write_sealed(folder / RECORD, asdict(record))
    if (copy := copy_of(folder)) is not None:
        copy.push([folder / RECORD])


def forget_record(folder: Path) -> None:
    """Remove the record of the shard in ``folder``, if there is one: the shard is at work again."""
    if (copy := copy_of(folder)) is not None:
        copy.delete([folder / RECORD])
    atomic.remove(folder / RECORD)


def load_record(folder: Path) -> ShardRecord:
    """The record of the shard in ``folder``.

    Raises:
        FileNotFoundError: the shard has not finished.
        Damaged: the record is cut or altered.
    """
    if (copy := copy_of(folder)) is not None and not copy.fetch_again(folder / RECORD):
        raise FileNotFoundError(folder / RECORD)
    saved = read_sealed(folder / RECORD)
    stores = {name: StoreRows(**values) for name, values in saved.pop("stores").items()}
    assets = {name: AssetRows(**values) for name, values in saved.pop("assets").items()}
    return ShardRecord(stores=stores, assets=assets, **saved)


def sharded_assets(ws: Workspace) -> list[Asset]:
    """The assets whose rows shards compute, parents first."""
    return [asset for asset in ws.graph.assets.values() if asset.stage.rows is not None]


def sharded_stores(ws: Workspace) -> dict[str, StoreRows]:
    """The row stores of those assets under the current settings, by name."""
    lanes = [(asset.stage.name, asset.lane) for asset in sharded_assets(ws)]
    return {
        f"{stage}/{ws.config.row_fingerprint(stage, lane)}": StoreRows(
            stage=stage, lane=lane, settings=ws.config.stage_settings(stage, lane), code_version=STAGES[stage].version
        )
        for stage, lane in [*lanes, (perceptual_hashes.STAGE, "")]
    }


def sources_of_rows(ws: Workspace) -> dict[str, str | None]:
    """What all shards must have in common beside the settings: the catalogs' data versions, hashes of the model and of its encoders and, where they are used, of
    the embeddings' encoder and of the published second moments (None: they are not published yet).

    Raises:
        NotPublished: a catalog is not published.
        MotiveError: the model, or the encoder, cannot be used.
    """
    found: dict[str, str | None] = {name: ws.published(name).data_version for name in CATALOGS}
    found |= {"the model": model_hash(ws), "the model's encoders": encoders_hash(ws)}
    if "embeddings" in ws.graph.assets:
        found["embedding.encoder"] = encoder_content(ws)
    if "second_moments" in ws.graph.assets:
        found["second_moments"] = _second_moments(ws)
    return found


def _second_moments(ws: Workspace) -> str | None:
    from motive_pipeline.attribution.second_moments import second_moments_content

    try:
        return second_moments_content(ws) if ws.published("second_moments").fingerprint == ws.fingerprint("second_moments") else None
    except NotPublished:
        return None
