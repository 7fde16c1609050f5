"""A live Dagster daemon: clips dropped into the folder end up ranked with no hand touching it; a killed run is started again."""

import json
import os
import signal
import time
from pathlib import Path

import dagster as dg
import pytest

from assets.dead_runs import run_lock
from assets.instance import open_instance
from assets.run_stale import run_stale
from assets.sensors import ATTEMPT
from motive_pipeline.video.encode import write_mp4
from tests.assets.test_automation import clip_file, make_project
from tests.assets.test_bad_input import moving
from tests.daemon import dagster_daemon
from tests.daemon import until as wait_until
from tests.graph_project import Project

pytestmark = pytest.mark.slow  # each test is one or several runs of the whole graph

CURATION = 'group:"clips" or group:"motion" or group:"attribution" or group:"curation"'
WAIT_S = 300.0
IDLE_S = 8.0


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """Six clips that have been curated once, by hand."""
    project = make_project(tmp_path_factory.mktemp("daemon"))
    project.settings["schedule"] = {"watch_interval_s": 5, "settle_s": 1.0}
    project.settings["clips"]["max_reject_share"] = 0.05
    project.settings["arms"] = ["base", "motive"]
    project.save()
    assert run_stale(project.config, CURATION).ok
    return project


@pytest.fixture(scope="module")
def daemon(project, tmp_path_factory):
    """A daemon on the project's own instance that has looked at the clips once; gives its log."""
    log = tmp_path_factory.mktemp("log") / "daemon.log"
    with dagster_daemon(project.config, log):
        with open_instance(project.config) as instance:
            until(lambda: any(state.instigator_name == "watch_clips" for state in instance.all_instigator_state()), "the first look", log)
        yield log


def until(condition, what: str, log: Path):
    """Wait until ``condition()`` is true, and give it; a busy machine is given time."""
    return wait_until(condition, what, log, within_s=WAIT_S)


def ranked(project: Project) -> int:
    """How many clips the ranking has now."""
    return project.workspace.scores.query("SELECT count(*) FROM ranking WHERE variant = 'motive'").fetchall()[0][0]


def curate_runs(instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    """The runs that the sensor asked for, oldest first."""
    return list(reversed(instance.get_run_records(dg.RunsFilter(job_name="curate"))))


def test_clips_dropped_into_the_folder_end_up_ranked_by_one_run(project, daemon):
    with open_instance(project.config) as instance:
        before, runs_before = ranked(project), len(curate_runs(instance))
        whole = clip_file(project.folder, 20).read_bytes()
        half = project.folder / "clips" / "20.mp4"
        half.write_bytes(whole[: len(whole) // 2])
        for seed in (21, 22):
            clip_file(project.folder / "clips", seed)
        time.sleep(7.0)
        assert len(curate_runs(instance)) == runs_before, "a file is only half there"
        half.write_bytes(whole)
        dropped = time.time()
        until(lambda: ranked(project) == before + 3, "the new ranking", daemon)
        seen = time.time()
        until(lambda: curate_runs(instance)[-1].dagster_run.is_finished, "the end of the run", daemon)
        (record,) = curate_runs(instance)[runs_before:]
    assert record.dagster_run.status == dg.DagsterRunStatus.SUCCESS
    requested, started = record.create_timestamp.timestamp(), record.start_time
    print(
        f"\nfile whole -> run requested {requested - dropped:.1f} s -> started {started - requested:.1f} s "
        f"-> ranked {seen - started:.1f} s; in all {seen - dropped:.1f} s"
    )


def test_with_nothing_new_there_is_no_run(project, daemon):
    with open_instance(project.config) as instance:
        until(lambda: _says(instance, "nothing new"), "a look after the run", daemon)
        before, now = instance.get_runs_count(), time.time()
        looks = until(lambda: _looks_since(instance, now), "two more looks", daemon)
        assert instance.get_runs_count() == before
    assert {look.skip_reason for look in looks} == {"nothing new"}


@pytest.mark.slow
def test_settings_that_no_longer_parse_start_no_run_and_show_the_error_until_they_are_mended(project, daemon):
    good, before, num_ranked = project.file.read_text(encoding="utf-8"), project.workspace, ranked(project)
    with open_instance(before.config) as instance:
        num_runs = instance.get_runs_count()
        try:
            project.file.write_text(good + "vote: {percentile: 90\n", encoding="utf-8")
            clip_file(project.folder / "clips", 25)
            told = until(lambda: _broken_settings(instance, project.file, daemon), "a tick or a load that shows the error", daemon)
        finally:
            project.file.write_text(good, encoding="utf-8")
        assert "line" in told
        assert instance.get_runs_count() == num_runs
        assert before.scores.query("SELECT count(*) FROM ranking WHERE variant = 'motive'").fetchall() == [(num_ranked,)], (
            "the last state stays"
        )
        until(lambda: ranked(project) == num_ranked + 1, "the ranking with the new clip", daemon)
        until(lambda: curate_runs(instance)[-1].dagster_run.is_finished, "the end of the run", daemon)
        assert instance.get_runs_count() == num_runs + 1


@pytest.mark.slow
def test_a_killed_run_is_started_again_and_ends_well(project, daemon):
    with open_instance(project.config) as instance:
        before, num_ranked = len(curate_runs(instance)), ranked(project)
        clip_file(project.folder / "clips", 30)

        def living() -> tuple[str, int] | None:
            """The id and the process of the run that is being executed now."""
            for record in curate_runs(instance)[before:]:
                lock = run_lock(project.workspace.state, record.dagster_run.run_id).path
                if lock.exists() and (note := lock.read_text()):
                    return record.dagster_run.run_id, json.loads(note)["pid"]
            return None

        run_id, process_id = until(living, "the run's process", daemon)
        os.kill(process_id, signal.SIGKILL)
        until(lambda: ranked(project) == num_ranked + 1, "the ranking by another run", daemon)
        until(lambda: all(record.dagster_run.is_finished for record in curate_runs(instance)), "the end", daemon)
        killed, again = instance.get_run_by_id(run_id), curate_runs(instance)[-1].dagster_run
    assert killed is not None
    assert killed.status == dg.DagsterRunStatus.FAILURE
    assert again.status == dg.DagsterRunStatus.SUCCESS
    assert int(again.tags[ATTEMPT]) == int(killed.tags[ATTEMPT]) + 1


@pytest.mark.slow
def test_a_run_whose_gate_failed_is_not_started_again(project, daemon):
    with open_instance(project.config) as instance:
        before, num_ranked = len(curate_runs(instance)), ranked(project)
        write_mp4(project.folder / "clips" / "too_short.mp4", moving(40)[:5], 16)
        until(lambda: len(curate_runs(instance)) > before and curate_runs(instance)[-1].dagster_run.is_finished, "a run", daemon)
        assert curate_runs(instance)[-1].dagster_run.status == dg.DagsterRunStatus.FAILURE
        time.sleep(IDLE_S)
        assert len(curate_runs(instance)) == before + 1
    assert ranked(project) == num_ranked, "what was good stays"


def _says(instance: dg.DagsterInstance, words: str) -> str | None:
    """What the sensor's last look came to, if these words are in it."""
    ticks = instance.get_ticks(*_sensor(instance), limit=1)
    reason = ticks[0].skip_reason if ticks else None
    return reason if reason and words in reason else None


def _broken_settings(instance: dg.DagsterInstance, settings: Path, log: Path) -> str | None:
    """Where the broken ``settings`` are shown: in the sensor's last look or, once the daemon has loaded the code again (every minute), in its log."""
    _, named, told = log.read_text().partition(f"{settings}: not valid YAML")
    return _says(instance, str(settings)) or (named + told if named else None)


def _looks_since(instance: dg.DagsterInstance, since_s: float) -> list:
    """The sensor's looks since then that are over, once there are two."""
    ticks = [tick for tick in instance.get_ticks(*_sensor(instance), after=since_s) if tick.status.value != "STARTED"]
    return ticks if len(ticks) >= 2 else []


def _sensor(instance: dg.DagsterInstance) -> tuple[str, str]:
    """(origin id, selector id) of the sensor that watches the clips."""
    (state,) = [state for state in instance.all_instigator_state() if state.instigator_name == "watch_clips"]
    return state.instigator_origin_id, state.selector_id
