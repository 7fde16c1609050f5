"""What is stale, asked of Dagster: the one place that touches its private resolver (dagster 1.13, pinned)."""

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
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
