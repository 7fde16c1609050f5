"""What a run would compute, found out without running: the rows that are missing from the stores, and what earlier rows have cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.catalog.changes import Content
from motive_pipeline.catalog.clip_rows import Role
from motive_pipeline.errors import NotPublished
from motive_pipeline.keys import embedding_key, gradient_key, latent_key, mask_key
from motive_pipeline.models.load import encoders_hash, latent_grid, model_files, model_folder, model_hash
from motive_pipeline.storage.commits import RECORD, read_record
from motive_pipeline.storage.rows import RowRef, RowReject, RowStore
from motive_pipeline.storage.sealed import Damaged
from motive_pipeline.storage.workspace import Workspace

_MEASURED_COMMITS = 3
_KEYED = ("latents", "motion_masks", "embeddings", "gradient")
"""The stages whose missing rows can be counted, because the key of a row is known from its clip."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an asset would compute and cost. ``rows`` is None for one that is made as a whole, the costs where nothing was measured yet."""

    rows: int | None
    seconds: float | None
    disk_mb: float | None


class Forecast:
    """The stores, and what earlier runs took."""

    def __init__(self, ws: Workspace, contents: Mapping[Role, Iterable[Content]]) -> None:
        self._ws = ws
        self._contents = {role: list(found) for role, found in contents.items()}
        self._stores: dict[str, RowStore] = {}
        self._encoders, self._weights, self._grid = encoders_hash(ws), model_hash(ws), latent_grid(ws)
        self._moments = _second_moments(ws)
        self._encoder = _encoder(ws)
        self._row_s: dict[str, float] = {}
        self._asset_s: dict[str, float] = {}
        self._read_runs()

    def estimate(self, asset: str) -> Estimate:
        """What ``asset`` (``query_gradients/motive``) would compute now, from the files and settings as they are."""
        declared = self._ws.graph.asset(asset)
        stage = declared.stage.name
        if not declared.stage.by_rows or declared.role is None or stage not in _KEYED:
            return Estimate(rows=None, seconds=_known(self._asset_s, asset), disk_mb=self._published_mb(asset))
        rows = sum(self._is_missing(stage, content, masked=declared.lane == "motive") for content in self._contents[declared.role])
        per_row_s, per_row_mb = _known(self._row_s, asset), self._row_mb(stage)
        return Estimate(
            rows=rows,
            seconds=None if per_row_s is None else rows * per_row_s,
            disk_mb=None if per_row_mb is None else rows * per_row_mb,
        )

    def _is_missing(self, stage: str, content: Content, *, masked: bool) -> bool:
        """Whether the stage has no row for ``content`` yet; a gradient without latents or mask will be missing once these are there."""
        if stage == "embeddings":
            return self._store(stage).find(embedding_key(content.clip_id, self._encoder)) is None
        latents = self._store("latents").find(latent_key(content.clip_id, content.caption, self._encoders))
        mask = self._store("motion_masks").find(mask_key(content.clip_id, self._grid.temporal_stride, self._grid.spatial_stride))
        if stage != "gradient":
            return (latents if stage == "latents" else mask) is None
        inputs = [latents, mask] if masked else [latents]
        if content.part == "held_out" or any(isinstance(row, RowReject) for row in inputs):
            return False
        hashes = [row.content for row in inputs if isinstance(row, RowRef)]
        if len(hashes) < len(inputs):
            return True
        key = gradient_key(content.clip_id, content.caption, hashes[0], hashes[1] if masked else "", self._weights, self._moments)
        return self._store("gradient").find(key) is None

    def _store(self, stage: str) -> RowStore:
        if stage not in self._stores:
            self._stores[stage] = self._ws.store(stage, {})
        return self._stores[stage]

    def _read_runs(self) -> None:
        """Seconds a row, from the run of each asset that computed most rows (the model's loading weighs least there); seconds of a run."""
        if self._ws.scores.version() is None:
            return
        runs = self._ws.scores.query("SELECT asset, seconds, rows_computed FROM runs ORDER BY rows_computed, started_at").fetchall()
        for asset, seconds, computed in runs:
            self._asset_s[asset] = max(seconds, self._asset_s.get(asset, 0.0))
            if computed:
                self._row_s[asset] = seconds / computed

    def _row_mb(self, stage: str) -> float | None:
        """Megabytes of a stored row, from a few committed batches, of another setting where there are none under this one."""
        records = sorted((self._ws.root / "rows" / stage).glob(f"*/segments/[0-9]*{RECORD}"), key=lambda file: file.stat().st_mtime)
        rows = num_bytes = 0
        for record in records[-_MEASURED_COMMITS:]:
            try:
                commit = read_record(record)
            except (FileNotFoundError, Damaged):
                continue
            rows += len(commit.keys)
            num_bytes += record.stat().st_size + sum(segment.num_bytes for segment in commit.segments.values())
        return num_bytes / rows / 1e6 if rows else None

    def _published_mb(self, asset: str) -> float | None:
        """Megabytes of what the asset has published last, the model's own files (hard links) left out."""
        if not self._ws.has_published(asset):
            return None
        folder = model_folder(self._ws.config.model)
        model = frozenset((file.stat().st_dev, file.stat().st_ino) for file in model_files(folder))
        return _num_bytes(self._ws.published(asset).path, without=model) / 1e6


def _known(measured: Mapping[str, float], asset: str) -> float | None:
    """What was measured of ``asset``, else the most that was measured of another arm or variant of it."""
    name = asset.split("/")[0]
    others = [value for other, value in measured.items() if other.split("/")[0] == name]
    return measured.get(asset, max(others, default=None))


def _num_bytes(folder: Path, *, without: frozenset[tuple[int, int]]) -> int:
    """The size of the files below ``folder``, each once however many links it has."""
    stats = {(stat.st_dev, stat.st_ino): stat.st_size for file in folder.rglob("*") if file.is_file() for stat in [file.stat()]}
    return sum(size for file, size in stats.items() if file not in without)


def _second_moments(ws: Workspace) -> str | None:
    """The hash that gradient rows hold of the published second moments; None where none are used, or none are published yet."""
    if ws.config.influence.preconditioner != "adam":
        return None
    from motive_pipeline.attribution.second_moments import second_moments_content

    try:
        return second_moments_content(ws)
    except NotPublished:
        return None


def _encoder(ws: Workspace) -> str:
    """The hash that embedding rows hold of their encoder; empty without the arm that asks for them."""
    if "embedding" not in ws.config.arms:
        return ""
    from motive_pipeline.curation.encoders import encoder_content

    return encoder_content(ws)
