"""``motive plan`` on a real project: what would run, the reason in the user's own words, and what it would cost."""

import dataclasses
import json
import shutil

import pytest

from assets.plan import Planned, plan
from assets.run_stale import run_stale
from motive_pipeline.graph import stages
from tests.staleness_project import StalenessProject, replace_weights, write_clip

COLUMNS = {"asset", "reasons", "certain", "rows", "seconds", "device_hours", "disk_mb", "low_s", "high_s", "is_measured"}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> StalenessProject:
    """A project that has never run, without training and evaluation arms beyond what a plan needs."""
    project = StalenessProject(tmp_path_factory.mktemp("plan") / "project")
    project.settings["arms"] = ["motive"]
    project.save()
    return project


@pytest.fixture(scope="module")
def first_plan(fresh) -> dict[str, Planned]:
    return planned(fresh)


@pytest.fixture(scope="module")
def has_run(fresh, first_plan) -> StalenessProject:
    """The same, run once; a test that changes it takes the change back."""
    assert run_stale(fresh.config).ok
    return fresh


def planned(project: StalenessProject) -> dict[str, Planned]:
    """The plan by asset."""
    return {asset.asset: asset for asset in plan(project.config)}


def own_reasons(project: StalenessProject) -> dict[str, list[str]]:
    """The reasons of the assets that are certain to run."""
    return {asset.asset: asset.reasons for asset in plan(project.config) if asset.certain}


def test_before_the_first_run_everything_is_planned_without_an_estimate(first_plan):
    assert {asset.reasons[0] for asset in first_plan.values()} == {"never materialized"}
    assert first_plan["latents"].rows == 6
    assert first_plan["query_latents"].rows == 3
    assert first_plan["query_gradients/motive"].rows == 2, "held-out clips have no gradient"
    assert all(asset.seconds is None and asset.disk_mb is None for asset in first_plan.values())


@pytest.mark.slow
def test_the_last_run_is_compared_with_its_forecast(has_run):
    assert "nothing was expected in seconds" in has_run.motive("plan", "--compare").out, "before the first run nothing is measured"
    has_run.set("gradient.timestep", 400)
    assert run_stale(has_run.config).ok
    outcome, table = has_run.motive("plan", "--compare", "--json"), has_run.motive("plan", "--compare").out
    has_run.set("gradient.timestep", 500)
    assert run_stale(has_run.config).ok
    found = {each["asset"]: each for each in json.loads(outcome.out)}
    assert "latents" not in found
    gradients = found["projected_gradients/motive"]
    assert gradients["rows"] == gradients["expected"]["rows"] == 6
    assert gradients["expected"]["low_s"] < gradients["expected"]["seconds"] < gradients["expected"]["high_s"]
    assert gradients["seconds"] > 0
    assert found["voted_ranking/motive"]["expected"]["rows"] is None
    assert "assets with a forecast: " in table.splitlines()[-1]


def test_nothing_is_stale_after_a_run(has_run):
    assert planned(has_run) == {}
    outcome = has_run.motive("plan")
    assert (outcome.code, outcome.out) == (0, "nothing is stale\n")


def test_a_changed_setting_is_named_with_both_values(has_run):
    has_run.set("gradient.timestep", 751)
    found = planned(has_run)
    has_run.set("gradient.timestep", 500)
    for asset in ("projected_gradients/motive", "query_gradients/motive"):
        assert found[asset].reasons == ["gradient.timestep 500 -> 751"], asset
        assert found[asset].certain
    assert found["influence_matrix/motive"].reasons == ["follows projected_gradients/motive, query_gradients/motive"]
    assert not found["influence_matrix/motive"].certain
    assert "latents" not in found
    assert (found["projected_gradients/motive"].rows, found["query_gradients/motive"].rows) == (6, 2)
    assert found["projected_gradients/motive"].seconds > 0
    assert found["projected_gradients/motive"].device_hours == found["projected_gradients/motive"].seconds / 3600
    assert found["influence_matrix/motive"].device_hours == 0
    assert found["projected_gradients/motive"].disk_mb > 6 * 512 * 4 / 1e6


def test_rows_that_are_there_already_are_not_planned(has_run):
    """Of a new clip the rows are missing; of a caption that comes back nothing is."""
    caption = has_run.folder / "clips" / "0.txt"
    before = caption.read_text()
    write_clip(has_run.folder / "clips" / "new.mp4", 7)
    caption.write_text("a blue circle")
    found = planned(has_run)
    rows = {name: found[name].rows for name in ("latents", "motion_masks", "projected_gradients/motive")}
    assert rows == {"latents": 2, "motion_masks": 1, "projected_gradients/motive": 2}
    assert found["clip_catalog"].reasons == ["1 clip added (new.mp4)", "1 caption edited (0.mp4)"]
    for name in ("new.mp4", "new.txt"):
        (has_run.folder / "clips" / name).unlink()
    caption.write_text(before)
    assert planned(has_run) == {}


def test_clips_added_removed_changed_and_renamed_are_counted_and_named(has_run):
    clips = has_run.folder / "clips"
    kept = shutil.copytree(clips, has_run.folder / "kept")
    for number in range(4):
        write_clip(clips / f"new{number}.mp4", 30 + number)
    write_clip(clips / "1.mp4", 8)
    (clips / "1.txt").write_text((kept / "1.txt").read_text())
    (clips / "2.mp4").unlink()
    (clips / "3.mp4").rename(clips / "renamed.mp4")
    (clips / "3.txt").rename(clips / "renamed.txt")
    write_clip(has_run.folder / "queries" / "new.mp4", 15)
    reasons = own_reasons(has_run)
    shutil.rmtree(clips)
    kept.rename(clips)
    for name in ("new.mp4", "new.txt"):
        (has_run.folder / "queries" / name).unlink()
    assert reasons == {
        "clip_catalog": [
            "4 clips added (new0.mp4, new1.mp4, new2.mp4, ...)",
            "1 clip removed (2.mp4)",
            "1 clip changed (1.mp4)",
            "1 clip renamed (renamed.mp4)",
        ],
        "query_catalog": ["1 query clip added (new.mp4)"],
    }
    assert planned(has_run) == {}


@pytest.mark.slow
def test_a_file_that_is_no_video_is_new_once(has_run):
    broken = has_run.folder / "clips" / "broken.mp4"
    broken.write_bytes(b"<html>404 not found</html>" * 50)
    assert own_reasons(has_run)["clip_catalog"] == ["1 clip added (broken.mp4)"]
    assert run_stale(has_run.config).ok
    has_run.set("gradient.timestep", 600)
    found = planned(has_run)
    has_run.set("gradient.timestep", 500)
    assert "clip_catalog" not in found
    assert found["projected_gradients/motive"].rows == 6
    broken.unlink()
    assert run_stale(has_run.config).ok


def test_a_new_version_of_a_stages_code_is_named(has_run, monkeypatch):
    stage = stages.STAGES["voted_ranking"]
    newer = dataclasses.replace(stage, version=stage.version + 1)
    monkeypatch.setitem(stages.STAGES, "voted_ranking", newer)
    assert own_reasons(has_run) == {"voted_ranking/motive": [f"the code of voted_ranking, version {stage.version} -> {newer.version}"]}


def test_replaced_weights_are_named_and_leave_the_latents_alone(has_run):
    file = has_run.folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    kept = file.read_bytes()
    replace_weights("transformer", "blocks")(has_run)
    found = planned(has_run)
    file.write_bytes(kept)
    assert found["projected_gradients/motive"].reasons == ["weights replaced"]
    assert (found["projected_gradients/motive"].rows, "latents" in found) == (6, False)


def test_a_published_folder_that_has_gone_is_named(has_run):
    folder = has_run.workspace.published("voted_ranking/motive").path
    moved = folder.rename(folder.with_name("moved"))
    reasons = own_reasons(has_run)
    moved.rename(folder)
    assert reasons == {"voted_ranking/motive": ["what it published is missing or damaged"]}


@pytest.mark.slow
def test_an_asset_behind_a_failed_gate_waits_and_the_gate_says_why(has_run):
    has_run.set("motion.floor_px", 1.0e6)
    assert not run_stale(has_run.config).ok
    found = planned(has_run)
    has_run.set("motion.floor_px", 1.0)
    assert found["motion_masks"].reasons == ["motion.floor_px 1 -> 1000000", "its last run failed"]
    assert not found["projected_gradients/motive"].certain
    assert found["projected_gradients/motive"].reasons == ["follows motion_masks"]
    assert run_stale(has_run.config).ok


def test_the_command_prints_reasons_and_costs_and_json(has_run):
    has_run.set("vote.percentile", 50)
    table, outcome = (
        has_run.motive("plan", "--price-per-hour", "3600"),
        has_run.motive("plan", "--json", "--select", 'key:"voted_ranking/motive"'),
    )
    has_run.set("vote.percentile", 90)
    assert "vote.percentile 90 -> 50" in table.out
    assert "device-hours" in table.out
    assert "at 3600 an hour about " in table.out
    listed = json.loads(outcome.out)
    assert len(listed) == 1
    assert 0 < listed[0]["low_s"] < listed[0]["seconds"] < listed[0]["high_s"]
    assert all(set(asset) == COLUMNS for asset in listed)
    assert listed[0]["asset"] == "voted_ranking/motive"
    assert listed[0]["rows"] is None
    assert listed[0]["is_measured"] is True
    assert listed[0]["seconds"] > 0
