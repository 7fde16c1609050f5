"""Latents: what the model sees of each clip, computed once and read back exactly."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from motive_pipeline.catalog.rejects import publish_rejected
from motive_pipeline.errors import GateFailed, MotiveError, NotPublished
from motive_pipeline.latents.prompts import DistinctPrompts
from motive_pipeline.latents.stage import PROMPT_BLOCK, LatentSet, publish_latents, trimmed
from motive_pipeline.models.load import load_model
from motive_pipeline.models.prompt_tokens import cut_prompts
from motive_pipeline.video.decode import FrameRule, read_clip
from tests.clip_fixtures import catalogued, cut, moving_square, noise, project, write_project, write_video
from tests.tiny_families import build_ltx, save_tiny


def model_of(ws):
    return load_model(ws.config.model, threads=1)


def test_latents_and_embeddings_are_read_back_as_the_model_gave_them(ws):
    publication = publish_latents(ws, role="clip")
    found = LatentSet(ws, "clip")
    catalog = ws.published("clip_catalog").table("catalog")
    assert found.clip_ids == catalog["clip_id"].tolist()
    row = catalog.to_dict("records")[1]
    latents, told = found.get(row["clip_id"])
    frames = read_clip(Path(row["path"]), FrameRule.of(ws.config)).frames_THWC
    assert torch.equal(latents, model_of(ws).encode_video(frames))
    assert told.keys() == {"prompt_embeds"}
    assert torch.equal(told["prompt_embeds"], model_of(ws).encode_prompt(row["caption"])["prompt_embeds"])
    index = publication.table("index")
    assert index[["num_frames", "frames", "height", "width", "flags"]].iloc[1].tolist() == [9, *latents.shape[1:], ""]


def test_a_second_run_computes_nothing_and_a_new_caption_only_its_row(ws, tmp_path):
    first = publish_latents(ws, role="clip")
    again = publish_latents(project(tmp_path), role="clip")
    assert (first.counts.computed, again.counts.computed, again.counts.reused) == (3, 0, 3)
    assert again.data_version == first.data_version
    (tmp_path / "clips" / "clip_1.txt").write_text("something else")
    ws = catalogued(project(tmp_path))
    changed = publish_latents(ws, role="clip")
    assert (changed.counts.computed, changed.counts.reused) == (1, 2)
    assert changed.data_version != first.data_version


LONG = "a ball of bright yellow plastic rolls over the old wooden floor of a large hall with tall windows " * 6


def test_captions_that_are_equal_up_to_the_token_limit_are_flagged_and_counted_and_no_row_is_stale(ws, tmp_path, caplog):
    for number, end in enumerate(("and goes to the left", "and grows")):
        (tmp_path / "clips" / f"clip_{number}.txt").write_text(LONG + end)
    published = publish_latents(catalogued(project(tmp_path)), role="clip")
    found = LatentSet(ws, "clip")
    flagged = published.table("index").set_index("clip_id")["flags"]
    captions = ws.published("clip_catalog").table("catalog").set_index("clip_id")["caption"]
    assert {clip_id for clip_id in found.clip_ids if captions[clip_id].startswith("a ball")} == {*flagged.index[flagged == "caption_cut"]}
    cut = flagged.index[flagged == "caption_cut"]
    assert len(cut) == 2
    assert torch.equal(*(found.get(clip_id)[1]["prompt_embeds"] for clip_id in cut)), "this is why they are flagged"
    assert published.facts["flagged caption_cut"] == 2
    assert "2 of 3 clips have captions longer than model.max_prompt_tokens" in caplog.text
    assert ws.scores.query("SELECT count(*) FROM clips WHERE list_contains(flags, 'caption_cut')").fetchall() == [(2,)]
    strict = project(tmp_path, clips={"policies": {"caption_cut": "reject"}, "max_reject_share": 0.9})
    again = publish_latents(strict, role="clip")
    assert (again.counts.computed, again.rejects()["reason"].tolist()) == (0, ["caption_cut", "caption_cut"])


def test_a_caption_is_cut_exactly_when_the_embedding_no_longer_sees_its_end(ws):
    model, limit = model_of(ws), ws.config.model.max_prompt_tokens

    def embedding(text):
        return model.encode_prompt(text)["prompt_embeds"]

    words = "disc sways"
    while not cut_prompts(ws, [words]):
        words += " red"
    fitting = words.rpartition(" ")[0]
    assert torch.equal(embedding(words), embedding(words + " blue")), "one token over the limit: the end of the text is lost"
    assert not torch.equal(embedding(fitting), embedding(fitting.rpartition(" ")[0])), "at the limit nothing is"
    assert cut_prompts(ws, [fitting, words, "short"]) == {words}
    assert cut_prompts(ws, ["&amp;" * limit + "   " * limit]) == cut_prompts(ws, ["&" * limit]), "as the pipeline cleans it"


@pytest.mark.parametrize(
    ("size", "is_cropped"), [((64, 192), True), ((192, 64), True), ((64, 96), False), ((64, 48), False), ((160, 64), False)]
)
def test_a_clip_that_loses_most_of_its_picture_to_the_crop_is_flagged(tmp_path, size, is_cropped):
    width, height = size
    write_project(tmp_path)
    write_video(tmp_path / "clips" / "portrait.mp4", noise(24, width=width, height=height))
    publish = publish_latents(catalogued(project(tmp_path)), role="clip")
    flags = project(tmp_path).scores.query("SELECT flags FROM clips WHERE path LIKE '%portrait.mp4'").fetchall()
    assert flags == [(["mostly_cropped"] if is_cropped else [],)]
    assert publish.facts.get("flagged mostly_cropped", 0) == is_cropped


def test_a_clip_that_is_also_a_query_is_encoded_once(ws, tmp_path):
    publish_latents(ws, role="clip")
    (tmp_path / "queries" / "again.mp4").write_bytes((tmp_path / "clips" / "clip_0.mp4").read_bytes())
    (tmp_path / "queries" / "again.txt").write_bytes((tmp_path / "clips" / "clip_0.txt").read_bytes())
    ws = catalogued(project(tmp_path))
    queries = publish_latents(ws, role="query")
    assert (queries.counts.computed, queries.counts.reused) == (3, 1)
    both = set(LatentSet(ws, "clip").clip_ids) & set(LatentSet(ws, "query").clip_ids)
    (clip_id,) = both
    assert LatentSet(ws, "clip").content(clip_id) == LatentSet(ws, "query").content(clip_id)


def test_held_out_queries_are_encoded_too(ws):
    publish_latents(ws, role="query")
    assert len(LatentSet(ws, "query")) == 3


def test_a_reader_sees_what_was_published_even_when_the_settings_have_changed(ws, tmp_path):
    publish_latents(ws, role="clip")
    clip_id = LatentSet(ws, "clip").clip_ids[0]
    changed = project(tmp_path, clips={"num_frames": 5, "min_frames": 5})
    assert LatentSet(changed, "clip").get(clip_id)[0].shape[1] == 3
    assert publish_latents(changed, role="clip").counts.computed == 3
    assert LatentSet(changed, "clip").get(clip_id)[0].shape[1] == 2


def test_latents_that_are_not_kept_are_encoded_again_to_the_same_bits(ws, tmp_path):
    kept = publish_latents(ws, role="clip")
    wanted = {clip_id: LatentSet(ws, "clip").get(clip_id) for clip_id in LatentSet(ws, "clip").clip_ids}
    lean = project(tmp_path, engine={"keep_latents": False})
    published = publish_latents(lean, role="clip")
    assert published.counts.computed == 3
    assert published.data_version == kept.data_version
    columns = ["clip_id", "content", "num_frames", "frames", "height", "width", "flags"]
    assert published.table("index")[columns].equals(kept.table("index")[columns])
    found = LatentSet(lean, "clip")
    for clip_id, (latents, told) in wanted.items():
        assert not any(found.has(clip_id, name) for name in ("latents", "prompt_embeds"))
        again = found.get(clip_id)
        assert torch.equal(again[0], latents)
        assert again[1].keys() == told.keys() == {"prompt_embeds"}
        assert torch.equal(again[1]["prompt_embeds"], told["prompt_embeds"])
    assert publish_latents(project(tmp_path, engine={"keep_latents": False}), role="clip").counts.computed == 0
    assert publish_latents(project(tmp_path), role="clip").counts.computed == 0


def test_all_that_a_model_is_told_of_a_caption_is_kept_with_the_latents_or_made_again(tmp_path):
    """LTX-Video is told which tokens are padding, and the frame rate."""
    write_project(tmp_path)
    settings = {
        "model": {"path": str(save_tiny(build_ltx, tmp_path / "ltx")), "max_prompt_tokens": 8},
        "clips": {"height": 64, "min_frames": 9},
    }
    ws = catalogued(project(tmp_path, **settings))
    kept = publish_latents(ws, role="clip")
    found = LatentSet(ws, "clip")
    captions = ws.published("clip_catalog").table("catalog").set_index("clip_id")["caption"]
    lean = project(tmp_path, engine={"keep_latents": False}, **settings)
    assert publish_latents(lean, role="clip").data_version == kept.data_version
    for clip_id in found.clip_ids:
        expected = model_of(ws).encode_prompt(captions[clip_id])
        assert expected.keys() == {"prompt_embeds", "prompt_attention_mask", "frame_rate"}
        assert float(expected["frame_rate"]) == ws.config.clips.fps == 8
        for told in (found.get(clip_id)[1], LatentSet(lean, "clip").get(clip_id)[1]):
            assert told.keys() == expected.keys()
            for name, tensor in expected.items():
                assert told[name].dtype == tensor.dtype
                assert torch.equal(told[name], tensor), name


def test_latents_that_are_not_kept_and_come_out_different_are_refused(ws, tmp_path):
    lean = {"engine": {"keep_latents": False}}
    publish_latents(project(tmp_path, **lean), role="clip")
    found = LatentSet(project(tmp_path, clips={"num_frames": 5, "min_frames": 5}, **lean), "clip")
    with pytest.raises(MotiveError, match=r"keep_latents: false.*Run `motive run`"):
        found.get(found.clip_ids[0])
    gone = LatentSet(project(tmp_path, **lean), "clip")
    (tmp_path / "clips" / "clip_0.txt").write_text("something else")
    catalogued(project(tmp_path, **lean))
    changed = ws.published("clip_catalog").table("catalog").set_index("caption").loc["something else", "clip_id"]
    with pytest.raises(MotiveError, match=changed):
        gone.get(changed)


def test_a_clip_that_cannot_be_read_is_a_reject_with_its_path_and_the_others_go_on(tmp_path):
    write_project(tmp_path)
    short = write_video(tmp_path / "clips" / "short.mp4", moving_square(3, seed=9))
    path = write_video(
        tmp_path / "clips" / "half.mp4", noise(24), container_options={"movflags": "+faststart"}, options={"bf": "0", "g": "4"}
    )
    cut(path, 0.2)
    ws = catalogued(project(tmp_path, clips={"max_reject_share": 0.5}))
    publication = publish_latents(ws, role="clip")
    rejects = publication.rejects()
    assert dict(zip(rejects["path"], rejects["reason"], strict=True)) == {str(short): "too_short", str(path): "truncated_tail"}
    assert set(rejects["stage"]) == {"latents"}
    assert len(LatentSet(ws, "clip")) == 3
    assert publish_latents(ws, role="clip").counts.computed == 0, "a rejected clip is not tried again"
    assert publish_rejected(ws).facts["rejected"] == 2


def test_too_many_rejects_and_no_query_left_stop_the_stage(tmp_path):
    write_project(tmp_path)
    write_video(tmp_path / "clips" / "short.mp4", moving_square(3, seed=9))
    ws = catalogued(project(tmp_path, clips={"max_reject_share": 0.2}))
    with pytest.raises(GateFailed, match=r"latents: 1 of 4 clips rejected \(too_short: 1\).*clips\.max_reject_share"):
        publish_latents(ws, role="clip")
    for number in range(2):
        write_video(tmp_path / "queries" / "slide" / f"query_{number}.mp4", moving_square(3, seed=70 + number))
    ws = catalogued(project(tmp_path))
    with pytest.raises(GateFailed, match=r"query_latents: no query clip is left.*too_short"):
        publish_latents(ws, role="query")
    assert not ws.has_published("query_latents")


def test_latents_that_are_not_finite_are_a_reject(ws, monkeypatch):
    model = model_of(ws)
    real = model.encode_prompt

    def broken(prompt):
        return {name: tensor * (torch.nan if "kind 0" in prompt else 1) for name, tensor in real(prompt).items()}

    monkeypatch.setattr(model, "encode_prompt", broken)
    publication = publish_latents(project(ws.root.parent, clips={"max_reject_share": 0.5}), role="clip")
    assert publication.rejects()["reason"].tolist() == ["non_finite_latents"]


def test_a_clip_that_runs_out_of_memory_is_a_reject_that_is_tried_again(ws, monkeypatch):
    generous = project(ws.root.parent, clips={"max_reject_share": 0.5})
    model = model_of(ws)
    real = model.encode_prompt

    def exhausted(prompt):
        if "kind 0" in prompt:
            raise torch.OutOfMemoryError("no memory left")
        return real(prompt)

    monkeypatch.setattr(model, "encode_prompt", exhausted)
    assert publish_latents(generous, role="clip").rejects()["reason"].tolist() == ["out_of_memory"]
    monkeypatch.undo()
    again = publish_latents(generous, role="clip")
    assert (again.counts.computed, again.counts.reused, again.counts.rejected) == (1, 2, 0)


def test_a_file_that_changed_since_it_was_catalogued_does_not_pass_under_its_old_id(ws, tmp_path):
    write_video(tmp_path / "clips" / "clip_1.mp4", moving_square(seed=60))
    publication = publish_latents(project(tmp_path, clips={"max_reject_share": 0.5}), role="clip")
    assert publication.rejects()["reason"].tolist() == ["changed_since_catalog"]


def test_reading_before_anything_is_published_and_after_rows_were_lost_says_what_to_do(ws):
    with pytest.raises(NotPublished, match="motive run"):
        LatentSet(ws, "clip")
    publish_latents(ws, role="clip")
    shutil.rmtree(ws.root / "rows" / "latents")
    with pytest.raises(NotPublished, match=r"latents: its published folder .* is missing or not whole"):
        LatentSet(ws, "clip")


def test_only_zero_rows_are_trimmed_and_only_in_whole_blocks():
    prompt = np.zeros((96, 3), dtype=np.float32)
    assert len(trimmed(prompt)) == PROMPT_BLOCK
    prompt[PROMPT_BLOCK - 1, 2] = -1
    assert len(trimmed(prompt)) == PROMPT_BLOCK
    prompt[PROMPT_BLOCK, 0] = 1e-30
    assert len(trimmed(prompt)) == 2 * PROMPT_BLOCK
    assert len(trimmed(np.ones((40, 3), dtype=np.float32))) == 40


def test_a_caption_that_several_clips_have_is_encoded_once(ws, tmp_path, monkeypatch):
    for number in range(2):
        (tmp_path / "clips" / f"clip_{number}.txt").write_text("the same words")
    ws = catalogued(project(tmp_path))
    model, asked = model_of(ws), []
    real = model.encode_prompt
    monkeypatch.setattr(model, "encode_prompt", lambda prompt: (asked.append(prompt), real(prompt))[1])
    publish_latents(ws, role="clip")
    assert sorted(asked) == sorted(set(ws.published("clip_catalog").table("catalog")["caption"]))
    found = LatentSet(ws, "clip")
    catalog = ws.published("clip_catalog").table("catalog").set_index("clip_id")["caption"]
    for clip_id in found.clip_ids:
        assert torch.equal(found.get(clip_id)[1]["prompt_embeds"], real(catalog[clip_id])["prompt_embeds"]), (
            "every clip has its own caption's embedding"
        )


def test_encoders_are_released_when_the_latents_are_done(ws, monkeypatch):
    model, released = model_of(ws), []
    monkeypatch.setattr(model, "release_encoders", lambda: released.append(True))
    publish_latents(ws, role="clip")
    assert released


def test_an_embedding_is_kept_until_its_last_clip():
    asked = []

    def encode(caption):
        asked.append(caption)
        return {"prompt_embeds": torch.full((2, 3), float(len(caption)))}

    prompts = DistinctPrompts(["a", "bb", "a", "a"])
    for caption in ("a", "bb", "a", "a", "a"):
        assert prompts(caption, encode)["prompt_embeds"][0, 0] == len(caption)
    assert asked == ["a", "bb", "a"], "the fifth clip was not announced"
    assert not prompts._kept


def test_a_device_that_is_too_small_stops_the_stage_before_the_model_is_loaded(ws, monkeypatch):
    monkeypatch.setattr("motive_pipeline.models.memory_limit.device_memory", lambda name: (0.01, "this GPU", True))
    monkeypatch.setattr("motive_pipeline.latents.stage.load_model", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(GateFailed, match=r"latents: needs about 1\.\d GB, this GPU has 0\.0 GB: use a smaller clips\.width"):
        publish_latents(ws, role="clip")
    assert not ws.has_published("latents")
