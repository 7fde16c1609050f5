"""Cuts inside a clip, still clips, clips that look alike, and queries among the clips: found, flagged, listed; rejected only on demand."""

import json
import shutil

import numpy as np
import pytest

from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.catalog.duplicates import MAX_BITS, duplicates_table, near_pairs
from motive_pipeline.catalog.perceptual_hashes import perceptual_hashes
from motive_pipeline.catalog.rejects import publish_rejected
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.errors import GateFailed
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.video.appearance import appearance_of
from motive_pipeline.video.decode import read_clip
from tests.clip_fixtures import RULE, counting_frames, moving_square, project, write_project, write_video


def scene(seed: int, num_frames: int = 9) -> np.ndarray:
    return moving_square(num_frames, seed=seed)


class TestCut:
    @pytest.mark.parametrize("at", [1, 4, 8])
    def test_two_scenes_in_one_clip_are_a_cut_wherever_it_lies(self, at):
        both = np.concatenate([scene(1)[:at], 255 - scene(2)[at:]])
        assert appearance_of(both).cut_frame == at

    def test_motion_a_flash_and_a_fade_are_none(self):
        assert appearance_of(moving_square(9, step_px=5.0)).cut_frame is None
        flash = scene(1).copy()
        flash[4] = 255
        assert appearance_of(flash).cut_frame is None
        fade = (scene(1)[:1] * np.linspace(0, 1, 9)[:, None, None, None]).astype(np.uint8)
        assert appearance_of(fade).cut_frame is None
        rng = np.random.default_rng(0)
        wild = np.kron(rng.integers(0, 255, (9, 4, 4, 3)), np.ones((1, 12, 16, 1))).astype(np.uint8)
        assert appearance_of(wild).cut_frame is None, "where every step is large, none is a cut"

    def test_a_slow_rate_read_at_a_higher_one_is_none(self):
        assert appearance_of(np.repeat(moving_square(5, step_px=8.0), 2, axis=0)).cut_frame is None

    def test_one_frame_has_none(self):
        appearance = appearance_of(scene(1)[:1])
        assert (appearance.cut_frame, appearance.is_frozen) == (None, False)


def test_a_still_clip_is_frozen_also_after_encoding(tmp_path):
    still = np.repeat(scene(3)[:1], 9, axis=0)
    assert appearance_of(still).is_frozen
    assert appearance_of(read_clip(write_video(tmp_path / "v.mp4", still), RULE).frames_THWC).is_frozen
    assert not appearance_of(moving_square(step_px=1.0)).is_frozen


class TestPairs:
    def test_a_copy_of_other_size_and_quality_is_near_and_others_are_not(self, tmp_path):
        first = write_video(tmp_path / "a.mp4", moving_square(width=128, height=96, seed=1))
        small = moving_square(width=128, height=96, seed=1)[:, ::2, ::2]
        copies = [first, write_video(tmp_path / "b.mp4", small, options={"crf": "30"})]
        others = [write_video(tmp_path / f"c{n}.mp4", moving_square(width=128, height=96, seed=n)) for n in range(2, 8)]
        hashes = [appearance_of(read_clip(path, RULE).frames_THWC).phash for path in copies + others]
        assert [pair[:2] for pair in near_pairs(hashes)] == [(0, 1)]

    def test_the_pairs_are_those_that_comparing_all_finds(self):
        rng = np.random.default_rng(0)
        bits = rng.integers(0, 2, (60, 256))
        for copy, number in ((1, 0), (2, MAX_BITS), (3, MAX_BITS + 1), (4, 1)):
            bits[copy] = bits[0]
            bits[copy, rng.choice(256, number, replace=False)] ^= 1
        hashes = [np.packbits(row).tobytes().hex() for row in bits]
        slow = [(i, j, int((bits[i] != bits[j]).sum())) for i in range(60) for j in range(i + 1, 60)]
        assert near_pairs(hashes) == [pair for pair in slow if pair[2] <= MAX_BITS]

    def test_one_or_none_has_no_pair(self):
        assert near_pairs([]) == near_pairs(["0" * 64]) == []


@pytest.fixture
def alike(tmp_path):
    """A clip that is a query, too; two clips that look alike."""
    write_project(tmp_path)
    shutil.copy(tmp_path / "queries" / "slide" / "query_0.mp4", tmp_path / "clips" / "leaked.mp4")
    write_video(tmp_path / "clips" / "again.mp4", moving_square(step_px=1.0, seed=0), options={"crf": "25"})
    return tmp_path


def published(ws):
    publish_clip_catalog(ws)
    publish_query_catalog(ws)
    publish_latents(ws, role="clip")
    publish_latents(ws, role="query")
    return publish_rejected(ws)


def test_near_duplicates_and_queries_in_the_pool_are_listed_and_nothing_is_removed(alike):
    ws = project(alike)
    publication = published(ws)
    table = publication.table("duplicates")
    names = {(row["kind"], row["path"].rpartition("/")[2], row["other_path"].rpartition("/")[2]) for row in table.to_dict("records")}
    assert ("query_in_pool", "leaked.mp4", "query_0.mp4") in names
    assert any(kind == "near_duplicate" and {left, right} == {"again.mp4", "clip_0.mp4"} for kind, left, right in names)
    assert publication.facts["pairs: query_in_pool"] == 1
    assert publication.facts["rejected"] == 0
    assert len(ws.published("latents").table("index")) == 5
    page = (publication.path / "rejected.html").read_text()
    assert f'href="file://{alike}/clips/leaked.mp4"' in page
    assert ws.scores.query("SELECT count(*) FROM duplicates WHERE kind = 'query_in_pool'").fetchall() == [(1,)]
    assert publish_rejected(ws).data_version == publication.data_version
    assert duplicates_table(ws).to_numpy().tolist() == table.to_numpy().tolist()


def test_flags_are_kept_and_a_policy_makes_them_rejects_without_reading_again(tmp_path):
    write_project(tmp_path)
    write_video(tmp_path / "clips" / "cut.mp4", np.concatenate([scene(1)[:4], 255 - scene(2)[4:]]))
    write_video(tmp_path / "clips" / "turned.mp4", moving_square(seed=9), rotation=90)
    ws = project(tmp_path)
    publish_clip_catalog(ws)
    first = publish_latents(ws, role="clip").table("index")
    assert sorted(flags for flags in first["flags"] if flags) == ["frozen", "hidden_cut", "rotated"]
    strict = project(tmp_path, clips={"policies": {"hidden_cut": "reject", "rotated": "reject"}, "max_reject_share": 0.5})
    again = publish_latents(strict, role="clip")
    assert sorted(again.rejects()["reason"]) == ["hidden_cut", "rotated"]
    assert all("clips.policies" in detail for detail in again.rejects()["detail"])
    assert again.counts.computed == 0
    assert again.table("index")["content"].isin(first["content"]).all(), "a policy changes no row"
    with pytest.raises(GateFailed, match=r"frozen: 1.*clips\.max_reject_share"):
        publish_latents(project(tmp_path, clips={"policies": {"frozen": "reject"}, "max_reject_share": 0.1}), role="clip")


def test_clips_without_caption_are_rejected_where_the_policy_says_so(tmp_path):
    write_project(tmp_path)
    write_video(tmp_path / "clips" / "mute.mp4", counting_frames(9))
    publication = publish_clip_catalog(project(tmp_path, clips={"policies": {"no_caption": "reject"}, "max_reject_share": 0.5}))
    assert publication.rejects()["reason"].tolist() == ["no_caption"]
    assert len(publication.table("catalog")) == 3


def test_a_clip_whose_latents_are_there_already_is_looked_at_all_the_same(tmp_path):
    write_project(tmp_path)
    ws = project(tmp_path)
    publish_clip_catalog(ws)
    before = publish_latents(ws, role="clip")
    shutil.rmtree(tmp_path / "motive_data" / "rows" / "perceptual_hashes")
    after = publish_latents(project(tmp_path), role="clip")
    assert (after.counts.computed, after.data_version) == (0, before.data_version)
    assert json.dumps(after.table("index")["phash"].tolist()) == json.dumps(before.table("index")["phash"].tolist())


def test_a_file_that_has_changed_since_it_was_catalogued_gives_no_look(tmp_path):
    """The new content's look must not be kept under the old content's id."""
    write_project(tmp_path)
    ws = project(tmp_path)
    publish_clip_catalog(ws)
    clips = catalog_clips(ws, "clip")
    file = clips[1].file.path
    old = file.read_bytes()
    write_video(file, moving_square(seed=77))
    assert perceptual_hashes(ws, clips, {}).keys() == {clips[0].clip_id, clips[2].clip_id}
    file.write_bytes(old)
    assert perceptual_hashes(project(tmp_path), clips, {})[clips[1].clip_id] == appearance_of(read_clip(file, RULE).frames_THWC)
