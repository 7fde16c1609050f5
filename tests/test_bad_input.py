"""What a user can get wrong: a clear error, or a row in ``rejects``; never a trace of our own."""

import shutil

import numpy as np
import pytest

from motive_pipeline.clips.encode import write_mp4
from tests.graph_project import SETTINGS, Project

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


def test_a_corrupt_file_among_good_ones_is_a_row_in_rejects(project):
    (project.folder / "clips" / "broken.mp4").write_bytes(b"<html>404 not found</html>" * 50)
    project.run("--select", CURATE)
    rejects = project.sql("SELECT path, stage, reason, detail FROM rejects")
    assert len(rejects) == 1
    assert rejects[0]["path"].endswith("broken.mp4")
    assert rejects[0]["stage"] == "clip_catalog"
    assert rejects[0]["reason"]
    assert project.sql("SELECT count(*) AS n FROM clips")[0]["n"] == 6


def test_a_missing_folder(project):
    project.set("clips.path", "nowhere")
    refused(project, "clips.path", str(project.folder / "nowhere"))


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


def test_one_query_without_motion_is_a_row_in_rejects(project):
    write_mp4(project.folder / "queries" / "still.mp4", moving(7, speed_px=0.0), 16)
    outcome = project.motive("run", "--select", CURATE)
    assert outcome.code == 0, outcome.err
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
    project.file.rename(tmp_path / "other.yaml")
    assert "cannot read the config" in project.motive("run").err
