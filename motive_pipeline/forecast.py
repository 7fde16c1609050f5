"""Estimates what a run would compute, without running it: from the rows that are missing from the stores and the cost of earlier rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from motive_pipeline.catalog.changes import Content
from motive_pipeline.errors import NotPublished
from motive_pipeline.first_costs import SPREAD, published_rates, published_seconds
from motive_pipeline.graph import Role, weighs_loss
from motive_pipeline.keys import embedding_key, gradient_key, latent_key, mask_key
from motive_pipeline.models.load import encoders_hash, latent_grid, model_files, model_folder, model_hash
from motive_pipeline.storage.commits import RECORD, read_record
from motive_pipeline.storage.rows import RowRef, RowReject, RowStore
from motive_pipeline.storage.sealed import Damaged
from motive_pipeline.storage.workspace import Workspace

_MEASURED_COMMITS = 3
UNSURE = 0.2
"""The share of an estimate by which it may be off to either side where fewer than :data:`SURE_RUNS` runs were measured."""
SURE_RUNS = 3
_KEYED = ("latents", "motion_masks", "embeddings", "gradient")
"""The stages whose missing rows can be counted, because the key of a row is known from its clip."""


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What an asset would compute and cost. ``rows`` is None for an asset made as a whole; a cost is None if nothing is known.

    ``seconds`` lie between ``low_s`` and ``high_s`` as earlier runs did (see :class:`Measured`). ``is_measured``: there were some; else the seconds are
    those of published rates (``first_costs.py``).
    """

    rows: int | None
    seconds: float | None
    disk_mb: float | None
    low_s: float | None = None
    high_s: float | None = None
    is_measured: bool = True


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one unit (a row, or an asset made as a whole) took in earlier runs, in seconds: the estimate, the least and the most."""

    seconds: float
    low_s: float
    high_s: float

    @classmethod
    def of(cls, runs: Sequence[tuple[int, float]], *, by_rows: bool) -> Measured:
        """From (units, seconds) of each run. By rows the run with the most rows tells, as loading the model weighs least there, and those with at least half as many
        tell the spread. An asset made as a whole is expected to take as long as its longest run."""
        most = max(units for units, _ in runs)
        rates = [seconds / units for units, seconds in runs if units >= most / 2]
        expected = [seconds / units for units, seconds in runs if units == most][-1] if by_rows else max(rates)
        share = 0.0 if len(rates) >= SURE_RUNS else UNSURE
        return cls(seconds=expected, low_s=min(*rates, expected * (1 - share)), high_s=max(*rates, expected * (1 + share)))

    def times(self, units: int) -> Measured:
        """What so many units take."""
        return Measured(seconds=self.seconds * units, low_s=self.low_s * units, high_s=self.high_s * units)


class Forecast:
    """Estimates from the row stores and the measured costs of earlier runs."""

    def __init__(self, ws: Workspace, contents: Mapping[Role, Iterable[Content]]) -> None:
        self._ws = ws
        self._contents = {role: list(found) for role, found in contents.items()}
        self._stores: dict[tuple[str, str], RowStore] = {}
        self._encoders, self._weights, self._grid = encoders_hash(ws), model_hash(ws), latent_grid(ws)
        self._moments = _second_moments(ws)
        self._encoder = _encoder(ws)
        self._row_s: dict[str, Measured] = {}
        self._asset_s: dict[str, Measured] = {}
        self._read_runs()
        self._rates = published_rates(ws.config)

    def estimate(self, asset: str) -> CostEstimate:
        """What ``asset`` (``query_gradients/motive``) would compute now, from the files and settings as they are."""
        declared = self._ws.graph.asset(asset)
        stage = declared.stage.name
        if not declared.stage.by_rows or declared.role is None or stage not in _KEYED:
            return self._estimate(asset, None, _measured_cost(self._asset_s, asset), self._published_mb(asset))
        missing = self._gradient_is_missing(declared.lane, declared.role) if stage == "gradient" else partial(self._is_missing, stage)
        rows = sum(missing(content) for content in self._contents[declared.role])
        of_row, row_mb = _measured_cost(self._row_s, asset), self._row_mb(stage)
        return self._estimate(asset, rows, None if of_row is None else of_row.times(rows), None if row_mb is None else rows * row_mb)

    def _estimate(self, asset: str, rows: int | None, measured: Measured | None, disk_mb: float | None) -> CostEstimate:
        """From what was measured, else from published rates."""
        if measured is not None:
            return CostEstimate(rows=rows, seconds=measured.seconds, disk_mb=disk_mb, low_s=measured.low_s, high_s=measured.high_s)
        declared = self._ws.graph.asset(asset)
        stage, lane, num_prompts = declared.stage.name, declared.lane, len(self._contents["query"])
        unit_s = None if self._rates is None else published_seconds(self._ws.config, self._rates, stage, lane, num_prompts)
        if unit_s is None:
            return CostEstimate(rows=rows, seconds=None, disk_mb=disk_mb)
        seconds = unit_s if rows is None else rows * unit_s
        return CostEstimate(rows=rows, seconds=seconds, disk_mb=disk_mb, low_s=seconds / SPREAD, high_s=seconds * SPREAD, is_measured=False)

    def _is_missing(self, stage: str, content: Content) -> bool:
        """Whether the stage has no row for ``content`` yet."""
        if stage == "embeddings":
            return self._store(stage).find(embedding_key(content.clip_id, self._encoder)) is None
        return (self._latents(content) if stage == "latents" else self._mask(content)) is None

    def _gradient_is_missing(self, variant: str, role: Role) -> Callable[[Content], bool]:
        """Whether a variant has no gradient of a clip yet. One whose latents or mask are still missing counts as missing."""
        config, store = self._ws.config.of_variant(variant), self._store("gradient", variant)
        is_masked = weighs_loss(config.gradient.mask, role)
        moments = self._moments if config.influence.uses_adam else None

        def is_missing(content: Content) -> bool:
            inputs = [self._latents(content), self._mask(content)] if is_masked else [self._latents(content)]
            if content.part == "held_out" or any(isinstance(row, RowReject) for row in inputs):
                return False
            hashes = [row.content for row in inputs if isinstance(row, RowRef)]
            if len(hashes) < len(inputs):
                return True
            key = gradient_key(content.clip_id, content.caption, hashes[0], hashes[1] if is_masked else "", self._weights, moments)
            return store.find(key) is None

        return is_missing

    def _latents(self, content: Content) -> RowRef | RowReject | None:
        return self._store("latents").find(latent_key(content.clip_id, content.caption, self._encoders))

    def _mask(self, content: Content) -> RowRef | RowReject | None:
        return self._store("motion_masks").find(mask_key(content.clip_id, self._grid.temporal_stride, self._grid.spatial_stride))

    def _store(self, stage: str, lane: str = "") -> RowStore:
        if (stage, lane) not in self._stores:
            self._stores[stage, lane] = self._ws.store(stage, {}, lane)
        return self._stores[stage, lane]

    def _read_runs(self) -> None:
        """Read what runs and rows took."""
        if self._ws.scores.version() is None:
            return
        runs = self._ws.scores.query("SELECT asset, seconds, rows_computed FROM runs ORDER BY rows_computed, started_at").fetchall()
        wholes: dict[str, list[tuple[int, float]]] = {}
        by_rows: dict[str, list[tuple[int, float]]] = {}
        for asset, seconds, computed in runs:
            wholes.setdefault(asset, []).append((1, seconds))
            if computed:
                by_rows.setdefault(asset, []).append((computed, seconds))
        for asset, found in by_rows.items():  # a run that found everything there tells nothing
            wholes[asset] = [(1, seconds) for _, seconds in found]
        self._asset_s = {asset: Measured.of(found, by_rows=False) for asset, found in wholes.items()}
        self._row_s = {asset: Measured.of(found, by_rows=True) for asset, found in by_rows.items()}

    def _row_mb(self, stage: str) -> float | None:
        """Megabytes per stored row, from the latest commits of the stage under any settings."""
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
        """Megabytes of the asset's current publication, without the model's own files (hard links)."""
        publication = self._ws.published_or_none(asset)
        if publication is None:
            return None
        folder = model_folder(self._ws.config.model)
        model = frozenset((file.stat().st_dev, file.stat().st_ino) for file in model_files(folder))
        return _num_bytes(publication.data_folder, without=model) / 1e6


def _measured_cost(measured: Mapping[str, Measured], asset: str) -> Measured | None:
    """The measured cost of ``asset``, else the highest of its other arms or variants."""
    name = asset.split("/")[0]
    others = [value for other, value in measured.items() if other.split("/")[0] == name]
    return measured.get(asset, max(others, default=None, key=lambda other: other.seconds))


def _num_bytes(folder: Path, *, without: frozenset[tuple[int, int]]) -> int:
    """The size of the files below ``folder``. A file with several links counts once."""
    stats = {(stat.st_dev, stat.st_ino): stat.st_size for file in folder.rglob("*") if file.is_file() for stat in [file.stat()]}
    return sum(size for file, size in stats.items() if file not in without)


def _second_moments(ws: Workspace) -> str | None:
    """The hash of the published second moments in the keys of gradients; None if none are used, or none are published yet."""
    if not any(ws.config.of_variant(variant).influence.uses_adam for variant in ws.config.variants):
        return None
    from motive_pipeline.attribution.second_moments import second_moments_content

    try:
        return second_moments_content(ws)
    except NotPublished:
        return None


def _encoder(ws: Workspace) -> str:
    """The hash of the encoder in the keys of embeddings; empty if no arm uses embeddings."""
    if "embedding" not in ws.config.arms:
        return ""
    from motive_pipeline.curation.encoders import encoder_content

    return encoder_content(ws)
