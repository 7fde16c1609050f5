"""Motion masks of a whole project: published, read back, gated."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from motive_pipeline.config import Motion
from motive_pipeline.errors import GateFailed
from motive_pipeline.models.load import latent_grid
from motive_pipeline.motion.field import MaskRule, motion_field, peak
from motive_pipeline.motion.mask import magnitude, saliency, to_latent_grid
from motive_pipeline.motion.stage import MaskSet, publish_motion_masks
from motive_pipeline.motion.trackers import build_tracker
from motive_pipeline.video.decode import FrameRule, read_clip
from tests.clip_fixtures import catalogued, moving_square, project, write_project, write_video


def by_name(ws) -> dict[str, str]:
    catalog = ws.published("clip_catalog").table("catalog")
    return {Path(path).stem: clip_id for path, clip_id in zip(catalog["path"], catalog["clip_id"], strict=True)}


def test_masks_are_those_of_the_settings_on_the_grid_of_the_model(ws):
    publish_motion_masks(ws, role="clip")
    found = MaskSet(ws, "clip")
    for clip_id, path in ws.published("clip_catalog").table("catalog")[["clip_id", "path"]].itertuples(index=False):
        frames = read_clip(Path(path), FrameRule.of(ws.config)).frames_THWC
        magnitude_THW = magnitude(build_tracker(ws.config.motion).track(frames).displacement_THW2)
        mask = to_latent_grid(saliency(magnitude_THW, floor_px=ws.config.motion.floor_px), latent_grid(ws))
        assert torch.equal(found.get(clip_id), torch.from_numpy(mask))
        assert found.index.set_index("clip_id")["motion_magnitude_px"][clip_id] == float(magnitude_THW.mean(dtype=np.float64))
        assert mask.shape == latent_grid(ws).shape(9, 48, 64)[1:]


def test_a_still_training_clip_is_kept_with_next_to_no_mask_and_faster_clips_have_more_motion(ws):
    publication = publish_motion_masks(ws, role="clip")
    ids = by_name(ws)
    magnitude = publication.table("index").set_index("clip_id")["motion_magnitude_px"]
    assert magnitude[ids["clip_2"]] < 0.05 < magnitude[ids["clip_0"]] < magnitude[ids["clip_1"]]
    peak = publication.table("index").set_index("clip_id")["motion_peak_px"]
    assert peak[ids["clip_2"]] < ws.config.motion.still_px < peak[ids["clip_0"]] < peak[ids["clip_1"]]
    assert publication.facts["clips without motion"] == 1
    assert publication.rejects().empty


def test_the_mask_lies_on_what_moves(ws):
    publish_motion_masks(ws, role="clip")
    mask = MaskSet(ws, "clip").get(by_name(ws)["clip_1"]).numpy()
    rows = mask.mean(axis=(0, 2))
    assert rows[2:4].mean() > 3 * rows[[0, 5]].mean(), "the square crosses rows 16 to 32 of 48"


def test_magnitudes_stand_in_the_clips_table(ws):
    publish_motion_masks(ws, role="clip")
    publish_motion_masks(ws, role="query")
    (rows,) = ws.scores.query("SELECT count(motion_magnitude_px) FROM clips").fetchall()
    assert rows == (3,)


def test_a_query_without_motion_is_rejected_and_the_others_are_used(tmp_path):
    write_project(tmp_path)
    still = write_video(tmp_path / "queries" / "still.mp4", moving_square(step_px=0.0, seed=40))
    ws = catalogued(project(tmp_path, queries={"max_reject_share": 0.25}))
    publication = publish_motion_masks(ws, role="query")
    rejects = publication.rejects()
    assert (rejects["path"].tolist(), rejects["reason"].tolist()) == ([str(still)], ["no_motion"])
    assert len(MaskSet(ws, "query")) == 3
    assert publication.counts.rejected == 1
    again = publish_motion_masks(ws, role="query")
    assert (again.counts.computed, again.data_version) == (0, publication.data_version)


@pytest.mark.parametrize(("folder", "part"), [("queries/slide", "query"), ("held_out", "held-out")])
def test_no_moving_query_left_stops_the_stage(tmp_path, folder, part):
    write_project(tmp_path)
    for number, file in enumerate(sorted((tmp_path / folder).glob("*.mp4"))):
        write_video(file, moving_square(step_px=0.0, seed=40 + number))
    ws = catalogued(project(tmp_path))
    with pytest.raises(GateFailed, match=rf"query_masks: no {part} clip is left.*no_motion"):
        publish_motion_masks(ws, role="query")
    assert not ws.has_published("query_masks")


def test_clips_that_are_all_still_stop_the_stage_and_name_the_setting(tmp_path):
    write_project(tmp_path)
    for number in range(3):
        write_video(tmp_path / "clips" / f"clip_{number}.mp4", moving_square(step_px=0.0, seed=number))
    with pytest.raises(GateFailed, match=r"motion_masks: all 3 clips are still.*motion\.still_px"):
        publish_motion_masks(catalogued(project(tmp_path)), role="clip")


def test_masks_that_are_next_to_zero_stop_the_stage_and_name_the_floor(tmp_path):
    write_project(tmp_path)
    with pytest.raises(GateFailed, match=r"motion_masks: all 3 clips .*largest weight of its mask is .*motion\.floor_px is too large"):
        publish_motion_masks(catalogued(project(tmp_path, motion={"floor_px": 1.0e6})), role="clip")


def test_too_many_rejects_stop_the_stage(tmp_path):
    write_project(tmp_path)
    write_video(tmp_path / "clips" / "short.mp4", moving_square(3, seed=9))
    ws = catalogued(project(tmp_path, motion={"max_reject_share": 0.1}))
    with pytest.raises(GateFailed, match=r"1 of 4 clips rejected \(too_short: 1\).*motion\.max_reject_share"):
        publish_motion_masks(ws, role="clip")


def test_only_a_setting_of_the_masks_computes_them_again_and_the_old_one_comes_back_for_nothing(ws, tmp_path):
    first = publish_motion_masks(ws, role="clip")
    assert publish_motion_masks(project(tmp_path, gradient={"timestep": 400}), role="clip").counts.computed == 0
    other = publish_motion_masks(project(tmp_path, motion={"floor_px": 5.0}), role="clip")
    assert other.counts.computed == 3
    assert other.data_version != first.data_version
    back = publish_motion_masks(project(tmp_path), role="clip")
    assert (back.counts.computed, back.data_version) == (0, first.data_version)


def test_options_that_are_off_leave_the_stored_rows_where_they_are(ws, tmp_path):
    """What a row's store is named after holds an option only while it is on."""
    first = publish_motion_masks(ws, role="clip")
    off = {"camera": "keep", "cuts": "keep", "weigh_by": "none", "alltracker": {"iters": 9, "repo": "elsewhere"}}
    assert publish_motion_masks(project(tmp_path, motion=off), role="clip").counts.computed == 0
    assert sorted(key for key in first.provenance["settings"] if key.startswith("motion.")) == [
        "motion.floor_px", "motion.min_side_px", "motion.preset", "motion.reference", "motion.tracker",
    ]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [("camera", "subtract"), ("camera", "downweight"), ("cuts", "skip")])
def test_an_option_that_is_on_makes_its_own_rows_and_stands_in_the_provenance(ws, tmp_path, key, value):
    publish_motion_masks(ws, role="clip")
    other = publish_motion_masks(project(tmp_path, motion={key: value}), role="clip")
    assert other.counts.computed == 3
    assert other.provenance["settings"][f"motion.{key}"] == value


def test_the_captions_do_not_enter_the_masks(ws, tmp_path):
    first = publish_motion_masks(ws, role="clip")
    (tmp_path / "clips" / "clip_1.txt").write_text("something else")
    after = publish_motion_masks(catalogued(project(tmp_path)), role="clip")
    assert (after.counts.computed, after.data_version) == (0, first.data_version)


def test_the_preview_is_a_picture(ws):
    publication = publish_motion_masks(ws, role="clip")
    assert publication.preview is not None
    assert publication.preview.read_bytes().startswith(b"\x89PNG")


def test_a_small_box_that_crosses_the_picture_is_motion_and_coding_noise_is_none(tmp_path):
    """A box of 48x36 that crosses 320x180 at 80 px/s moves in one hundredth of the cells of the mask at a time, also at 64x64."""
    ground = cv2.resize(np.random.default_rng(0).integers(0, 255, (8, 14, 3)).astype(np.uint8), (320, 180), interpolation=cv2.INTER_CUBIC)
    frames = np.repeat(ground[None], 20, 0)
    for size in ({"width": 64, "height": 64}, {"width": 320, "height": 176}):
        rule = FrameRule(num_frames=17, min_frames=17, fps=16.0, **size)
        still = write_video(tmp_path / "still.mp4", frames, fps=16, options={"crf": "30"})
        moving = frames.copy()
        for number, frame in enumerate(moving):
            frame[60:96, 20 + 5 * number : 68 + 5 * number] = (220, 60, 40)
        box = write_video(tmp_path / "box.mp4", moving, fps=16)
        peaks = [
            motion_field(read_clip(file, rule).frames_THWC, build_tracker(Motion()), MaskRule.of(Motion())).peak_px for file in (still, box)
        ]
        assert peaks[0] < Motion().still_px < peaks[1]


def test_the_peak_is_a_statement_about_pixels():
    magnitude = np.full((10, 10, 10), 2.0, dtype=np.float32)
    assert peak(magnitude) == 0.0, "what moves as a whole moves nothing against the rest"
    magnitude[0, 0, :10] = 5.0
    assert peak(magnitude) == 3.0, "one pixel in a hundred"
    magnitude[0, 0, 4:] = 2.0
    assert peak(magnitude) == 0.0, "less than one in two hundred"
