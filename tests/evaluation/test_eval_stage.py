"""``eval_scores/<arm>``: every video measured once, scores that add up, and gates that name the file."""

from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation import stage
from motive_pipeline.evaluation.flow_distance import FlowDistances
from motive_pipeline.evaluation.metrics import motion_smoothness, opencv_frames, temporal_flickering
from motive_pipeline.evaluation.stage import publish_eval_scores
from motive_pipeline.evaluation.values import difference, score_rows, unit_values, value_matrix
from motive_pipeline.graph.metrics import DYNAMIC, QUERY_MOTION
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.encode import write_mp4
from tests.eval_fixtures import copied, republish
from tests.preference_fixtures import edit_publication


def table(values_SJ, arm="motive"):
    """``per_video`` of one metric, two videos a prompt that lie 0.1 either side of the value; no losses."""
    rows = [
        {"training": training, "prompt_index": prompt, "metric": "dynamic_degree", "backend": "dis", "value": value + shift}
        for training, row in enumerate(values_SJ)
        for prompt, value in enumerate(row)
        for shift in (-0.1, 0.1)
    ]
    losses = pd.DataFrame({"training": [], "query_id": [], "metric": [], "drop_percent": []})
    return unit_values(arm, pd.DataFrame(rows), losses)


def test_every_video_has_every_metric_once(evaluated):
    per_video = evaluated.published("eval_scores/motive").table("per_video")
    videos = evaluated.published("generated_videos/motive").table("videos")
    assert len(per_video) == 5 * len(videos)
    assert set(per_video["metric"]) == {
        "dynamic_degree", "motion_smoothness", "temporal_flickering", "query_motion_share", "flow_histogram_distance"
    }  # fmt: skip
    assert set(per_video.loc[per_video["metric"] == "temporal_flickering", "backend"]) == {"exact"}
    assert not per_video.duplicated(["training", "prompt_index", "n", "metric"]).any()
    assert (per_video["motion_label"] != "").all()


def test_values_are_those_of_the_file(evaluated):
    publication = evaluated.published("generated_videos/full")
    video = publication.table("videos").iloc[-1]
    frames = read_clip(publication.path / video["file"], FrameRule.of(evaluated.config)).frames_THWC
    per_video = evaluated.published("eval_scores/full").table("per_video").set_index(["metric", "training", "prompt_index", "n"])["value"]
    which = (video["training"], video["prompt_index"], video["n"])
    assert per_video[("motion_smoothness", *which)] == motion_smoothness(frames)
    assert per_video[("temporal_flickering", *which)] == temporal_flickering(opencv_frames(publication.path / video["file"]))


def test_the_score_table_has_the_contracts_columns_and_a_row_for_all_trainings(evaluated):
    rows = evaluated.scores.query("SELECT * FROM eval_scores WHERE arm = 'random' ORDER BY metric, seed").df()
    assert list(rows) == ["arm", "seed", "metric", "backend", "value", "ci_low", "ci_high", "num_videos"]
    assert rows["seed"].isna().any(), "all trainings together"
    assert set(rows["seed"].dropna()) == {0}
    of_queries = rows["metric"] == "held_out_loss_drop"
    assert rows.loc[of_queries, ["ci_low", "ci_high"]].isna().all(axis=None), "two queries have no interval"
    assert (rows["ci_low"] <= rows["value"] + 1e-12)[~of_queries].all()
    assert (rows["value"] <= rows["ci_high"] + 1e-12)[~of_queries].all()
    assert (rows["ci_low"] < rows["ci_high"])[~of_queries].all()
    assert set(rows.loc[rows["metric"] == "held_out_loss_drop", "num_videos"]) == {2}
    assert set(rows.loc[rows["metric"] == "dynamic_degree", "num_videos"]) == {4}


def test_the_base_arm_has_dropped_by_nothing(evaluated):
    scores = evaluated.published("eval_scores/base").table("scores")
    drop = scores[scores["metric"] == "held_out_loss_drop"]
    assert (drop["value"] == 0).all()


def test_a_second_run_computes_nothing_and_says_the_same(evaluated):
    before = evaluated.published("eval_scores/motive")
    again = publish_eval_scores(evaluated, "motive")
    assert again.counts.computed == 0
    assert again.data_version == before.data_version


def test_a_video_that_cannot_be_read_stops_the_asset_and_is_named(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    name = ws.published("generated_videos/motive").table("videos")["file"].iloc[1]
    edits = (
        lambda folder: (folder / name).unlink(),
        lambda folder: (folder / name).write_bytes(b"no video"),
        lambda folder: write_mp4(folder / name, np.zeros((2, 64, 64, 3), np.uint8), 16),
    )
    for edit in edits:
        edit_publication(ws, "generated_videos/motive", edit)
        with pytest.raises(GateFailed, match=name):
            publish_eval_scores(ws, "motive")


def test_a_video_of_zero_frames_stops_the_asset_and_is_named(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    name = ws.published("generated_videos/motive").table("videos")["file"].iloc[0]

    def empty(folder: Path) -> None:
        (folder / name).unlink()
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=16)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            container.start_encoding()

    edit_publication(ws, "generated_videos/motive", empty)
    with pytest.raises(GateFailed, match=rf"1 of 4 videos cannot be measured; .*{Path(name).name}"):
        publish_eval_scores(ws, "motive")


def test_a_score_that_is_not_finite_stops_the_asset_and_names_video_and_metric(evaluated, tmp_path, tiny_model, monkeypatch):
    ws = copied(evaluated, tmp_path, tiny_model)
    name = ws.published("generated_videos/motive").table("videos")["file"].iloc[2]
    noise = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3), dtype=np.uint8)
    edit_publication(ws, "generated_videos/motive", lambda folder: write_mp4(folder / name, noise, 16))
    found = stage.measure
    monkeypatch.setattr(stage, "measure", lambda video: found(video) | {DYNAMIC: float("nan")})
    with pytest.raises(GateFailed, match=rf"1 values are not finite \({name}: dynamic_degree\)"):
        publish_eval_scores(ws, "motive")


def test_the_flow_of_each_video_and_query_is_published(evaluated):
    scores, videos = evaluated.published("eval_scores/motive"), evaluated.published("generated_videos/motive").table("videos")
    flow, queries = scores.table("flow"), scores.table("query_flow")
    assert len(flow) == 7 * len(videos), "17 frames at 16 a second: nine sampled, eight pairs, seven changes"
    held_out = evaluated.published("query_catalog").table("queries").query("role == 'held_out'")["query_id"]
    assert set(queries["query_id"]) == set(held_out), "as in the causal check"
    rows = scores.table("scores")
    found = rows[(rows["metric"] == "flow_frechet_distance") & (rows["seed"] == -1)].iloc[0]
    distances = FlowDistances.of({"motive": flow}, queries, num_samples=evaluated.config.evaluate.bootstrap_samples)
    assert found["value"] == distances.estimate("motive").value
    assert found["ci_low"] < found["value"] < found["ci_high"]
    assert found["num_videos"] == len(videos)


def test_a_video_listed_twice_stops_the_asset(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    videos = ws.published("generated_videos/base").table("videos")
    republish(ws, "generated_videos/base", videos=pd.concat([videos, videos.iloc[:1]]))
    with pytest.raises(GateFailed, match="twice"):
        publish_eval_scores(ws, "base")


def test_videos_of_one_prompt_are_one_value():
    units = table([[0.2, 0.4]])
    assert value_matrix(units, "motive", DYNAMIC).to_numpy() == pytest.approx(np.array([[0.2, 0.4]]))
    assert units["num"].tolist() == [2, 2]


def test_scores_are_means_over_prompts_and_trainings():
    rows = score_rows(table([[0.2, 0.4], [0.6, 0.8]]), "motive", num_samples=200).set_index("seed")
    assert rows["value"].to_dict() == pytest.approx({-1: 0.5, 0: 0.3, 1: 0.7})
    assert rows["num_videos"].to_dict() == {-1: 8, 0: 4, 1: 4}


def test_a_prompt_that_one_training_lacks_is_left_out_of_all():
    units = table([[0.2, 0.4], [0.6, 0.8]])
    units = units[~((units["training"] == 1) & (units["unit"] == "prompt 00001"))]
    assert value_matrix(units, "motive", DYNAMIC).shape == (2, 1)


def test_differences_are_paired_by_prompt_and_training():
    """The prompts differ widely, the difference hardly: only a paired interval is narrow."""
    luck = np.random.default_rng(0).normal(size=8)
    units = pd.concat([table(np.array([luck + 0.3, luck + 0.31, luck + 0.32])), table(np.array([luck, luck, luck]), arm="random")])
    found = difference(units, DYNAMIC, "motive", "random", num_samples=500)
    assert found.value == pytest.approx(0.31)
    assert found.high - found.low < 0.1
    assert found.excludes_zero


def test_an_arm_without_trainings_is_compared_with_each_training():
    units = pd.concat([table([[0.5, 0.7], [0.7, 0.9], [0.6, 0.8]]), table([[0.1, 0.3]], arm="base")])
    assert difference(units, DYNAMIC, "motive", "base", num_samples=200).value == pytest.approx(0.5)


def test_arms_that_do_not_fit_together_are_an_error():
    units = pd.concat([table([[0.5, 0.7]] * 3), table([[0.1, 0.3]] * 2, arm="random")])
    with pytest.raises(GateFailed, match="3 against 2 trainings"):
        difference(units, DYNAMIC, "motive", "random", num_samples=200)
    with pytest.raises(GateFailed, match="no prompt or query has a value"):
        value_matrix(units, "motive", QUERY_MOTION)
