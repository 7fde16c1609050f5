"""What is stale, asked of Dagster: the one place that touches its private resolver (dagster 1.13, pinned)."""

from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    StaleCause,
    StaleCauseCategory,
    StaleStatus,
    extract_data_provenance_from_entry,
)
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.base import AssetRecord

from assets.names import asset_key, asset_name
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why an asset is stale: ``kind`` is ``missing``, ``code`` (settings or code), or ``input``, with the input's name."""

    kind: str
    words: str
    asset: str | None = None


def stale_assets(graph: AssetGraph, instance: dg.DagsterInstance, workspace: Workspace) -> dict[dg.AssetKey, list[Cause]]:
    """Every materializable asset that is missing or stale, with Dagster's reasons.

    An asset whose published folder has gone from disk counts as missing, whatever Dagster remembers.
    """
    context = LoadingContextForTest(instance)
    AssetRecord.prepare(context, graph.get_all_asset_keys())  # one query for all assets instead of one for each
    resolver = CachingStaleStatusResolver(instance, graph, context)
    stale: dict[dg.AssetKey, list[Cause]] = {}
    for key in graph.materializable_asset_keys:
        status = resolver.get_status(key)
        if status == StaleStatus.MISSING:
            stale[key] = [Cause(kind="missing", words="never materialized")]
        elif not workspace.has_published(asset_name(key)):
            stale[key] = [Cause(kind="missing", words="its published folder is missing")]
        elif status == StaleStatus.STALE:
            stale[key] = [_cause(cause) for cause in resolver.get_stale_causes(key)]
    return stale


def _cause(cause: StaleCause) -> Cause:
    if cause.dependency_asset_key is None:
        return Cause(kind="code", words="its settings or its code changed")
    name = asset_name(cause.dependency_asset_key)
    if cause.category == StaleCauseCategory.DEPENDENCIES:
        return Cause(
            kind="input", words=f"no longer reads {name}" if cause.reason.startswith("removed") else f"now reads {name}", asset=name
        )
    return Cause(kind="input", words=f"{name} has changed", asset=name)


def last_observed(instance: dg.DagsterInstance, source: str) -> str | None:
    """The data version with which ``source`` was observed last."""
    records = instance.fetch_observations(dg.AssetKey(source), limit=1).records
    observation = records[0].event_log_entry.asset_observation if records else None
    return observation.data_version if observation else None


def version_consumed(instance: dg.DagsterInstance, asset: str, source: str) -> str | None:
    """The data version of ``source`` that the last materialization of ``asset`` read; None before the first."""
    event = instance.get_latest_materialization_event(asset_key(asset))
    provenance = extract_data_provenance_from_entry(event) if event else None
    version = provenance.input_data_versions.get(dg.AssetKey(source)) if provenance else None
    return version.value if version else None


def failed_last(graph: AssetGraph, instance: dg.DagsterInstance) -> set[dg.AssetKey]:
    """Assets that the last run for them ended without: the UI shows them as failed, also when they are fresh (a setting that went back)."""
    runs = {}
    for record in instance.get_asset_records(list(graph.materializable_asset_keys)):
        entry = record.asset_entry
        made = entry.last_materialization_record
        if entry.last_run_id and (made is None or entry.last_run_id != made.run_id):
            runs[entry.asset_key] = entry.last_run_id
    ended = _ended(instance, set(runs.values()))
    return {key for key, run_id in runs.items() if run_id in ended}


def unanswered_checks(graph: AssetGraph, instance: dg.DagsterInstance) -> set[dg.AssetCheckKey]:
    """Checks that the last run for them ended without: the UI shows no answer, although their asset may be there."""
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(graph.asset_check_keys))
    runs = {key: check.run_id for key, check in latest.items() if check.status == AssetCheckExecutionRecordStatus.PLANNED}
    ended = _ended(instance, set(runs.values()))
    return {key for key, run_id in runs.items() if run_id in ended}


def _ended(instance: dg.DagsterInstance, run_ids: set[str]) -> set[str]:
    """Those of the runs that failed or were stopped."""
    statuses = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    return {run.run_id for run in instance.get_runs(dg.RunsFilter(run_ids=list(run_ids), statuses=statuses))} if run_ids else set()
