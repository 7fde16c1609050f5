"""What is stale, as Dagster says (``dagster_internals.py``) and as the published folders say; and what the last runs left undone."""

from dataclasses import dataclass

import dagster as dg

from assets.dagster_internals import AssetGraph, Reason, Staleness, planned_checks, staleness_of, versions_read
from assets.names import asset_key, asset_name
from motive_pipeline.storage.publication import UNFINISHED
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why an asset is stale: ``kind`` is ``missing``, ``code`` (settings or code), ``input``, with the input's name, or ``foreign``: another history
    of runs published it."""

    kind: str
    words: str
    asset: str | None = None


def stale_assets(graph: AssetGraph, instance: dg.DagsterInstance, workspace: Workspace) -> dict[dg.AssetKey, list[Cause]]:
    """Every materializable asset that is missing or stale, with the reasons.

    Whatever Dagster remembers, an asset is missing if its published folder has gone from disk, and stale if what is published was made with other
    settings or was not made by its last materialization: another history of runs, or a backup, put it there.
    """
    causes = {key: _causes(key, found, workspace) for key, found in staleness_of(graph, instance).items()}
    return {key: own for key, own in causes.items() if own}


def _causes(key: dg.AssetKey, found: Staleness, workspace: Workspace) -> list[Cause]:
    """Why the asset is stale; empty if it is not."""
    if found.is_missing:
        return [Cause(kind="missing", words="never materialized")]
    name = asset_name(key)
    if (publication := workspace.published_or_none(name)) is None:
        return [Cause(kind="missing", words="what it published is missing or damaged")]
    if found.is_stale:
        return [_cause(reason) for reason in found.reasons]
    if publication.fingerprint != workspace.fingerprint(name):
        return [Cause(kind="code", words="it was published with other settings, by another history of runs")]
    if publication.data_version != found.data_version:
        return [Cause(kind="foreign", words="another history of runs published it, or a backup was put back")]
    return []


def _cause(reason: Reason) -> Cause:
    if reason.dependency is None:
        return Cause(kind="code", words="its settings or its code changed")
    name = asset_name(reason.dependency)
    words = {None: f"{name} has changed", True: f"now reads {name}", False: f"no longer reads {name}"}[reason.came]
    return Cause(kind="input", words=words, asset=name)


def last_observed(instance: dg.DagsterInstance, source: str) -> str | None:
    """The data version with which ``source`` was observed last."""
    records = instance.fetch_observations(dg.AssetKey(source), limit=1).records
    observation = records[0].event_log_entry.asset_observation if records else None
    return observation.data_version if observation else None


def version_consumed(instance: dg.DagsterInstance, asset: str, source: str) -> str | None:
    """The data version of ``source`` that the last materialization of ``asset`` read; None before the first."""
    event = instance.get_latest_materialization_event(asset_key(asset))
    return versions_read(event).get(dg.AssetKey(source)) if event else None


def failed_last(graph: AssetGraph, instance: dg.DagsterInstance) -> set[dg.AssetKey]:
    """Assets that their last run did not produce: the UI shows them as failed, also when they are fresh (a setting that went back)."""
    runs = {}
    for record in instance.get_asset_records(list(graph.materializable_asset_keys)):
        entry = record.asset_entry
        made = entry.last_materialization_record
        if entry.last_run_id and (made is None or entry.last_run_id != made.run_id):
            runs[entry.asset_key] = entry.last_run_id
    ended = _ended(instance, set(runs.values()))
    return {key for key, run_id in runs.items() if run_id in ended}


def unfinished(graph: AssetGraph, workspace: Workspace) -> set[dg.AssetKey]:
    """Assets whose publication says that work is left: their time was up. They are not stale, and a run goes on with them once."""
    keys = list(graph.materializable_asset_keys)
    return {key for key in keys if (found := workspace.recorded(asset_name(key))) is not None and UNFINISHED in found.facts}


def unanswered_checks(graph: AssetGraph, instance: dg.DagsterInstance) -> set[dg.AssetCheckKey]:
    """Checks that the last run for them ended without: the UI shows no answer, although their asset may be there."""
    runs = planned_checks(instance, graph.asset_check_keys)
    ended = _ended(instance, set(runs.values()))
    return {key for key, run_id in runs.items() if run_id in ended}


def _ended(instance: dg.DagsterInstance, run_ids: set[str]) -> set[str]:
    """Those of the runs that failed or were stopped."""
    statuses = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    return {run.run_id for run in instance.get_runs(dg.RunsFilter(run_ids=list(run_ids), statuses=statuses))} if run_ids else set()
