"""``motive plan``: what would run, why, and what it would cost. Runs nothing."""

from collections.abc import Collection
from dataclasses import dataclass

import dagster as dg

from assets.dagster_internals import AssetGraph
from assets.definitions import build_definitions
from assets.history_copy import instance_to_read
from assets.names import asset_name
from assets.selection import selected_assets
from assets.staleness import Cause, failed_last, stale_assets, version_consumed
from motive_pipeline.config import Config
from motive_pipeline.graph import SOURCES, resolve_dotted
from motive_pipeline.storage.published_settings import changed_settings
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An asset that would run.

    ``certain`` ones have a reason of their own; the others run only if what is above them comes out different. ``rows`` are those to
    compute, None for an asset that is made as a whole; a cost is None where nothing is known. ``is_measured``: earlier runs were; else it is reckoned from
    published rates.
    """

    asset: str
    reasons: list[str]
    certain: bool
    rows: int | None
    seconds: float | None
    device_hours: float | None
    disk_mb: float | None
    low_s: float | None = None
    high_s: float | None = None
    is_measured: bool = True


def selected(config: Config, selection: str) -> list[str]:
    """The assets that a selection in Dagster's syntax names.

    Raises:
        MotiveError: a part of it matches nothing.
    """
    workspace = Workspace(config)
    graph = build_definitions(config, workspace).resolve_asset_graph()
    return sorted(asset_name(key) for key in selected_assets(graph, workspace.graph, selection))


def plan(config: Config, only: Collection[str] | None = None) -> list[Planned]:
    """What ``motive run`` would do now, parents first; empty when nothing is stale. ``only``, if given, are the assets that may run.

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
    with instance_to_read(config) as instance:
        graph = build_definitions(config, workspace).resolve_asset_graph()
        reasons = _Reasons(config, workspace, instance, graph, news)
        keys = [key for key in graph.toposorted_asset_keys if key in graph.materializable_asset_keys]
        found = {asset_name(key): reasons.of(key) for key in keys if only is None or asset_name(key) in only}
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
            low_s=cost.low_s,
            high_s=cost.high_s,
            is_measured=cost.is_measured,
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
        if cause.kind == "code" and (publication := self._workspace.published_or_none(name)) is not None:
            return changed_settings(self._config, publication) or [cause.words]
        return [] if cause.kind == "input" and cause.asset in SOURCES else [cause.words]

    def _news(self, name: str, source: str) -> list[str]:
        """What is new in a source since the asset read it; files are looked at now, whatever was observed last."""
        consumed = version_consumed(self._instance, name, source)
        if consumed == self._sources[source].version:
            return []
        return self._sources[source].changes or [SOURCES[source].change]
