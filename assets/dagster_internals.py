"""Everything private of Dagster that the code location uses. No other module of ``assets/`` imports from ``dagster._...``.

Belongs here: thin functions around Dagster's stale-status resolver, provenance and check records, and the names of private types.
Does not belong here: what the answers mean for the pipeline (``staleness.py``).
"""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import RunFailureReason
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.base import AssetRecord
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.schedules import is_valid_cron_schedule
from dagster_shared.check import CheckError

TESTED = ">=1.13.12,<1.14"

CODE_LOCATION = "assets.definitions"
"""The module that ``workspace.yaml`` names, and the name that Dagster gives to its code location."""

__all__ = [
    "TESTED",
    "AssetGraph",
    "CheckError",
    "DagsterExecutionInterruptedError",
    "LaunchRunContext",
    "Reason",
    "Staleness",
    "is_valid_cron_schedule",
    "planned_checks",
    "runs_of_code_location",
    "staleness_of",
    "versions_read",
    "was_interrupted",
]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why Dagster calls an asset stale.

    ``dependency`` is the input concerned, None for a new code version. ``came`` is True for an input that the asset did not read last time,
    False for one that it no longer reads, None for one whose data changed.
    """

    dependency: dg.AssetKey | None
    came: bool | None


@dataclass(frozen=True, kw_only=True)
class Staleness:
    """What Dagster says of one asset. ``reasons`` is empty unless it is stale; ``data_version`` is that of its last materialization, if any."""

    is_missing: bool
    is_stale: bool
    reasons: tuple[Reason, ...]
    data_version: str | None


def staleness_of(graph: AssetGraph, instance: dg.DagsterInstance) -> dict[dg.AssetKey, Staleness]:
    """Dagster's verdict on every materializable asset, as its UI shows it."""
    context = LoadingContextForTest(instance)
    AssetRecord.prepare(context, graph.get_all_asset_keys())  # one query for all assets instead of one for each
    resolver = CachingStaleStatusResolver(instance, graph, context)
    found = {}
    for key in graph.materializable_asset_keys:
        status = resolver.get_status(key)
        is_stale = status == StaleStatus.STALE
        reasons = tuple(_reason(cause) for cause in resolver.get_stale_causes(key)) if is_stale else ()
        version = None if status == StaleStatus.MISSING else resolver.get_current_data_version(key).value
        found[key] = Staleness(is_missing=status == StaleStatus.MISSING, is_stale=is_stale, reasons=reasons, data_version=version)
    return found


def _reason(cause: StaleCause) -> Reason:
    came = None if cause.category != StaleCauseCategory.DEPENDENCIES else not cause.reason.startswith("removed")
    return Reason(dependency=cause.dependency_asset_key, came=came)


def versions_read(materialization: dg.EventLogEntry) -> dict[dg.AssetKey, str]:
    """The data version of each input that a materialization read."""
    provenance = extract_data_provenance_from_entry(materialization)
    return {key: version.value for key, version in provenance.input_data_versions.items()} if provenance else {}


def planned_checks(instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey]) -> dict[dg.AssetCheckKey, str]:
    """Those of ``checks`` whose latest record is only a plan, with the run that planned them: it is going on, or ended without an answer."""
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(checks))
    return {key: record.run_id for key, record in latest.items() if record.status == AssetCheckExecutionRecordStatus.PLANNED}


@contextmanager
def runs_of_code_location(instance: dg.DagsterInstance) -> Iterator[None]:
    """Runs that are created meanwhile count as runs of the code location that the UI loads, though this process executes them.

    The UI finds the runs of a job, and those of its timeline, by their origin; ``execute_in_process`` gives none, so they would be listed under "Runs" alone.
    """
    create = instance.create_run_for_job
    location = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name=CODE_LOCATION), CODE_LOCATION)
    repository = RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME)

    @functools.wraps(create)
    def create_with_origin(job_def: dg.JobDefinition, **settings: object) -> dg.DagsterRun:
        return create(job_def=job_def, remote_job_origin=RemoteJobOrigin(repository, job_def.name), **settings)  # type: ignore[arg-type]

    instance.create_run_for_job = create_with_origin  # type: ignore[method-assign]
    try:
        yield
    finally:
        del instance.create_run_for_job


def was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether Ctrl-C or SIGTERM ended the run. With ``raise_on_error=False`` Dagster notes the interrupt and returns as from any failure."""
    ends = [event.job_failure_data for event in result.all_events if event.event_type == dg.DagsterEventType.RUN_FAILURE]
    return any(end.failure_reason == RunFailureReason.UNEXPECTED_TERMINATION for end in ends)
