"""Re-curation without a hand: the sensor, the cron schedule, automation conditions, runs that die, and a live daemon."""

import os
import re
import shutil
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets.dead_runs import fail_dead_runs, run_lock
from assets.definitions import build_definitions
from assets.instance import TEMPLATE, open_instance
from assets.names import asset_key, asset_name
from assets.run_stale import run_stale
from assets.schedules import cron_schedules
from assets.sensors import ATTEMPTS, WATCHER, _request, preference_sensor, watch_sensor
from motive_pipeline.catalog import watch
from motive_pipeline.catalog.watch import WHOLE_WITHIN_S, at_rest_in_s, still_being_written
from motive_pipeline.errors import ConfigError
from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.evaluation.preference.results import observe_preference_files
from motive_pipeline.graph import SOURCES
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.encode import write_mp4
from tests.assets.test_bad_input import moving
from tests.dagster_internals import DagsterEvent, DagsterEventType, StepFailureData
from tests.graph_project import SETTINGS, Project
from tests.preference_fixtures import drop, publish_films, result_of

CATALOGS = 'key:"clip_catalog" or key:"query_catalog"'
HEAVY = {"projected_gradients", "query_gradients", "finetuned_checkpoint", "generated_videos"}


def clip_file(folder: Path, seed: int) -> Path:
    """A clip of its own content with a caption, in ``folder``."""
    path = folder / f"{seed}.mp4"
    path.with_suffix(".txt").write_text(f"a patch, number {seed}", encoding="utf-8")
    write_mp4(path, moving(seed), 16)
    return path


def make_project(folder: Path) -> Project:
    """Six clips and two queries in folders of the user's own; files count at once."""
    for name, seeds in (("clips", range(6)), ("queries", range(100, 102))):
        (folder / name).mkdir()
        for seed in seeds:
            clip_file(folder / name, seed)
    settings = SETTINGS | {
        "clips": {"path": "clips", "num_frames": 17, "width": 64, "height": 64},
        "queries": {"path": "queries"},
        "schedule": {"settle_s": 0},
    }
    return Project(folder, settings)


@pytest.fixture(scope="module")
def curated(tmp_path_factory) -> tuple[Path, Path]:
    """(where a project with catalogs lies, a copy of it)."""
    place = tmp_path_factory.mktemp("automation") / "project"
    place.mkdir()
    assert run_stale(make_project(place).config, CATALOGS).ok
    return place, shutil.copytree(place, place.with_name("copy"))


@pytest.fixture
def project(curated) -> Project:
    """A project whose catalogs have been made, always at the same place: catalogs and instances hold absolute paths."""
    place, copy = curated
    shutil.rmtree(place)
    shutil.copytree(copy, place)
    return Project(place, yaml.safe_load((place / "motive.yaml").read_text(encoding="utf-8")))


class Watcher:
    """The sensor as the daemon runs it: a fresh process every time, in which only the cursor is kept."""

    def __init__(self, project: Project, sensor=watch_sensor) -> None:
        self.project = project
        self.sensor = sensor
        self.loaded = project.config
        self.cursor: str | None = None

    def tick(self):
        """Evaluate once; what the daemon would get."""
        with open_instance(self.loaded) as instance:
            context = dg.build_sensor_context(instance=instance, cursor=self.cursor)
            data = self.sensor(self.loaded).evaluate_tick(context)
        self.cursor = data.cursor or self.cursor
        return data


def test_nothing_new_asks_for_nothing(project):
    data = Watcher(project).tick()
    assert data.run_requests == []
    assert data.skip_message == "nothing new"


def test_before_the_first_run_the_sensor_says_how_to_start(tmp_path):
    data = Watcher(make_project(tmp_path)).tick()
    assert data.run_requests == []
    assert "motive run" in data.skip_message


def test_a_burst_of_new_files_is_one_request_and_the_cursor_survives_a_restart(project):
    watcher = Watcher(project)
    for seed in range(10, 15):
        clip_file(project.folder / "clips", seed)
    data = watcher.tick()
    assert [request.tags["motive/new"] for request in data.run_requests] == ["clip_files"]
    assert data.run_requests[0].run_key
    restarted = Watcher(project)
    restarted.cursor = watcher.cursor
    again = restarted.tick()
    assert again.run_requests == []
    assert "requested before" in again.skip_message


def test_a_daemon_killed_before_it_saved_the_cursor_asks_under_the_same_key(project):
    clip_file(project.folder / "clips", 10)
    keys = [Watcher(project).tick().run_requests[0].run_key for _ in range(2)]
    assert keys[0] == keys[1]


def test_what_a_run_took_in_is_not_new_and_the_same_change_later_is(project):
    watcher = Watcher(project)
    new = clip_file(project.folder / "clips", 10)
    first = watcher.tick().run_requests[0].run_key
    run_stale(project.config, CATALOGS)
    assert watcher.tick().skip_message == "nothing new"
    kept = new.read_bytes()
    new.unlink()
    assert len(watcher.tick().run_requests) == 1
    run_stale(project.config, CATALOGS)
    new.write_bytes(kept)
    later = watcher.tick().run_requests
    assert len(later) == 1
    assert later[0].run_key != first, "Dagster would drop a request under a key that was used before"


@pytest.mark.parametrize("source", ["clip_files", "base_encoders", "base_model"])
def test_a_request_has_a_new_key_once_a_run_has_taken_its_source_in(source):
    @dg.asset(key=asset_key(SOURCES[source].taken_in_by))
    def taken_in(): ...

    with dg.DagsterInstance.ephemeral() as instance:
        keys = [_request(instance, {source: "1"})]
        for _ in range(2):
            dg.materialize([taken_in], instance=instance)
            keys.append(_request(instance, {source: "1"}))
    assert len(set(keys)) == 3


def test_when_the_time_for_one_look_is_over_young_files_count_as_being_written(project, monkeypatch):
    new = clip_file(project.folder / "clips", 10)
    assert still_being_written(project.workspace, settle_s=0.0) == []
    monkeypatch.setattr(watch, "_LOOK_WITHIN_S", 0.0)
    assert new in still_being_written(project.workspace, settle_s=0.0)


def test_a_file_that_was_only_touched_is_not_new(project):
    os.utime(project.folder / "clips" / "1.mp4")
    assert Watcher(project).tick().skip_message == "nothing new"


def test_an_edited_caption_and_a_new_query_are_new(project):
    (project.folder / "clips" / "1.txt").write_text("another caption", encoding="utf-8")
    clip_file(project.folder / "queries", 110)
    assert Watcher(project).tick().run_requests[0].tags["motive/new"] == "clip_files, query_files"


def test_a_half_copied_file_is_left_alone_until_it_is_whole(project):
    watcher = Watcher(project)
    whole = clip_file(project.folder, 10).read_bytes()
    target = project.folder / "clips" / "10.mp4"
    for share in (0.01, 0.5, 0.99):
        target.write_bytes(whole[: int(share * len(whole))])
        data = watcher.tick()
        assert data.run_requests == []
        assert "10.mp4" in data.skip_message
    target.write_bytes(whole)
    assert len(watcher.tick().run_requests) == 1


def test_half_of_a_file_that_comes_while_the_others_are_read_is_left_alone_too(project, monkeypatch):
    whole = clip_file(project.folder, 10).read_bytes()
    target = project.folder / "clips" / "10.mp4"
    read = watch.source_versions

    def versions_with_a_copy_begun(workspace):
        target.write_bytes(whole[: len(whole) // 2])
        return read(workspace)

    with monkeypatch.context() as patch:
        patch.setattr(watch, "source_versions", versions_with_a_copy_begun)
        assert "still being written" in Watcher(project).tick().skip_message
    target.write_bytes(whole)
    assert len(Watcher(project).tick().run_requests) == 1


def test_a_file_still_growing_is_left_alone_for_as_long_as_the_settings_say(project):
    project.set("schedule.settle_s", 3600)
    new = clip_file(project.folder / "clips", 10)
    reason = Watcher(project).tick().skip_message
    assert re.search(r"still being written, .* unchanged for 3600 s \(schedule.settle_s\): .* in about (35\d\d|3600) s", reason)
    now_s = new.stat().st_ctime + 20
    assert at_rest_in_s([new], settle_s=60.0, now_s=now_s) == pytest.approx(40)
    assert at_rest_in_s([new], settle_s=2.0, now_s=now_s) == pytest.approx(WHOLE_WITHIN_S - 20), "half of a copy"
    assert at_rest_in_s([project.folder / "gone.mp4"], settle_s=2.0) == 0


def test_a_clock_that_jumped_back_holds_nothing_up(project):
    now_s = time.time()
    workspace = project.workspace
    assert len(still_being_written(workspace, settle_s=600.0, now_s=now_s + 0.01)) == 8
    assert still_being_written(workspace, settle_s=600.0, now_s=now_s - 3600) == []
    new = clip_file(project.folder / "clips", 10)
    os.utime(new, (now_s + 3600, now_s + 3600))
    assert new in still_being_written(workspace, settle_s=600.0), "a copy may keep a time stamp from the future"
    request = Watcher(project).tick().run_requests
    assert len(request) == 1


def test_settings_that_no_longer_parse_start_no_run_and_the_error_is_shown(project):
    watcher = Watcher(project)
    clip_file(project.folder / "clips", 10)
    good = project.file.read_text(encoding="utf-8")
    project.file.write_text(good + "vote: {percentile: 90\n", encoding="utf-8")
    data = watcher.tick()
    assert data.run_requests == []
    assert "not valid YAML" in data.skip_message
    assert str(project.file) in data.skip_message
    assert len(Workspace(watcher.loaded).published("clip_catalog").table("catalog")) == 6
    project.file.write_text(good, encoding="utf-8")
    assert len(watcher.tick().run_requests) == 1


def test_settings_that_changed_since_they_were_loaded_are_pointed_out(project):
    watcher = Watcher(project)
    project.set("vote.percentile", 50)
    assert "reload the definitions" in watcher.tick().skip_message


def test_a_clip_folder_that_is_gone_is_an_answer_not_a_crash(project):
    shutil.move(project.folder / "clips", project.folder / "elsewhere")
    assert "clips.path" in Watcher(project).tick().skip_message


def test_no_second_run_is_asked_for_while_one_is_under_way(project):
    clip_file(project.folder / "clips", 10)
    with open_instance(project.config) as instance:
        job = build_definitions(project.config).resolve_job_def("curate")
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        watcher = Watcher(project)
        assert f"under way: curate {run.run_id[:8]} (started)" in watcher.tick().skip_message
        instance.report_run_failed(run)
        assert len(watcher.tick().run_requests) == 1


def test_a_root_that_somebody_uses_is_named_and_waited_for(project):
    watcher = Watcher(project)
    clip_file(project.folder / "clips", 10)
    with project.workspace.lock.holding(who="motive merge"):
        assert f"in use by motive merge, process {os.getpid()}, since " in watcher.tick().skip_message
    assert len(watcher.tick().run_requests) == 1


@pytest.mark.parametrize("gate_failed", [False, True])
def test_a_run_that_died_is_asked_for_again_a_few_times_and_a_gate_that_failed_is_not(project, gate_failed):
    watcher = Watcher(project)
    clip_file(project.folder / "clips", 10)
    request = watcher.tick().run_requests[0]
    job = build_definitions(project.config).resolve_job_def("curate")
    asked = []
    with open_instance(project.config) as instance:
        for _ in range(ATTEMPTS):
            tags = {**request.tags, "dagster/sensor_name": WATCHER}
            run = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
            if gate_failed:
                instance.report_dagster_event(step_failure(run), run.run_id)
            instance.report_run_failed(run)
            requests = watcher.tick().run_requests
            asked += requests
            request = requests[0] if requests else request
    assert len(asked) == (0 if gate_failed else ATTEMPTS - 1)
    assert len({each.run_key for each in asked}) == len(asked)


def step_failure(run: dg.DagsterRun) -> DagsterEvent:
    """The event that an asset of ``run`` failed."""
    return DagsterEvent(
        event_type_value=DagsterEventType.STEP_FAILURE.value,
        job_name=run.job_name,
        step_key="latents",
        event_specific_data=StepFailureData(error=None, user_failure_data=None),
    )


def test_cron_comes_from_the_settings_and_asks_again_for_what_failed(project):
    assert cron_schedules(project.config) == []
    project.set("schedule.cron", "30 3 * * 1")
    (schedule,) = cron_schedules(project.config)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 3 * * 1", "UTC")
    project.set("schedule.timezone", "Europe/Berlin")
    (schedule,) = cron_schedules(project.config)
    assert schedule.execution_timezone == "Europe/Berlin"

    def tick():
        with open_instance(project.config) as instance, dg.build_schedule_context(instance=instance) as context:
            return schedule.evaluate_tick(context)

    assert tick().skip_message == "nothing new"
    clip_file(project.folder / "clips", 10)
    assert [len(tick().run_requests) for _ in range(2)] == [1, 1]


def test_a_cron_expression_that_is_none_names_the_key(project):
    project.set("schedule.cron", "61 3 * * *")
    with pytest.raises(ConfigError, match=r"schedule\.cron = '61 3 \* \* \*'"):
        build_definitions(project.config)


def materialize(instance: dg.DagsterInstance, definitions: dg.Definitions, **versions: str) -> None:
    """Every asset as if it had been computed, with the code version it has now; ``versions`` are the data versions that are not "1"."""
    for key in definitions.resolve_asset_graph().materializable_asset_keys:
        node = definitions.resolve_asset_graph().get(key)
        tags = {"dagster/data_version": versions.get(asset_name(key), "1"), "dagster/code_version": node.code_version or ""}
        instance.report_runless_asset_event(dg.AssetMaterialization(key, tags=tags))
    for source in SOURCES:
        observe(instance, source, "1")


def observe(instance: dg.DagsterInstance, source: str, version: str) -> None:
    """A look at clips, queries or weights that found ``version``."""
    instance.report_runless_asset_event(dg.AssetObservation(source, tags={"dagster/data_version": version}))


def requested(project: Project, change, *, data: dict[str, str] | None = None) -> set[str]:
    """The assets that automation asks for after ``change`` of the settings, or after the content of some assets has changed."""
    with dg.DagsterInstance.ephemeral() as instance:
        before = build_definitions(project.config)
        materialize(instance, before)
        first = dg.evaluate_automation_conditions(defs=before, instance=instance)
        assert first.total_requested == 0
        change()
        for name, version in (data or {}).items():
            if name in SOURCES:
                observe(instance, name, version)
                continue
            key = dg.AssetKey(name.split("/"))
            instance.report_runless_asset_event(dg.AssetMaterialization(key, tags={"dagster/data_version": version}))
        after = build_definitions(project.config)
        second = dg.evaluate_automation_conditions(defs=after, instance=instance, cursor=first.cursor)
        third = dg.evaluate_automation_conditions(defs=after, instance=instance, cursor=second.cursor)
        assert third.total_requested == 0, "asked for twice"
        graph = after.resolve_asset_graph()
        return {asset_name(key) for key in graph.materializable_asset_keys if second.get_num_requested(key)}


def test_a_changed_setting_recomputes_its_own_assets_and_no_others(project):
    assert requested(project, lambda: project.set("vote.percentile", 50)) == {"voted_ranking/motive", "voted_ranking/no_mask"}
    assert requested(project, lambda: project.file.write_text(project.file.read_text() + "# a comment\n")) == set()


def test_changed_content_reaches_direct_children_and_equal_content_none(project):
    assert requested(project, lambda: None, data={"influence_matrix/motive": "2"}) == {"voted_ranking/motive"}
    assert requested(project, lambda: None, data={"influence_matrix/motive": "1"}) == set()


def test_new_files_are_left_to_the_sensor(project):
    assert requested(project, lambda: None, data={source: "2" for source in SOURCES}) == set()


@pytest.mark.parametrize("is_heavy", [False, True])
def test_heavy_stages_follow_by_themselves_only_where_allowed(project, is_heavy):
    project.set("schedule.auto_heavy", is_heavy)
    asked = requested(project, lambda: project.set("gradient.timestep", 751))
    asked |= requested(project, lambda: None, data={"latents": "2", "finetuned_checkpoint/motive": "2"})
    expected = HEAVY if is_heavy else set()
    assert {name.split("/")[0] for name in asked} & HEAVY == expected


def test_a_report_never_joins_new_subsets_with_the_old_trainings(project):
    """Without auto_heavy the checkpoints stay behind the subsets, so nothing that reads both may run by itself."""
    asked = requested(project, lambda: None, data={"voted_ranking/motive": "2", "query_latents": "2"})
    assert asked == {"curated_subset/motive", "rejected_clips"}


def test_both_templates_of_the_instance_are_the_same():
    committed = Path(__file__).parents[2] / "dagster_home" / "dagster.yaml"
    assert committed.read_text(encoding="utf-8") == TEMPLATE.read_text(encoding="utf-8")


def test_a_run_whose_process_died_is_noticed_and_a_living_one_is_not(project):
    state = project.workspace.state
    with open_instance(project.config) as instance:
        job = build_definitions(project.config).resolve_job_def("curate")
        living, dead, starting = (instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED) for _ in range(3))
        lock = run_lock(state, living.run_id)
        with lock:
            run_lock(state, dead.run_id).path.write_text("{}", encoding="utf-8")
            assert fail_dead_runs(instance, state) == [dead.run_id]
        assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
        assert not instance.get_run_by_id(starting.run_id).is_finished, "it has not come so far as to hold its lock"
        assert not run_lock(state, dead.run_id).path.exists()
        assert fail_dead_runs(instance, state) == [living.run_id], "its lock was given back and it never said that it ended"


def test_a_run_that_ended_leaves_no_lock(project):
    assert list((project.workspace.state / "runs").glob("*")) == []


def publish_study(project: Project) -> None:
    """A bundle and a study without votes, as a run of these two assets leaves them."""
    workspace = project.workspace
    for arm in workspace.config.arms:
        publish_films(workspace, arm)
    job = build_definitions(project.config).resolve_job_def("everything")
    with open_instance(project.config) as instance:
        for asset in ("preference_bundle", "preference_study"):
            observe(instance, "preference_files", observe_preference_files(workspace)[0])
            assert job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(asset)]).success


def test_result_files_that_arrive_lead_to_one_run_of_the_statistics(project):
    publish_study(project)
    watcher = Watcher(project, preference_sensor)
    assert watcher.tick().skip_message == "nothing new"
    key = Key.of(project.workspace.published("preference_bundle"))
    file = drop(project.workspace, result_of(key, 0, lambda *_: "first"))
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert file.name in watcher.tick().skip_message, "half of a copy is left alone"
    file.write_bytes(whole)
    (request,) = watcher.tick().run_requests
    assert request.tags["motive/new"] == "preference_files"
    assert watcher.tick().run_requests == []
    with open_instance(project.config) as instance:
        assert build_definitions(project.config).resolve_job_def("preference").execute_in_process(instance=instance).success
    assert watcher.tick().skip_message == "nothing new"
    table = project.workspace.published("preference_study").table("preference")
    assert (table["win_rate"] == 1.0).all()
    assert len(table) == 4


def test_before_there_is_a_study_its_sensor_waits(project):
    assert "nothing was ever run here" in Watcher(project, preference_sensor).tick().skip_message
