"""What is stale, asked of Dagster: the one place that touches its private resolver (dagster 1.13, pinned)."""

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus, extract_data_provenance_from_entry
from dagster._core.loader import LoadingContextForTest

from motive_pipeline.storage.workspace import Workspace


def asset_name(key: dg.AssetKey) -> str:
    """``projected_gradients/motive``: the key as users write it."""
    return "/".join(key.path)


def stale_assets(graph: AssetGraph, instance: dg.DagsterInstance, workspace: Workspace) -> dict[dg.AssetKey, list[str]]:
    """Every materializable asset that is missing or stale, with Dagster's reasons.

    An asset whose published folder has gone from disk counts as missing, whatever Dagster remembers.
    """
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    stale: dict[dg.AssetKey, list[str]] = {}
    for key in graph.materializable_asset_keys:
        status = resolver.get_status(key)
        if status == StaleStatus.MISSING:
            stale[key] = ["never materialized"]
        elif not workspace.has_published(asset_name(key)):
            stale[key] = ["its published folder is missing"]
        elif status == StaleStatus.STALE:
            stale[key] = [_reason(cause) for cause in resolver.get_stale_causes(key)]
    return stale


def _reason(cause) -> str:
    if cause.dependency_asset_key is None:
        return "its settings or its code changed"
    return f"{cause.reason}: {asset_name(cause.dependency_asset_key)}"


def last_observed(instance: dg.DagsterInstance, source: str) -> str | None:
    """The data version with which ``source`` was observed last."""
    records = instance.fetch_observations(dg.AssetKey(source), limit=1).records
    observation = records[0].event_log_entry.asset_observation if records else None
    return observation.data_version if observation else None


def version_consumed(instance: dg.DagsterInstance, asset: str, source: str) -> str | None:
    """The data version of ``source`` that the last materialization of ``asset`` read; None before the first."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    provenance = extract_data_provenance_from_entry(event) if event else None
    version = provenance.input_data_versions.get(dg.AssetKey(source)) if provenance else None
    return version.value if version else None
