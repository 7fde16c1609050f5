"""The demo data: same settings, same bytes; captions that keep the motion to themselves; a truth that is true."""

import hashlib
import re
from dataclasses import replace

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from motive_pipeline.config import parse_config
from motive_pipeline.demo import dataset
from motive_pipeline.demo import generator as demo
from motive_pipeline.demo.folder import demo_folder
from motive_pipeline.evaluation.ground_truth import load_truth
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.encode import write_mp4

MOTION_WORDS = set(demo.MOTIONS) | {
    *("moving", "moves", "motion", "rising", "falling", "fast", "slow", "still", "growing", "shrinking", "bouncing", "swaying", "drifting"),
    *("camera", "rightward", "leftward", "upward", "downward", "bigger", "smaller", "panning"),
}


def specs_of(number, **given):
    """Of all shapes and textures, not only those that the demo draws."""
    rng = np.random.default_rng(7)
    return [demo.sample_spec(rng, shapes=demo.SHAPES, textures=demo.TEXTURES, **given) for _ in range(number)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "plain"
    return dataset.write_demo(folder, seed=3, split="plain", num_clips=45, num_queries=4, num_held_out=4, query_motion="grow")


def rows_of(folder):
    return pq.read_table(folder / "truth.parquet").to_pylist()


@pytest.mark.parametrize("motion", demo.MOTIONS)
def test_a_clip_is_a_pure_function_of_its_spec(motion):
    spec = specs_of(1, motion=motion)[0]
    frames = demo.render_clip(spec)
    assert frames.shape == (17, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, demo.render_clip(spec))


def test_captions_name_the_appearance_and_never_the_motion():
    for spec in specs_of(300):
        words = set(re.findall(r"[a-z]+", demo.caption(spec)))
        assert not words & MOTION_WORDS
        assert {spec.shape, spec.texture, spec.colour, spec.size, spec.background_colour, spec.background_pattern} <= words


def test_captions_are_statistically_independent_of_the_motion():
    """Chi-squared over motion x attribute: 9 classes and k values have 8 (k - 1) degrees of freedom; 5 standard deviations allowed."""
    settings = {"seed": 1, "split": "plain", "num_clips": 1800, "num_queries": 0, "num_held_out": 0, "query_motion": "grow"}
    specs = [spec for _, spec in dataset.demo_specs(**settings)]
    for attribute in ("colour", "size", "background_colour", "background_pattern"):
        values = sorted({getattr(spec, attribute) for spec in specs})
        table = np.zeros((len(demo.MOTIONS), len(values)))
        for spec in specs:
            table[demo.MOTIONS.index(spec.motion), values.index(getattr(spec, attribute))] += 1
        expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        chi2 = ((table - expected) ** 2 / expected).sum()
        assert chi2 < freedom + 5 * np.sqrt(2 * freedom), f"{attribute} depends on the motion"


def test_speeds_straddle_the_dynamic_degree_threshold():
    speeds = np.array([spec.speed_px for spec in specs_of(400) if spec.motion not in ("static", "grow", "shrink")])
    assert 0.3 < (speeds > 0.75).mean() < 0.7


@pytest.mark.parametrize("motion", demo.MOTIONS)
def test_the_shape_stays_in_the_picture(motion):
    for spec in specs_of(20, motion=motion):
        object_FHW = demo.render_truth(spec).object_FHW
        assert object_FHW.sum((1, 2)).min() > 30
        border = np.concatenate([object_FHW[:, 0], object_FHW[:, -1], object_FHW[:, :, 0], object_FHW[:, :, -1]])
        assert not border.any()


@pytest.mark.parametrize("motion", demo.MOTIONS)
def test_true_displacement_carries_each_pixel_back_to_its_colour(motion):
    """Sampling the previous frame at the displaced place gives this frame, away from edges: what a wrong sign or frame would break."""
    spec = specs_of(1, motion=motion)[0]
    frames, truth = demo.render_clip(spec).astype(np.float32), demo.render_truth(spec)
    y, x = np.mgrid[:64, :64].astype(np.float32)
    for frame in range(17):
        before = frames[frame - 1 if frame else 1]
        dx, dy = truth.displacement_FHW2[frame, ..., 0], truth.displacement_FHW2[frame, ..., 1]
        warped = cv2.remap(before, x + dx, y + dy, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        edge = cv2.dilate(truth.object_FHW[frame].astype(np.uint8), np.ones((7, 7))) != cv2.erode(
            truth.object_FHW[frame].astype(np.uint8), np.ones((7, 7))
        )
        edge[:4], edge[-4:], edge[:, :4], edge[:, -4:] = True, True, True, True
        error = np.abs(warped - frames[frame]).max(-1)[~edge]
        assert error.max() < 6, f"frame {frame} of a {motion}: off by {error.max():.1f} grey levels"
        assert error.mean() < 1


@pytest.mark.parametrize("motion", ["right", "up", "grow", "shrink", "pan"])
def test_true_displacement_agrees_with_dis(motion):
    tracker = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for spec in specs_of(4, motion=motion):
        truth = demo.render_truth(spec)
        grey = [
            cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) for f in demo.render_clip(spec)
        ]
        flow = cv2.resize(tracker.calc(grey[8], grey[7], None), (64, 64), interpolation=cv2.INTER_AREA) / 4
        inside = cv2.erode(truth.object_FHW[8].astype(np.uint8), np.ones((5, 5))).astype(bool)
        error_px = np.linalg.norm(flow - truth.displacement_FHW2[8], axis=-1)[inside]
        assert np.median(error_px) < 0.2, demo.caption(spec)


def test_a_whole_data_set_is_written_and_described(plain):
    rows = rows_of(plain)
    assert {role: sum(row["role"] == role for row in rows) for role in dataset.ROLE_FOLDERS} == {"clip": 45, "query": 4, "held_out": 4}
    for row in rows:
        path = plain / row["file"]
        assert row["clip_id"] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        assert path.with_suffix(".txt").read_text().strip() == row["caption"]
        assert not any(motion in path.name for motion in demo.MOTIONS)
    with av.open(str(plain / rows[0]["file"])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 16)
        assert len(list(container.decode(stream))) == 17
    assert {path.name for path in plain.iterdir()} == {"clips", "queries", "held_out", "truth.parquet", "settings.json"}
    assert not [path for path in plain.parent.iterdir() if path.name.startswith(".plain")]


def test_equal_settings_give_equal_bytes_and_other_seeds_other_films(plain, tmp_path):
    settings = {"split": "plain", "num_clips": 45, "num_queries": 4, "num_held_out": 4, "query_motion": "grow"}
    ids = {row["file"]: row["clip_id"] for row in rows_of(plain)}
    again = {row["file"]: row["clip_id"] for row in rows_of(dataset.write_demo(tmp_path / "again", seed=3, **settings))}
    other = {row["file"]: row["clip_id"] for row in rows_of(dataset.write_demo(tmp_path / "other", seed=4, **settings))}
    assert ids == again
    assert not set(ids.values()) & set(other.values())


def test_what_is_there_is_left_alone_and_never_overwritten(plain, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in plain.rglob("*")}
    settings = {"seed": 3, "split": "plain", "num_clips": 45, "num_queries": 4, "num_held_out": 4, "query_motion": "grow"}
    dataset.write_demo(plain, **settings)
    with pytest.raises(FileExistsError, match="seed is 3, asked for 4"):
        dataset.write_demo(plain, **settings | {"seed": 4})
    assert before == {path: path.stat().st_mtime_ns for path in plain.rglob("*")}
    (tmp_path / "mine.mp4").write_bytes(b"")
    with pytest.raises(FileExistsError, match="no demo data"):
        dataset.write_demo(tmp_path, **settings)


def test_queries_and_held_out_queries_share_no_film_with_each_other_or_the_pool(plain):
    ids = [row["clip_id"] for row in rows_of(plain)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("split", ["plain", "confound"])
def test_the_pool_has_every_motion_equally_often(split):
    specs = list(dataset.demo_specs(seed=0, split=split, num_clips=100, num_queries=6, num_held_out=5, query_motion="up"))
    pool = [spec.motion for role, spec in specs if role == "clip"]
    assert {motion: pool.count(motion) for motion in demo.MOTIONS} == dict.fromkeys(demo.MOTIONS, 10)
    assert [(role, spec.motion) for role, spec in specs[100:]] == [("query", "up")] * 6 + [("held_out", "up")] * 5


@pytest.mark.parametrize("query_motion", demo.MOTIONS)
def test_confound_ties_the_background_in_the_pool_and_gives_queries_the_lure(query_motion):
    specs = list(dataset.demo_specs(seed=0, split="confound", num_clips=900, num_queries=8, num_held_out=8, query_motion=query_motion))
    pool = [spec for role, spec in specs if role == "clip"]
    tied = np.mean([spec.background_colour == dataset.tied_colour(spec.motion) for spec in pool])
    assert 0.85 - 0.03 < tied < 0.90 + 0.03
    lure = dataset.lure_motion(query_motion)
    assert lure != query_motion
    assert {spec.background_colour for role, spec in specs if role != "clip"} == {dataset.tied_colour(lure)}
    moving = [motion for motion in demo.MOTIONS if motion not in ("static", "pan")]
    assert len({dataset.tied_colour(motion) for motion in moving} | {dataset.tied_colour("pan")}) == len(moving) + 1
    assert dataset.tied_colour("static") == dataset.tied_colour("pan")
    assert all(spec.is_off_shade for _, spec in specs)


def test_the_spoiled_pool_has_right_motion_that_is_spoiled_and_other_motion_that_is_akin():
    specs = list(dataset.demo_specs(seed=3, split="spoiled", num_clips=100, num_queries=4, num_held_out=4, query_motion="sway"))
    pool, queries = ([spec for role, spec in specs if (role == "clip") == is_pool] for is_pool in (True, False))
    (background,) = {spec.background_colour for spec in queries}
    wanted = [spec for spec in pool if spec.motion == "sway"]
    assert sum(spec.flaw is None for spec in wanted) == 10
    flaws = [spec.flaw for spec in wanted if spec.flaw]
    assert len(flaws) == 10
    assert {flaws.count(flaw) for flaw in demo.FLAWS} == {2, 3}
    akin = [spec for spec in pool if spec.background_colour == background]
    assert len(akin) == 10
    assert all(spec.motion != "sway" and spec.flaw is None for spec in akin)
    assert all(spec.flaw is None for spec in queries)
    assert all(spec.flaw is None for spec in pool if spec.motion != "sway")
    assert {spec.motion for spec in pool} == set(demo.MOTIONS)


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_the_truth_says_which_clips_lure_a_method(tmp_path, split):
    demo_settings = f"{{split: {split}, num_clips: 20, seed: 3}}"
    text = f"clips: {{source: demo, demo: {demo_settings}}}\nqueries: {{source: demo, demo: {{num_queries: 1, num_held_out: 1}}}}\n"
    ws = Workspace(parse_config(text, tmp_path / "motive.yaml"))
    truth = load_truth(ws)
    rows = {row["clip_id"]: row for row in rows_of(demo_folder(ws)) if row["role"] == "clip"}
    (background,) = {row["background_colour"] for row in rows_of(demo_folder(ws)) if row["role"] == "query"}
    lures = {
        "plain": set(),
        "confound": {name for name, row in rows.items() if row["background_colour"] == background and row["motion"] != "sway"},
        "spoiled": {name for name, row in rows.items() if row["flaw"] is not None},
    }[split]
    assert truth is not None
    assert truth.motion.to_dict() == {name: row["motion"] for name, row in rows.items()}
    assert bool(truth.lure) == (split != "plain")
    assert (set() if truth.is_lure is None else set(truth.is_lure[truth.is_lure].index)) == lures
    assert bool(lures) == (split != "plain")


def test_each_flaw_spoils_what_it_says_and_nothing_else():
    clean = demo.sample_spec(np.random.default_rng(1), motion="sway")
    frames = demo.render_clip(clean).astype(float)
    spoiled = {flaw: replace(clean, flaw=flaw) for flaw in demo.FLAWS}
    film = {flaw: demo.render_clip(spec).astype(float) for flaw, spec in spoiled.items()}
    flicker = film["flicker"].mean(axis=(1, 2, 3)) / frames.mean(axis=(1, 2, 3))
    assert np.all(flicker[::2] > 1.2)
    assert np.all(flicker[1::2] < 0.8)
    held = np.array([np.array_equal(film["jumps"][frame], film["jumps"][frame - 1]) for frame in range(1, demo.NUM_FRAMES)])
    assert held.reshape(-1, 4).tolist() == [[True, True, True, False]] * 4
    assert np.array_equal(film["jumps"][::4], frames[::4])
    assert np.array_equal(film["hurried"][[0, -1]], frames[[0, -1]])
    changes = np.abs(np.diff(film["hurried"], axis=0)).sum() / np.abs(np.diff(frames, axis=0)).sum()
    assert 2 < changes < 3.5, "three times as fast"
    assert np.array_equal(film["wrong_caption"], frames)
    right, wrong = demo.caption(clean), demo.caption(spoiled["wrong_caption"])
    assert {demo.caption(spec) for flaw, spec in spoiled.items() if flaw != "wrong_caption"} == {right}
    for word in (clean.size, clean.colour, clean.background_colour, clean.background_pattern):
        assert word in right
        assert word not in wrong
    with pytest.raises(ValueError, match="flaw must be one of flicker"):
        replace(clean, flaw="blur")


def test_bad_settings_say_what_is_allowed():
    with pytest.raises(ValueError, match="split must be one of plain, confound, spoiled, not 'tied'"):
        list(dataset.demo_specs(seed=0, split="tied", num_clips=1, num_queries=1, num_held_out=1, query_motion="up"))
    with pytest.raises(ValueError, match="query_motion must be one of"):
        list(dataset.demo_specs(seed=0, split="plain", num_clips=1, num_queries=1, num_held_out=1, query_motion="spin"))


def test_mp4_keeps_the_colours_and_refuses_what_it_cannot_write(tmp_path):
    frames = demo.render_clip(specs_of(1, background_colour="grey")[0])
    write_mp4(tmp_path / "a.mp4", frames, 16)
    with av.open(str(tmp_path / "a.mp4")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    error = np.abs(decoded.astype(int) - frames)
    assert error.mean() < 4  # yuv420p halves the colour's resolution
    assert np.abs((decoded.astype(float) - frames).mean((0, 1, 2))).max() < 2, "a colour cast: wrong matrix or range"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    with pytest.raises(ValueError, match="even height and width"):
        write_mp4(tmp_path / "b.mp4", frames[:, :63], 16)
    with pytest.raises(ValueError, match="uint8"):
        write_mp4(tmp_path / "b.mp4", frames.astype(np.float32), 16)


def test_equal_frames_give_equal_bytes_every_time(tmp_path):
    for spec in specs_of(6):
        frames, found = demo.render_clip(spec), set()
        for _ in range(4):
            write_mp4(tmp_path / "a.mp4", frames, 16)
            found.add((tmp_path / "a.mp4").read_bytes())
        assert len(found) == 1


def test_an_off_shade_background_is_a_little_another_colour_and_the_caption_does_not_tell():
    known = specs_of(1, motion="static", background_colour="teal")[0]
    off = replace(known, is_off_shade=True)
    assert demo.caption(off) == demo.caption(known)
    np.testing.assert_allclose(off.background_rgb - known.background_rgb, [8.5, -8.5, 0], atol=1e-4)
    truth = demo.render_truth(known)
    outside = ~truth.object_FHW.any(0)
    difference = (demo.render_clip(off).astype(float) - demo.render_clip(known))[:, outside].mean((0, 1))
    np.testing.assert_allclose(difference, [8.5, -8.5, 0], atol=1.0)
