"""What a user can get wrong: a clear error, or a row in ``rejects``; never a trace of our own."""

import os
import shutil
import time

import numpy as np
import pytest
import zarr

from assets.definitions import build_definitions
from assets.instance import open_instance
from assets.names import asset_key
from assets.run_stale import run_stale
from motive_pipeline.attribution.stage import publish_gradients
from motive_pipeline.catalog import stage as catalog_stage
from motive_pipeline.catalog.rejects import publish_rejected
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.encode import write_mp4
from tests.graph_project import SETTINGS, Project
from tests.vbench_standin import make_environment

pytestmark = pytest.mark.slow  # each test is one or several runs of the whole graph

CURATE = "+" + 'key:"voted_ranking/motive"'


def moving(seed: int, speed_px: float = 2.0) -> np.ndarray:
    """A textured square that moves to the right: (F, H, W, 3)."""
    rng = np.random.default_rng(seed)
    background = np.kron(rng.integers(40, 120, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    patch = np.kron(rng.integers(100, 255, (4, 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.repeat(background[None], 17, axis=0)
    for f in range(17):
        x = int(4 + speed_px * f)
        frames[f, 20:36, x : x + 16] = patch
    return frames


@pytest.fixture
def project(tmp_path) -> Project:
    """Six good clips and two queries in folders of the user's own."""
    for folder, seeds in (("clips", range(6)), ("queries", range(100, 102)), ("held_out", range(200, 201))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            write_mp4(tmp_path / folder / f"{seed}.mp4", moving(seed), 16)
            (tmp_path / folder / f"{seed}.txt").write_text(f"a patch, number {seed}", encoding="utf-8")
    settings = SETTINGS | {
        "clips": {"path": "clips", "num_frames": 17, "width": 64, "height": 64},
        "queries": {"path": "queries", "held_out_path": "held_out"},
    }
    return Project(tmp_path, settings)


def refused(project: Project, *parts: str) -> None:
    """``motive run`` fails with all of ``parts`` in its message, and without a traceback."""
    outcome = project.motive("run", "--select", CURATE)
    assert outcome.code == 1
    for part in parts:
        assert part in outcome.err, outcome.err
    assert "Traceback" not in outcome.err


ODD_NAMES = {
    "--help.mp4": "None",
    'it\'s "so" #1 100%d; $(touch hacked).mp4': "NA",
    "línea🎬.mp4": "",
    "x" * 246 + ".mp4": "a long walk " * 900,
    "new\nline.mp4": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "<img src=x onerror=alert(1)>.mp4": "one\nline\0nul\u2028separator",
}
"""File names and captions; the names have up to 250 bytes."""


def test_odd_names_and_captions_go_through_the_graph_and_a_corrupt_file_among_them_is_a_row_in_rejects(project):
    clips = project.folder / "clips"
    for seed, (name, caption) in enumerate(ODD_NAMES.items()):
        (clips / f"{seed}.mp4").rename(clips / name)
        (clips / f"{seed}.txt").unlink()
        (clips / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    (clips / "broken<b>#%.mp4").write_bytes(b"<html>404 not found</html>" * 50)
    before = {path.name for path in (*project.folder.iterdir(), *clips.iterdir())}
    project.run("--select", CURATE)
    rejects = project.sql("SELECT path, stage, reason, detail FROM rejects")
    assert [(row["path"], row["stage"], row["reason"]) for row in rejects] == [
        (str(clips / "broken<b>#%.mp4"), "clip_catalog", "not_a_video")
    ]
    found = project.sql("SELECT c.path, c.caption FROM clips c JOIN ranking r USING (clip_id) WHERE r.variant = 'motive'")
    said = {name: " ".join(caption.replace("\0", " ").split()) for name, caption in ODD_NAMES.items()}
    assert {row["path"].rpartition("clips/")[2]: row["caption"] for row in found} == said
    page = (publish_rejected(project.workspace).path / "rejected.html").read_text(encoding="utf-8")
    assert 'clips/broken%3Cb%3E%23%25.mp4"' in page
    assert "<b>" not in page
    written = {path.name for path in (*project.folder.iterdir(), *clips.iterdir())} - before
    assert written <= {"motive_data", "motive_state", "dagster_home"}, "nothing is written beside the clips, and nothing was executed"


def test_a_missing_folder(project):
    project.set("clips.path", "nowhere")
    refused(project, "clips.path", str(project.folder / "nowhere"))


def test_an_error_names_the_config_that_is_in_use(project):
    project.set("clips.path", "nowhere")
    project.file = project.file.rename(project.folder / "other.yaml")
    for command in (["run"], ["plan"]):
        told = project.motive(*command).err
        assert f"(settings: {project.file})" in told
        assert "motive.yaml" not in told


def test_a_device_that_is_not_there_stops_the_run_before_any_work_unless_nothing_needs_it(project):
    project.set("model.device", "cuda:99")
    refused(project, "model.device = 'cuda:99'", "cannot be used here")
    assert project.workspace.assets() == [], "nothing was computed"
    assert set(project.run("--select", 'key:"clip_catalog"').assets) == {"clip_catalog"}
    refused(project, "model.device = 'cuda:99'")


def failures_in_ui(project: Project, *names: str) -> dict[str, str]:
    """What each asset of a run that was started in the UI says, if it failed."""
    job = build_definitions(project.config).resolve_job_def("everything")
    with open_instance(project.config) as instance:
        keys = [asset_key(name) for name in names]
        ended = job.execute_in_process(instance=instance, raise_on_error=False, asset_selection=keys)
    failed = [event for event in ended.all_events if event.is_step_failure]
    return {event.step_key: event.step_failure_data.user_failure_data.description for event in failed}


def test_a_run_in_the_ui_finds_out_so_too_and_does_nothing(project):
    project.set("model.device", "cuda:99")
    told = failures_in_ui(project, "clip_catalog", "query_catalog", "latents")
    assert set(told) == {"clip_catalog", "query_catalog"}
    assert all("model.device = 'cuda:99' cannot be used here" in words for words in told.values())
    assert project.workspace.assets() == [], "nothing was computed"
    assert failures_in_ui(project, "clip_catalog") == {}


def test_so_it_is_with_vbenchs_device(project):
    environment = make_environment(project.folder / "venv")
    project.set("evaluate", {**project.settings["evaluate"], "backend": "vbench"})
    project.set("evaluate.vbench", {"python": str(environment), "device": "cuda:7", "dimensions": ["temporal_flickering"]})
    words = "evaluate.vbench.device = 'cuda:7': torch"
    told = project.motive("run")
    assert told.code == 1
    assert words in told.err
    assert words in failures_in_ui(project, "clip_catalog", "eval_scores/base")["clip_catalog"]
    assert project.workspace.assets() == [], "nothing was computed"
    assert failures_in_ui(project, "clip_catalog") == {}, "nothing in this run needs it"


def test_an_unexpected_error_of_a_library_is_one_line_that_says_where(project, monkeypatch):
    def header_too_large(workspace: Workspace) -> None:
        raise RuntimeError("Error while deserializing header:\nheader too large")

    monkeypatch.setattr(catalog_stage, "publish_query_catalog", header_too_large)
    told = run_stale(project.config, 'key:"query_catalog"').assets["query_catalog"].error
    assert "RuntimeError: Error while deserializing header: header too large" in told
    assert "resolve.py" in told
    assert "log of the run" in told
    assert "\n" not in told


def test_an_empty_folder(project):
    shutil.rmtree(project.folder / "clips")
    (project.folder / "clips").mkdir()
    refused(project, "clips.path", str(project.folder / "clips"))


def test_no_query(project):
    shutil.rmtree(project.folder / "queries")
    (project.folder / "queries").mkdir()
    refused(project, "queries.path")


def test_queries_without_any_motion(project):
    for seed in (100, 101):
        write_mp4(project.folder / "queries" / f"{seed}.mp4", moving(seed, speed_px=0.0), 16)
    refused(project, "query_masks", "no_motion")


@pytest.mark.slow
def test_one_query_without_motion_stops_the_run_or_is_a_row_in_rejects_and_the_last_line(project):
    still = project.folder / "queries" / "still.mp4"
    write_mp4(still, moving(7, speed_px=0.0), 16)
    refused(project, "query_masks", "queries.max_reject_share", str(still))
    project.set("queries.max_reject_share", 0.5)
    outcome = project.motive("run", "--select", CURATE)
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines()[-1].startswith("motive: warning: 1 query is not used")
    assert str(still) in outcome.err.splitlines()[-1]
    assert [row["reason"] for row in project.sql("SELECT reason FROM rejects")] == ["no_motion"]


def test_an_unknown_key(project):
    project.set("gradient.timestop", 3)
    refused(project, "gradient.timestop", "timestep")


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_out_of_range(project, share):
    project.set("subset.share", share)
    refused(project, f"subset.share = {share}")


def test_a_model_folder_that_is_none(project):
    (project.folder / "model").mkdir()
    project.set("model.path", "./model")
    refused(project, "model.path", str(project.folder / "model"))


def test_a_model_path_that_is_nowhere(project):
    project.set("model.path", "./nowhere")
    refused(project, "model.path", "nowhere")


def test_a_wrong_config_name_and_a_wrong_asset(project, tmp_path):
    assert "no such" in project.motive("path", "nonsense").err.lower() or "nonsense" in project.motive("path", "nonsense").err
    assert "Did you mean 'latents'?" in project.motive("path", "latent").err
    assert "voted_ranking/motive" in project.motive("path", "voted_ranking/motiv").err
    project.set("arms", ["base", "full", "motive"])
    export = project.motive("export", "--arm", "random", "--to", str(tmp_path / "out"), "--for", "diffsynth").err
    assert "there is no asset 'curated_subset/random' under these settings. There are: curated_subset/full, curated_subset/motive" in export
    project.file.rename(tmp_path / "other.yaml")
    assert "cannot read the config" in project.motive("run").err


def test_a_clip_deleted_between_catalog_and_gradient_is_a_row_in_rejects_and_comes_back(project):
    project.run("--select", 'key:"clip_catalog" or key:"query_catalog"')
    gone = project.folder / "clips" / "3.mp4"
    kept = gone.read_bytes()
    gone.unlink()
    ws = project.workspace
    publish_latents(ws, role="clip")
    publish_motion_masks(ws, role="clip")
    for asset in ("latents", "motion_masks"):
        assert ws.published(asset).rejects()["reason"].tolist() == ["missing_file"], asset
    publish_gradients(ws, variant="motive", role="clip")
    assert zarr.open_array(ws.published("projected_gradients/motive").path / "clip_id", mode="r").shape == (5, 16)
    gone.write_bytes(kept)
    assert publish_latents(ws, role="clip").rejects().empty, "it is tried again"


def test_a_store_written_by_a_newer_version_is_refused_by_every_command(project):
    project.run("--select", 'key:"clip_catalog"')
    mark = project.config.storage.root / "layout.json"
    mark.write_text(mark.read_text().replace("2", "3"), encoding="utf-8")
    before = sorted(path.name for path in project.config.storage.root.iterdir())
    for command in (["run"], ["sql", "SELECT 1"], ["path", "clip_catalog"], ["plan"]):
        outcome = project.motive(*command)
        assert outcome.code == 1
        assert "newer version" in outcome.err
        assert "Upgrade this installation" in outcome.err
        assert "Traceback" not in outcome.err
    assert sorted(path.name for path in project.config.storage.root.iterdir()) == before


def test_a_clock_that_jumps_back_recomputes_nothing_and_loses_nothing(project):
    """Files, hashes and publications from the future: an hour ahead of the clock that the next run sees."""
    project.run("--select", 'key:"clip_catalog"')
    ahead = time.time() + 3600
    for path in [*(project.folder / "clips").iterdir(), *project.config.storage.root.rglob("*.json")]:
        os.utime(path, (ahead, ahead))
    again = project.run("--select", 'key:"clip_catalog"')
    assert again.assets["clip_catalog"]["status"] == "unchanged"
    write_mp4(project.folder / "clips" / "1.mp4", moving(77), 16)
    os.utime(project.folder / "clips" / "1.mp4", (1, 1))
    assert project.run("--select", 'key:"clip_catalog"').assets["clip_catalog"]["rows_computed"] == 1
