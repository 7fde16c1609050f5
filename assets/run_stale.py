"""``motive run``: observe the sources, then run what is stale, parents first, until nothing is."""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from assets.batch import Batch
from assets.dagster_internals import AssetGraph
from assets.dead_runs import fail_dead_runs
from assets.definitions import build_definitions
from assets.devices import require_devices
from assets.instance import claim_root, open_instance
from assets.names import asset_key, asset_name
from assets.selection import hint_upstream, selected_assets
from assets.staleness import failed_last, stale_assets, unanswered_checks, unfinished
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Graph
from motive_pipeline.storage.layout import mark_layout
from motive_pipeline.storage.workspace import Workspace

log = logging.getLogger("motive_pipeline.run")

PATIENCE_S = 1.0
"""Long enough for a process that only asks whether the lock is free (:meth:`FileLock.is_held`)."""

MAX_TRIES = 3
"""How often an asset is run when it fails over inputs that turn out to be missing or damaged."""


@dataclass
class AssetRun:
    """What became of one asset: ``computed`` (new data version), ``unchanged``, ``failed`` or ``blocked``."""

    status: str = "unchanged"
    rows_computed: int = 0
    rows_reused: int = 0
    rows_rejected: int = 0
    seconds: float = 0.0
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """The columns of ``motive run --json``."""
        names = ("status", "rows_computed", "rows_reused", "rows_rejected", "seconds")
        return {name: getattr(self, name) for name in names}


@dataclass
class Report:
    """All selected assets and what became of them."""

    assets: dict[str, AssetRun] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No asset failed or is blocked."""
        return all(run.status in ("computed", "unchanged") for run in self.assets.values())


def run_stale(config: Config, selection: str | Collection[str] | None = None) -> Report:
    """Bring the selected assets (all, by default) up to date. ``selection`` is in Dagster's syntax, or names of assets (``latents``).

    Exactly those that are stale run, those that the UI shows as failed, and, once, those that stopped before all was done (``audit.budget_minutes``). One that is left with a stale ancestor (outside the selection,
    or because it failed) is ``blocked``, also where Dagster still calls it fresh: it may be out of date. Checks of what is up to date that a
    run left without an answer are run by themselves.

    Raises:
        MotiveError: a part of the selection matches nothing, another run holds the root, a source cannot be observed, or a device that is needed
            (``model.device``, ``evaluate.vbench.device``) does not exist here.
        KeyboardInterrupt: it was stopped. The run is marked as canceled, and nothing as failed; what was committed is kept.
    """
    workspace = Workspace(config)
    workspace.begin_run(uuid.uuid4().hex, goes_on=True)
    with workspace.lock.holding(wait_s=PATIENCE_S, who="motive run"), open_instance(config) as instance:
        mark_layout(workspace.root)
        claim_root(instance, workspace.root)
        workspace.restore_scores()
        workspace.scores.refresh_views()
        for dead in fail_dead_runs(instance, workspace.state, holds_root=True):
            log.warning("the run %s had died; it is marked as failed now, and what it had committed is kept", dead)
        definitions = build_definitions(config, workspace)
        graph = definitions.resolve_asset_graph()
        selected = _selected(graph, workspace.graph, selection)
        batch = Batch.begin(instance, workspace.state, selection)
        _observe(definitions, batch)
        report = Report({asset_name(key): AssetRun() for key in sorted(selected)})
        job = definitions.resolve_job_def("everything")
        failed: set[dg.AssetKey] = set()
        tries: Counter[dg.AssetKey] = Counter()
        again = selected & (failed_last(graph, instance) | unfinished(graph, workspace))
        looked_at: set[dg.AssetKey] = set()
        is_forecast = False
        while True:
            stale = set(stale_assets(graph, instance, workspace)) | again | failed
            may_run = {key for key in selected if ({key} | _ancestors(workspace, key)) & stale}
            require_devices(workspace, may_run - looked_at)
            looked_at |= may_run
            ready = {key for key in selected & stale - failed if not (_ancestors(workspace, key) & stale)}
            if not ready:
                break
            if not is_forecast and not {asset_name(key) for key in ready} & {"clip_catalog", "query_catalog"}:
                is_forecast = _record_forecast(workspace, may_run)
            losses = workspace.losses
            broken = _run_once(job, batch, workspace, ready, report)
            tries.update(ready)
            if workspace.losses > losses:  # what was found missing or damaged is stale now, and is made again first
                broken = {key for key in broken if tries[key] >= MAX_TRIES}
            failed |= broken
            again -= ready
        for key in selected - failed:
            blockers = sorted(asset_name(up) for up in _ancestors(workspace, key) & stale)
            if blockers:
                report.assets[asset_name(key)].status = "blocked"
                report.assets[asset_name(key)].error = f"waits for {', '.join(blockers)}{hint_upstream(key, blockers, selected)}"
        checks = {check for check in unanswered_checks(graph, instance) if check.asset_key in selected - stale}
        if checks:
            log.info("running the checks %s", ", ".join(sorted(check.name for check in checks)))
            _execute(definitions.resolve_job_def("checks").get_subset(asset_check_selection=checks), batch)
    return report


def _record_forecast(workspace: Workspace, assets: set[dg.AssetKey]) -> bool:
    """Note what ``assets`` are expected to take, for ``motive plan --compare``. False: the catalogs are not published yet, so try again."""
    from motive_pipeline.bill import record_forecast  # it imports torch

    if not all(map(workspace.has_published, ("clip_catalog", "query_catalog"))):
        return False
    try:
        record_forecast(workspace, [asset_name(key) for key in assets])
    except MotiveError as error:  # the asset that it concerns will fail, or be made again; the others run
        log.info("what this run will take is not noted: %s", error)
    return True


def _selected(graph: AssetGraph, project: Graph, selection: str | Collection[str] | None) -> set[dg.AssetKey]:
    if selection is None:
        return set(graph.materializable_asset_keys)
    if isinstance(selection, str):
        return selected_assets(graph, project, selection)
    return {asset_key(project.asset(name).key) for name in selection}


def _observe(definitions: dg.Definitions, batch: Batch) -> None:
    log.info("looking at clips, queries and weights")
    observe = definitions.resolve_job_def("observe")
    result = batch.execute(observe)
    errors = sorted(_error_text(event) for event in result.all_events if event.is_step_failure)
    if errors:
        raise MotiveError("\n".join(errors))


def _run_once(job: dg.JobDefinition, batch: Batch, workspace: Workspace, ready: set[dg.AssetKey], report: Report) -> set[dg.AssetKey]:
    """Run ``ready`` as one run of ``job``, enter the outcome into ``report``, and give the keys that failed."""
    names = {asset_name(key): key for key in ready}
    log.info("running %s", ", ".join(sorted(names)))
    before = {name: workspace.data_version(name) for name in names}
    started = time.monotonic()
    result, errors = _execute(job, batch, asset_selection=sorted(ready))
    log.debug("run %s took %.1f s", result.run_id, time.monotonic() - started)
    seconds = {event.step_key: event.step_success_data.duration_ms / 1000 for event in result.all_events if event.is_step_success}
    materialized = {asset_name(e.asset_key) for e in result.all_events if e.is_step_materialization and e.asset_key}
    failed = set()
    for name, key in names.items():
        run = report.assets[name]
        step = key.to_python_identifier()
        if name in materialized:
            publication = workspace.published(name)
            run.status = "unchanged" if publication.data_version == before[name] else "computed"
            run.rows_computed = publication.counts.computed
            run.rows_reused = publication.counts.reused
            run.rows_rejected = publication.counts.rejected
            run.seconds = round(seconds.get(step, 0.0), 3)
        else:
            failed.add(key)
            run.status = "failed"
            run.error = errors.get(step, "the run ended before this asset")
            log.error("%s failed: %s", name, run.error)
    return failed


def _execute(
    job: dg.JobDefinition, batch: Batch, asset_selection: list[dg.AssetKey] | None = None
) -> tuple[dg.ExecuteInProcessResult, dict[str | None, str]]:
    """Run ``job``; the outcome, and the message of each step that failed. A check that failed is only reported."""
    result = batch.execute(job, asset_selection=asset_selection)
    errors = {event.step_key: _error_text(event) for event in result.all_events if event.is_step_failure}
    for check in job.asset_layer.asset_graph.asset_check_keys:
        if (step := f"{check.asset_key.to_python_identifier()}_{check.name}") in errors:
            log.error("the check %s could not be run: %s", check.name, errors[step])
    return result, errors


def _ancestors(workspace: Workspace, key: dg.AssetKey) -> set[dg.AssetKey]:
    return {asset_key(name) for name in workspace.graph.ancestors([asset_name(key)])}


def _error_text(event: dg.DagsterEvent) -> str:
    """One line for a person: a failure's own description, else the exception at the root and the line of ours where it arose."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error and error.cause:
        error = error.cause
    if error is None:
        return "unknown error"
    ours = [frame.split(", in ")[0].strip() for frame in error.stack if "/motive_pipeline/" in frame]
    place = f" at {ours[-1]}" if ours else ""
    return f"unexpected error{place}: {' '.join(error.message.split())} (the whole trace is in the log of the run, in Dagster's UI)"
