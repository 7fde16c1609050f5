"""``motive plan``: what would run, why, and what it would cost. Runs nothing."""

import re
from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets.dagster_internals import AssetGraph
from assets.definitions import build_definitions
from assets.instance import open_instance
from assets.names import asset_name
from assets.staleness import Cause, failed_last, stale_assets, version_consumed
from motive_pipeline.config import Config
from motive_pipeline.graph import SOURCES, STAGES, resolve_dotted
from motive_pipeline.storage.workspace import Publication, Workspace


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An asset that would run.

    ``certain`` ones have a reason of their own; the others run only if what is above them comes out different. ``rows`` are those to
    compute, None for an asset that is made as a whole; a cost is None where nothing was measured yet.
    """

    asset: str
    reasons: list[str]
    certain: bool
    rows: int | None
    seconds: float | None
    device_hours: float | None
    disk_mb: float | None


def plan(config: Config) -> list[Planned]:
    """What ``motive run`` would do now, parents first; empty when nothing is stale.

    Raises:
        MotiveError: a source cannot be read.
    """
    from motive_pipeline.catalog.changes import source_now
    from motive_pipeline.forecast import Forecast

    workspace = Workspace(config)
    clips, queries = source_now(workspace, "clip"), source_now(workspace, "query")
    news = {"clip_files": _Source(clips.version, clips.changes), "query_files": _Source(queries.version, queries.changes)}
    for source in SOURCES.values():
        if source.name not in news:
            news[source.name] = _Source(resolve_dotted(source.observe)(workspace)[0], [source.change])
    with open_instance(config) as instance:
        graph = build_definitions(config, workspace).resolve_asset_graph()
        reasons = _Reasons(config, workspace, instance, graph, news)
        found = {asset_name(key): reasons.of(key) for key in graph.toposorted_asset_keys if key in graph.materializable_asset_keys}
    forecast = Forecast(workspace, {"clip": clips.contents, "query": queries.contents})
    planned: dict[str, Planned] = {}
    for name, (own, parents) in found.items():
        above = [parent for parent in parents if parent in planned]
        if not own and not above:
            continue
        cost = forecast.estimate(name)
        on_device = cost.seconds is not None and workspace.graph.asset(name).stage.on_device
        planned[name] = Planned(
            asset=name,
            reasons=own or [f"follows {', '.join(above)}"],
            certain=bool(own),
            rows=cost.rows,
            seconds=cost.seconds,
            device_hours=(cost.seconds or 0.0) / 3600 if on_device else None if cost.seconds is None else 0.0,
            disk_mb=cost.disk_mb,
        )
    return list(planned.values())


@dataclass(frozen=True)
class _Source:
    """An observed source as it is now, and what is new in it, in words."""

    version: str
    changes: list[str]


class _Reasons:
    """Why each asset is stale: what Dagster says, with a change of settings, code, files or weights spelled out."""

    def __init__(
        self, config: Config, workspace: Workspace, instance: dg.DagsterInstance, graph: AssetGraph, sources: dict[str, _Source]
    ) -> None:
        self._config, self._workspace, self._instance, self._graph, self._sources = config, workspace, instance, graph, sources
        self._stale = stale_assets(graph, instance, workspace)
        self._failed = failed_last(graph, instance)

    def of(self, key: dg.AssetKey) -> tuple[list[str], list[str]]:
        """(the asset's own reasons, its parents)."""
        name = asset_name(key)
        parents = sorted(asset_name(parent) for parent in self._graph.get(key).parent_keys)
        causes = self._stale.get(key, [])
        words = [text for cause in causes for text in self._spelled(name, cause)]
        if not any(cause.kind == "missing" for cause in causes):
            words += [text for parent in parents if parent in SOURCES for text in self._news(name, parent)]
        if key in self._failed:
            words.append("its last run failed")
        return words, parents

    def _spelled(self, name: str, cause: Cause) -> list[str]:
        if cause.kind == "code" and self._workspace.has_published(name):
            return changed_settings(self._config, self._workspace.published(name)) or [cause.words]
        return [] if cause.kind == "input" and cause.asset in SOURCES else [cause.words]

    def _news(self, name: str, source: str) -> list[str]:
        """What is new in a source since the asset read it; files are looked at now, whatever was observed last."""
        consumed = version_consumed(self._instance, name, source)
        if consumed == self._sources[source].version:
            return []
        return self._sources[source].changes or [SOURCES[source].change]


def changed_settings(config: Config, publication: Publication) -> list[str]:
    """``["gradient.timestep 500 -> 751"]``: how the settings and the code differ from those the publication was made with."""
    saved = publication.provenance
    stage: str = saved["stage"]
    now = config.stage_settings(stage) | config.publish_settings(stage)
    before = saved["settings"] | saved.get("gates", {})
    words = [text for key in now | before for text in _differences(key, before.get(key), now.get(key))]
    if saved["code_version"] != STAGES[stage].version:
        words.append(f"the code of {stage}, version {saved['code_version']} -> {STAGES[stage].version}")
    return words


def _differences(key: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [text for name in now for text in _differences(f"{key}.{name}", before.get(name), now[name])]
    return [] if before == now else [f"{key} {_shown(before)} -> {_shown(now)}"]


def _shown(value: Any) -> str:
    """A setting as a person would write it: 751.0 is 751, and the hash that stands for a file of prompts is cut short."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    text = str(value)
    return f"(content {text[:8]})" if re.fullmatch("[0-9a-f]{64}", text) else text
