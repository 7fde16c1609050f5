"""``motive plan``: what would run, why, and what it would cost. Changes nothing."""

from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from assets.automation import SOURCES
from assets.definitions import build_definitions
from assets.instance import open_instance
from assets.staleness import asset_name, stale_assets, version_consumed
from motive_pipeline.config import Config
from motive_pipeline.stages import STAGES
from motive_pipeline.storage.workspace import Publication, Workspace

ROW_STAGES = {"latents": "clip", "query_latents": "query", "motion_masks": "clip", "query_masks": "query"}
ROW_STAGES |= {"projected_gradients": "clip", "query_gradients": "query"}
"""Assets with a row for each clip or query; the cost of the others does not follow the number of rows."""


@dataclass
class Planned:
    """An asset that would run. ``rows`` and ``seconds`` are None where nothing was measured yet."""

    asset: str
    reasons: list[str] = field(default_factory=list)
    certain: bool = True
    rows: int | None = None
    seconds: float | None = None


def plan(config: Config) -> list[Planned]:
    """What ``motive run`` would do now, parents first.

    ``certain`` assets have a reason of their own; the others follow only if what is above them comes out different.

    Raises:
        MotiveError: a source cannot be read.
    """
    from motive_pipeline.clips.changes import source_changes
    from motive_pipeline.clips.watch import source_versions

    workspace = Workspace(config)
    with open_instance(config) as instance:
        graph = build_definitions(config, workspace).resolve_asset_graph()
        versions = source_versions(workspace)
        stale = stale_assets(graph, instance, workspace)
        changes = {role: source_changes(workspace, role) for role in ("clip", "query")}
        sources = {"clip_files": changes["clip"].words("clip"), "query_files": changes["query"].words("query clip"), "base_model": []}
        new = {name: words or ["its content changed"] for name, words in sources.items() if _is_new(instance, name, versions[name])}
    measured = _Measured(workspace, {role: (found.now, found.added) for role, found in changes.items()})
    planned: dict[str, Planned] = {}
    for key in graph.toposorted_asset_keys:
        name = asset_name(key)
        if key not in graph.materializable_asset_keys:
            continue
        reasons = _reasons(config, workspace, name, stale.get(key, []))
        parents = [asset_name(parent) for parent in graph.get(key).parent_keys]
        reasons += [f"{parent}: {', '.join(new[parent])}" for parent in parents if parent in new and key not in _missing(stale)]
        above = [parent for parent in parents if parent in planned]
        if reasons or above:
            planned[name] = Planned(asset=name, reasons=reasons or [f"follows {', '.join(above)}"], certain=bool(reasons))
            measured.estimate(planned[name], whole=_whole(workspace, config, name, parents, new))
    return list(planned.values())


def _is_new(instance: dg.DagsterInstance, source: str, version: str) -> bool:
    consumed = version_consumed(instance, SOURCES[source], source)
    return consumed is not None and consumed != version


def _missing(stale: dict[dg.AssetKey, list[str]]) -> set[dg.AssetKey]:
    return {key for key, reasons in stale.items() if reasons == ["never materialized"]}


def _reasons(config: Config, workspace: Workspace, name: str, stale: list[str]) -> list[str]:
    """Dagster's reasons, with a change of settings or code spelled out."""
    if not workspace.has_published(name):
        return stale
    spelled = changed_settings(config, workspace.published(name))
    return [reason for reason in stale if reason != "its settings or its code changed"] + spelled if stale else []


def changed_settings(config: Config, publication: Publication) -> list[str]:
    """``["gradient.timestep 500 -> 751"]``: how the settings and the code differ from those the publication was made with."""
    saved = publication.provenance
    stage: str = saved["stage"]
    now = config.stage_settings(stage) | config.stage_gates(stage)
    before = saved["settings"] | saved.get("gates", {})
    words = [text for key in now | before for text in _differences(key, before.get(key), now.get(key))]
    if saved["code_version"] != STAGES[stage].version:
        words.append(f"the code of {stage}, version {saved['code_version']} -> {STAGES[stage].version}")
    return words


def _differences(key: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [text for name in now for text in _differences(f"{key}.{name}", before.get(name), now[name])]
    return [] if before == now else [f"{key} {before} -> {now}"]


def _whole(workspace: Workspace, config: Config, name: str, parents: list[str], new: dict[str, list[str]]) -> bool:
    """Whether all rows of an asset would be computed again, and not only those of new clips."""
    if not workspace.has_published(name) or ("base_model" in new and "base_model" in parents):
        return True
    saved = workspace.published(name).provenance
    return saved["row_fingerprint"] != config.row_fingerprint(saved["stage"])


class _Measured:
    """Costs from what earlier runs took."""

    def __init__(self, workspace: Workspace, rows: dict[str, tuple[int, int]]) -> None:
        self._rows = rows
        self._seconds: dict[str, float] = {}
        self._per_row: dict[str, float] = {}
        if workspace.scores.version() is None:
            return
        runs = workspace.scores.query("SELECT asset, seconds, rows_computed FROM runs ORDER BY started_at").fetchall()
        for asset, seconds, computed in runs:
            self._seconds[asset] = max(seconds, self._seconds.get(asset, 0.0))
            if computed:
                self._per_row[asset] = seconds / computed

    def estimate(self, planned: Planned, *, whole: bool) -> None:
        """Enter rows and seconds; an asset of no rows costs what its longest run did."""
        role = ROW_STAGES.get(planned.asset.split("/")[0])
        if role is None:
            planned.seconds = self._seconds.get(planned.asset)
            return
        now, added = self._rows[role]
        planned.rows = now if whole else added
        if planned.asset in self._per_row:
            planned.seconds = planned.rows * self._per_row[planned.asset]
