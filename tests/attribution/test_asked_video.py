"""The row of a video outside of the config: the bits of a configured query's, or a refusal before a model is loaded."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from motive_pipeline.attribution.asked_video import comparable_gradients, read_video
from motive_pipeline.attribution.gradient_set import open_gradients
from motive_pipeline.attribution.influence import publish_influence
from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.attribution.stage import publish_gradients
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.errors import MotiveError, NotPublished
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.motion.field import motion_field
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.report.ask import Answer, answer
from motive_pipeline.report.named_video import find_video
from motive_pipeline.storage.workspace import Workspace
from tests.clip_fixtures import moving_square, write_sound, write_video
from tests.gradient_fixtures import add_clip, workspace
from tests.tiny_wan import save_tiny_wan

VARIANTS = {
    "averaged": {"draws": 3, "combine": "mean_cosine", "store_dim": 256},
    "kernel": {"preconditioner": ["adam", "trak"], "similarity": "dot", "proj_dim": 64},
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("no_mask", *VARIANTS)]


def no_model(*_, **__):
    pytest.fail("a model was loaded")


@pytest.fixture
def without_model(monkeypatch):
    """A test in which no model may be loaded any more, once it asks for this."""

    def forbid() -> None:
        monkeypatch.setattr("motive_pipeline.latents.stage.load_model", no_model)
        monkeypatch.setattr("motive_pipeline.attribution.stage.load_attributed_model", no_model)

    return forbid


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video that the project does not know, with a caption beside it."""
    file = write_video(tmp_path / "mine" / "new.mp4", moving_square(13, step_px=2.5, seed=30))
    file.with_suffix(".txt").write_text("a square\nthat moves")
    return file


def with_gradients(folder: Path, variant: str = "motive", **sections) -> Workspace:
    """The project with the clips' gradients."""
    ws = workspace(folder, **sections)
    if ws.config.of_variant(variant).influence.uses_adam:
        ws.graph.asset("second_moments").publish(ws)
    publish_gradients(ws, variant=variant, role="clip")
    return ws


def asked(ws: Workspace, file: Path, variant: str = "motive") -> Answer:
    return answer(ws, find_video(ws, str(file)), variant, top=3)


def contents(root: Path) -> dict[str, bytes]:
    """Every file below the root but what is only remembered of files."""
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and "state" not in path.parts}


@pytest.mark.parametrize("variant", ["motive", *SLOW])
def test_gradient_and_influences_have_the_bits_of_the_same_file_as_a_configured_query(folder, video, variant):
    ws = with_gradients(folder, variant, variants=VARIANTS)
    publish_gradients(ws, variant=variant, role="query")
    before = contents(ws.root)
    found = asked(ws, video, variant)
    assert contents(ws.root) == before, "nothing below the root has changed"

    for each in (video, video.with_suffix(".txt")):
        shutil.copy(each, folder / "queries" / each.name)
    ws = workspace(folder, variants=VARIANTS)
    publish_query_catalog(ws)
    publish_latents(ws, role="query")
    publish_motion_masks(ws, role="query")
    publish_gradients(ws, variant=variant, role="query")
    publish_influence(ws, variant)
    queries = open_gradients(ws.published(f"query_gradients/{variant}").path, 1024)
    place = queries.clip_ids.index(found.video.clip.clip_id)
    assert found.influence.row["gradient"].tobytes() == np.asarray(queries.gradient_NP[place]).tobytes()
    assert float(found.influence.row["grad_norm"]) == queries.norms_N[place]
    assert int(found.influence.row["num_frames"]) == queries.num_frames_N[place] == 9
    influence = load_influence(ws, variant)
    assert influence.clip_ids == found.influence.clip_id_N.astype(str).tolist()
    assert found.influence.influence_N.tobytes() == influence.query(found.video.clip.clip_id).tobytes()
    others = [influence.query(query_id) for query_id in influence.query_ids if query_id != found.video.clip.clip_id]
    assert found.influence.num_queries == len(others) == 2
    assert found.influence.num_lower_N.tolist() == (np.stack(others) < found.influence.influence_N).sum(axis=0).tolist()


def test_without_gradients_of_queries_there_is_an_answer_and_no_percentile(folder, video):
    ws = with_gradients(folder)
    found = asked(ws, video)
    assert found.influence.num_queries == 0
    assert {each.percentile for each in (*found.best, *found.worst)} == {None}
    assert "No gradients of queries are published under the same settings" in " ".join(found.notes)
    by_id = dict(zip(found.influence.clip_id_N.astype(str).tolist(), found.influence.influence_N.tolist(), strict=True))
    assert [(each.place, each.influence) for each in (*found.best, *found.worst)] == [(1, max(by_id.values())), (3, min(by_id.values()))]
    assert found.influence.influence_N.tobytes() == asked(ws, video).influence.influence_N.tobytes()


@pytest.fixture(scope="module")
def ranked(prepared_project, tmp_path_factory) -> Path:
    """The project with the clips' gradients. Not to be changed."""
    folder = shutil.copytree(prepared_project, tmp_path_factory.mktemp("ranked") / "project")
    with_gradients(folder)
    return folder


def bad_videos(folder: Path) -> dict[str, Path]:
    """Files that no query could be, by the reason that must be named."""
    (folder / "not_video.mp4").write_text("no video at all")
    (folder / "empty.mp4").write_bytes(b"")
    return {
        "no_motion": write_video(folder / "still.mp4", moving_square(13, step_px=0.0)),
        "too_short": write_video(folder / "short.mp4", moving_square(4)),
        "no_video_stream": write_sound(folder / "sound.mp4"),
        "not_a_video": folder / "not_video.mp4",
        "empty_file": folder / "empty.mp4",
    }


def test_what_would_be_rejected_as_a_query_is_refused_with_the_same_reason_before_a_model_is_loaded(ranked, tmp_path, without_model):
    ws = workspace(ranked)
    without_model()
    for reason, file in bad_videos(tmp_path).items():
        with pytest.raises(MotiveError, match=f"{file.name}: {reason}: ") as refused:
            asked(ws, file)
        assert "As a query it would be rejected, too" in str(refused.value)


def test_the_words_for_no_motion_are_those_of_the_query_mask(ranked, tmp_path):
    folder = shutil.copytree(ranked, tmp_path / "project")
    still = write_video(tmp_path / "still.mp4", moving_square(13, step_px=0.0))
    with pytest.raises(MotiveError, match="no_motion") as refused:
        asked(workspace(folder), still)
    shutil.copy(still, folder / "queries")
    ws = workspace(folder, queries={"max_reject_share": 0.5})
    publish_query_catalog(ws)
    rejects = publish_motion_masks(ws, role="query").rejects()
    assert rejects["reason"].tolist() == ["no_motion"]
    assert rejects["detail"].tolist()[0] in str(refused.value)


def test_optical_flow_runs_on_one_thread_as_in_the_stage(ranked, video, monkeypatch):
    seen, before = [], cv2.getNumThreads()
    monkeypatch.setattr(
        "motive_pipeline.motion.stage.motion_field", lambda *given: seen.append(cv2.getNumThreads()) or motion_field(*given)
    )
    cv2.setNumThreads(2)
    try:
        ws = workspace(ranked)
        read_video(ws, find_video(ws, str(video)).clip)
    finally:
        cv2.setNumThreads(before)
    assert seen == [1], "DIS cuts a frame into as many strips as OpenCV has threads, so other threads give other bits"


def test_policies_hold_for_an_asked_video_too(ranked, tmp_path, without_model, video):
    without_model()
    wide = write_video(tmp_path / "wide.mp4", moving_square(13, width=256))
    ws = workspace(ranked, clips={"policies": {"mostly_cropped": "reject", "no_caption": "reject"}})
    wide.with_suffix(".txt").write_text("wide")
    with pytest.raises(MotiveError, match=r"wide\.mp4: mostly_cropped: .*clips\.policies\.mostly_cropped rejects that"):
        asked(ws, wide)
    video.with_suffix(".txt").unlink()
    with pytest.raises(MotiveError, match=r"has no caption, which clips\.policies\.no_caption rejects\. Give one: --caption TEXT"):
        asked(ws, video)


def test_published_gradients_of_other_settings_are_named_with_them(ranked, without_model):
    without_model()
    cases = {
        r"projected_gradients/motive was made with other settings .*gradient\.noise_seed 0 -> 9": {"gradient": {"noise_seed": 9}},
        r"projected_gradients/motive was made .*gradient\.mask both -> query": {"gradient": {"mask": "query"}},
        r"latents was made .*clips\.fps 8 -> 6": {"clips": {"fps": 6}},
        r"motion_masks was made .*motion\.floor_px": {"motion": {"floor_px": 0.7}},
    }
    for words, sections in cases.items():
        with pytest.raises(MotiveError, match=words) as refused:
            comparable_gradients(workspace(ranked, **sections), "motive")
        assert "Run `motive rank --variant motive`" in str(refused.value)


def test_a_setting_that_only_reads_or_gates_is_no_reason_to_refuse(ranked):
    assert len(comparable_gradients(workspace(ranked, influence={"proj_dim": 128}, gradient={"max_reject_share": 0.9}), "motive")) == 3


def test_another_model_and_one_that_has_gone_are_named(ranked, tmp_path, without_model):
    without_model()
    folder = shutil.copytree(ranked, tmp_path / "project")
    other = save_tiny_wan(tmp_path / "other", seed=1)
    with pytest.raises(
        MotiveError, match=r"the model .*other is not the one that projected_gradients/motive was made with \(hash .* instead of"
    ):
        comparable_gradients(workspace(folder, model={"path": str(other)}), "motive")
    shutil.rmtree(folder / "wan")
    with pytest.raises(MotiveError, match=r"model\.path = '.*wan'"):
        comparable_gradients(workspace(folder), "motive")


def test_gradients_that_are_not_there_yet_are_named(folder, without_model):
    without_model()
    with pytest.raises(NotPublished, match="projected_gradients/motive has not been materialized yet"):
        comparable_gradients(workspace(folder), "motive")


def test_clips_that_have_latents_and_no_gradient_yet_are_no_reason_to_refuse_but_other_captions_are(ranked, tmp_path):
    folder = shutil.copytree(ranked, tmp_path / "project")
    ws = workspace(folder)
    add_clip(folder, ws)
    assert len(comparable_gradients(ws, "motive")) == 3
    (folder / "clips/clip_0.txt").write_text("another caption")
    publish_clip_catalog(ws)
    publish_latents(ws, role="clip")
    with pytest.raises(MotiveError, match="projected_gradients/motive was made from other latents, motion masks than those published now"):
        comparable_gradients(ws, "motive")
