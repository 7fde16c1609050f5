"""A run that waits in the queue while the settings change: it fails for that reason, once, or it starts."""

from pathlib import Path

import dagster as dg
import pytest

from assets.dagster_internals import LaunchRunContext
from assets.definitions import build_definitions
from assets.instance import open_instance
from assets.names import asset_key
from assets.run_launcher import CheckedRunLauncher
from tests.graph_project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    monkeypatch.setenv("MOTIVE_CONFIG", str(project.file))
    return project


def queued(instance: dg.DagsterInstance, project: Project, job: str, *assets: str) -> dg.DagsterRun:
    """A run of ``job`` (of ``assets`` of it) that waits."""
    definition = build_definitions(project.config).resolve_job_def(job)
    keys = frozenset(map(asset_key, assets)) or None
    return instance.create_run_for_job(definition.get_subset(asset_selection=keys) if keys else definition, asset_selection=keys)


def failure(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Why the run failed, which it did before any asset was begun."""
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == dg.DagsterRunStatus.FAILURE
    assert ended.tags["dagster/max_retries"] == "0"
    assert ended.tags["dagster/will_retry"] == "false"
    events = [log.dagster_event for log in instance.all_logs(run.run_id) if log.dagster_event]
    assert not any(event.is_step_event for event in events)
    return next(event.message or "" for event in events if event.is_failure)


@pytest.mark.parametrize(("job", "assets"), [("everything", ["clip_catalog", "curated_subset/random"]), ("curate", [])])
def test_a_queued_run_for_an_arm_that_was_removed_fails_with_that_reason_and_is_not_retried(project, job, assets):
    with open_instance(project.config) as instance:
        assert isinstance(instance.run_launcher, CheckedRunLauncher), "dagster.yaml names it"
        run = queued(instance, project, job, *assets)
        project.set("arms", ["base", "full", "motive"])
        told = failure(instance, run)
    for part in (str(project.file), "curated_subset/random", "arms: base, full, motive", "not tried again"):
        assert part in told


def test_a_queued_run_whose_settings_no_longer_parse_fails_with_the_mistake(project):
    with open_instance(project.config) as instance:
        run = queued(instance, project, "curate")
        project.set("vote.percentile", 900)
        assert "vote.percentile = 900" in failure(instance, run)


def test_a_queued_run_whose_assets_are_all_there_is_started(project):
    with open_instance(project.config) as instance:
        run = queued(instance, project, "everything", "clip_catalog")
        project.set("arms", ["base", "full", "motive"])
        with pytest.raises(dg.DagsterInvariantViolationError, match="requires a workspace"):  # Dagster's own launcher takes over
            instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
