"""The whole graph, as a user runs it, on small random models of the other families: from the clips to the report, and a second run without work."""

from pathlib import Path

import pytest

from motive_pipeline.latents.stage import LatentSet
from tests.graph_project import SETTINGS, Project
from tests.tiny_families import COG_TOKENS, build_cogvideox, build_ltx, save_tiny
from tests.tiny_wan_image import KINDS, TOKENS, Kind, save_image_model

CONDITIONING = {"ltx": {"prompt_embeds", "prompt_attention_mask", "frame_rate"}, "cogvideox": {"prompt_embeds"}}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "build", "tokens"), [("ltx", build_ltx, 8), ("cogvideox", build_cogvideox, COG_TOKENS)])
def test_the_whole_graph_runs_to_a_report(tmp_path: Path, name: str, build, tokens: int):
    model = save_tiny(build, tmp_path / name)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", SETTINGS | {"model": {"path": str(model), "dtype": "float32", "max_prompt_tokens": tokens}})
    project.set("clips.demo.num_clips", 9)
    project.set("subset.share", 0.4)
    first = project.run("--summary")
    assert {entry["status"] for entry in first.assets.values()} <= {"computed", "unchanged"}
    report = project.workspace.published("eval_report").path / "report.html"
    assert "held-out" in report.read_text(encoding="utf-8")
    latents, told = (found := LatentSet(project.workspace, "clip")).get(found.clip_ids[0])
    assert told.keys() == CONDITIONING[name]
    assert latents.shape == ((4, 3, 2, 2) if name == "ltx" else (4, 5, 8, 8))
    assert len(project.sql("SELECT * FROM ranking WHERE variant = 'motive'")) == 9
    second = project.run().assets.values()
    assert {(entry["status"], entry["rows_computed"]) for entry in second} == {("unchanged", 0)}, "a second run has nothing to do"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_image_to_video_runs_from_clips_to_videos_and_report(tmp_path: Path, kind: Kind):
    """Every clip is told its own first frame, and every video starts from its query's."""
    folder = save_image_model(kind, tmp_path / kind)
    (tmp_path / "project").mkdir()
    model = {"path": str(folder), "dtype": "float32", "max_prompt_tokens": TOKENS} | ({"task": "image_to_video"} if kind == "ti2v" else {})
    project = Project(tmp_path / "project", SETTINGS | {"model": model})
    project.set("clips.demo.num_clips", 9)
    project.set("subset.share", 0.4)
    first = project.run("--summary")
    assert {entry["status"] for entry in first.assets.values()} <= {"computed", "unchanged"}
    assert (project.workspace.published("eval_report").path / "report.html").is_file()
    latents, told = (found := LatentSet(project.workspace, "clip")).get(found.clip_ids[0])
    assert latents.shape == (16, 5, 8, 8)
    assert told["first_frame_latents"].shape == ((16, 1, 8, 8) if kind == "ti2v" else latents.shape)
    assert ("image_embeds" in told) == (kind == "wan2.1")
    assert len(project.sql("SELECT * FROM ranking WHERE variant = 'motive'")) == 9
    second = project.run().assets.values()
    assert {(entry["status"], entry["rows_computed"]) for entry in second} == {("unchanged", 0)}, "a second run has nothing to do"
