"""``motive export``: every trainer's own rule of reading, stated here again, finds every clip of the subset with its caption and its frames."""

import csv
import errno
import json
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import yaml

from motive_pipeline.catalog.stage import publish_clip_catalog
from motive_pipeline.config import load_config
from motive_pipeline.errors import MotiveError, NotPublished
from motive_pipeline.export import subset as export_module
from motive_pipeline.export import trainers
from motive_pipeline.export import videos as videos_module
from motive_pipeline.export.subset import export_subset
from motive_pipeline.export.trainers import TRAINERS
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.publication import WARNING
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.audio import has_sound, read_sound
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.probe import probe
from tests.clip_fixtures import clicks_in, moving_square, noise, project, write_film_with_sound, write_video
from tests.curation_fixtures import publish_gradients, publish_table

CAPTIONS = ("a red ball", 'it\'s "so", <b>bold</b>; 🏀 größer\u2028zweite\nZeile', "None", "")
WANTED = ("a red ball", 'it\'s "so", <b>bold</b>; 🏀 größer zweite Zeile', "None", "")
CLIPS = {"num_frames": 9, "min_frames": 5, "fps": 16, "width": 64, "height": 48, "path": "clips"}


def write_clips(folder: Path) -> None:
    """An ordinary film, one on its side at twice the rate, one in another container, and a short one without a caption."""
    write_video(folder / "-a b's.mp4", moving_square(9, seed=1), fps=16)
    write_video(folder / "deep" / "side.mp4", moving_square(24, step_px=1, seed=2), fps=32, rotation=90)
    write_video(folder / "drei.drei.mkv", moving_square(9, seed=3), fps=16)
    write_video(folder / "short.mp4", moving_square(6, seed=4), fps=16)
    for stem, caption in zip(("-a b's", "deep/side", "drei.drei"), CAPTIONS, strict=False):
        (folder / f"{stem}.txt").write_text(caption, encoding="utf-8")


def workspace(folder: Path, **clips) -> Workspace:
    return project(folder, clips=CLIPS | clips)


def publish(ws: Workspace, arm: str = "motive") -> list[str]:
    """Catalog, scores and the subset of all clips, as the stages publish them; the clips in the subset's order."""
    catalog = publish_clip_catalog(ws).table("catalog")
    order = {caption: number for number, caption in enumerate(WANTED)}
    ids = sorted(catalog["clip_id"], key=lambda clip_id: order[catalog.set_index("clip_id").at[clip_id, "caption"]])
    publish_table(ws, "latents", "index", {"clip_id": ids})
    publish_table(ws, "motion_masks", "index", {"clip_id": ids, "motion_magnitude_px": [1.5] * len(ids)})
    for variant in ws.config.variants:
        columns = {"clip_id": ids, "votes": [3] * len(ids), "mean_influence": [0.5] * len(ids), "rank": range(1, len(ids) + 1)}
        publish_table(ws, f"voted_ranking/{variant}", "ranking", columns | {"selected": [True] * len(ids)})
        gradient_NP = np.eye(512, dtype=np.float32)[[ids.index(clip_id) for clip_id in sorted(ids)]]
        publish_gradients(ws, f"projected_gradients/{variant}", sorted(ids), gradient_NP)
    publish_table(ws, f"curated_subset/{arm}", "subset", {"clip_id": ids, "rank": range(1, len(ids) + 1)})
    return ids


@pytest.fixture
def ws(tmp_path) -> Workspace:
    write_clips(tmp_path / "clips")
    ws = workspace(tmp_path)
    publish(ws)
    return ws


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory) -> Workspace:
    """The same for tests that change nothing in it."""
    folder = tmp_path_factory.mktemp("unchanged")
    write_clips(folder / "clips")
    ws = workspace(folder)
    publish(ws)
    return ws


# ---- the trainers' rules: a folder -> what would be trained on, video by caption


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]


def ascii_json(file: Path):
    return json.loads(file.read_text(encoding="ascii"))


def pairs(folder: Path, ending: str = ".txt") -> dict[Path, str]:
    assert {file.suffix for file in folder.iterdir()} == {".mp4", ending}
    return {video: video.with_suffix(ending).read_text(encoding="utf-8") for video in folder.glob("*.mp4")}


def one_line(captions: dict[Path, str]) -> dict[Path, str]:
    assert all(len(text.splitlines()) <= 1 and text.endswith("\n") for text in captions.values())
    return {video: text.strip() for video, text in captions.items()}


def read_diffsynth(home: Path) -> dict[Path, str]:
    return {home / row["video"]: row["prompt"] for row in lines(home / "metadata.jsonl")}


def read_diffusion_pipe(home: Path) -> dict[Path, str]:
    """``glob('*')``, whatever has no known ending is a picture; frames after resampling to 16 a second must fill a bucket."""
    settings = tomllib.loads((home / "dataset.toml").read_text())
    assert settings["resolutions"] == [[64, 48]]
    (directory,) = settings["directory"]
    captions = ascii_json(Path(directory["path"]) / "captions.json")
    assert all(isinstance(texts, list) for texts in captions.values())
    media = [file for file in Path(directory["path"]).glob("*") if file.suffix not in (".txt", ".json", ".parquet", ".npz", ".bak", ".db")]
    assert {int(probe(file).num_frames * 16 / probe(file).fps) for file in media} == set(settings["frame_buckets"]) == {5, 9}
    return {file: captions[file.name][0] for file in media}


def read_musubi(home: Path) -> dict[Path, str]:
    """``head`` takes every target length that a clip has room for."""
    settings = tomllib.loads((home / "dataset.toml").read_text())
    assert settings["general"]["resolution"] == [64, 48]
    items = []
    for dataset in settings["datasets"]:
        assert isinstance(dataset["source_fps"], float)
        for row in lines(Path(dataset["video_jsonl_file"])):
            room = probe(Path(row["video_path"])).num_frames
            items += [(Path(row["video_path"]), row["caption"], target) for target in dataset["target_frames"] if target <= room]
    assert sorted(target for _, _, target in items) == [5, 9, 9, 9], "each clip once, whole"
    assert len({dataset["cache_directory"] for dataset in settings["datasets"]}) == len(settings["datasets"])
    return {video: caption for video, caption, _ in items}


def read_finetrainers(home: Path) -> dict[Path, str]:
    (dataset,) = ascii_json(home / "training.json")["datasets"]
    assert dataset["dataset_type"] == "video"
    assert dataset["video_resolution_buckets"] == [[5, 48, 64], [9, 48, 64]]
    return one_line(pairs(Path(dataset["data_root"])))


def read_ai_toolkit(home: Path) -> dict[Path, str]:
    (dataset,) = yaml.safe_load((home / "datasets.yaml").read_text())["datasets"]
    assert (dataset["num_frames"], dataset["fps"], dataset["shrink_video_to_frames"]) == (5, 16, False)
    assert dataset["caption_ext"] == "txt"
    return one_line(pairs(Path(dataset["folder_path"])))


def read_simpletuner(home: Path) -> dict[Path, str]:
    videos, texts = ascii_json(home / "multidatabackend.json")
    assert (videos["dataset_type"], videos["caption_strategy"], videos["delete_problematic_images"]) == ("video", "textfile", False)
    assert videos["video"] == {"num_frames": 5, "min_frames": 5}
    assert (texts["dataset_type"], texts["default"]) == ("text_embeds", True)
    return one_line(pairs(Path(videos["instance_data_dir"])))


def read_videox_fun(home: Path) -> dict[Path, str]:
    rows = ascii_json(home / "metadata.json")
    assert all((row["type"], row["width"], row["height"]) == ("video", 64, 48) for row in rows)
    return {home / row["file_path"]: row["text"] for row in rows}


def merged(file: Path) -> dict[Path, str]:
    folder, table = file.read_text().strip().split(",")
    assert all(row["resolution"] == {"width": 64, "height": 48} and row["fps"] == 16 for row in ascii_json(Path(table)))
    return {Path(folder) / row["path"]: row["cap"][0] for row in ascii_json(Path(table))}


def read_fastvideo(home: Path) -> dict[Path, str]:
    assert all(row["duration"] == row["num_frames"] / 16 for row in ascii_json(home / "videos2caption.json"))
    return merged(home / "merge.txt")


def read_open_sora_plan(home: Path) -> dict[Path, str]:
    return merged(home / "merge_data.txt")


def read_nemo(home: Path) -> dict[Path, str]:
    return {video: json.loads(text)["caption"] for video, text in pairs(home / "videos", ".json").items()}


def read_csv(file: Path, path: str, caption: str) -> dict[Path, str]:
    """As :mod:`csv` reads it; pandas, which takes None for nothing, is what the warning is about."""
    with file.open(encoding="utf-8", newline="") as opened:
        return {file.parent / row[path]: row[caption] for row in csv.DictReader(opened)}


def read_open_sora(home: Path) -> dict[Path, str]:
    frame = pd.read_csv(home / "dataset.csv")
    assert frame["num_frames"].tolist() == [9, 9, 9, 5]
    assert set(frame["aspect_ratio"]) == {0.75}
    assert set(frame["resolution"]) == {64 * 48}
    assert list(frame["text"].isna()).count(True) == 2, "pandas cannot read these two"
    return read_csv(home / "dataset.csv", "path", "text")


def read_videotuna(home: Path) -> dict[Path, str]:
    return read_csv(home / "metadata.csv", "path", "caption")


def ltx_buckets(home: Path) -> list[tuple[int, int, int]]:
    """(width, height, frames), as ``--resolution-buckets`` takes them: 8n+1 frames, sides that are multiples of 32."""
    buckets = [tuple(map(int, bucket.split("x"))) for bucket in (home / "buckets.txt").read_text().strip().split(";")]
    assert all(width % 32 == height % 32 == 0 and frames % 8 == 1 for width, height, frames in buckets)
    return buckets


def read_ltx(home: Path) -> dict[Path, str]:
    """A list with the columns ``video`` and ``caption``. Clips lie below the list, and have a name relative to it."""
    rows = ascii_json(home / "dataset.json")
    assert all(set(row) == {"video", "caption"} and not Path(row["video"]).is_absolute() for row in rows)
    assert ltx_buckets(home) == [(64, 32, 9)]
    return {home / row["video"]: row["caption"] for row in rows}


def read_fiftyone(home: Path) -> dict[Path, str]:
    """``FiftyOneDataset`` without a ``metadata.json``: ``samples`` of ``samples.json``, each with ``filepath``, ``tags`` and plain values."""
    assert not (home / "metadata.json").exists()
    samples = ascii_json(home / "samples.json")["samples"]
    assert [sample["rank"] for sample in samples] == [1, 2, 3, 4]
    for sample in samples:
        assert (sample["tags"], sample["votes"], sample["influence"]) == (["motive", "selected_motive", "selected_no_mask"], 3, 0.5)
        assert not {name for name in sample if name.startswith("_") or name in ("id", "media_type", "metadata", "frames")}
    return {home / sample["filepath"]: sample["caption"] for sample in samples}


def read_embedding_atlas(home: Path) -> dict[Path, str]:
    """``pandas.read_parquet``; ``--vector`` needs a column of equally long lists of numbers."""
    table = pd.read_parquet(home / "clips.parquet")
    assert {"id", "path", "source", "caption", "rank", "votes", "influence", "influence_no_mask"} <= set(table)
    assert np.stack(table["gradient"].tolist()).shape == (4, 512)
    assert np.stack(table["gradient"].tolist())[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0], "each clip has its own gradient"
    return dict(zip(map(Path, table["path"]), table["caption"], strict=True))


def read_videofolder(home: Path) -> dict[Path, str]:
    return {home / row["file_name"]: row["caption"] for row in lines(home / "metadata.jsonl")}


def read_webdataset(home: Path) -> dict[Path, str]:
    """Members up to the first dot make a sample; unpacked here so that the videos can be looked at."""
    assert not (home / "videos").exists()
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(home.glob("shard-*.tar")):
        with tarfile.open(shard) as opened:
            for member in opened:
                key, _, ending = member.name.partition(".")
                data = opened.extractfile(member)
                assert data is not None
                samples.setdefault(key, {})[ending] = data.read()
    found = {}
    for key, sample in samples.items():
        assert set(sample) == {"mp4", "txt", "json"}
        assert json.loads(sample["json"])["clip_id"] == key
        video = home.parent / f"unpacked-{key}.mp4"
        video.write_bytes(sample["mp4"])
        found[video] = sample["txt"].decode()
    return found


LISTS = ("fiftyone", "embedding_atlas")
"""What is no source of clips."""

READERS: dict[str, Callable[[Path], dict[Path, str]]] = {
    name.removeprefix("read_"): read
    for name, read in globals().items()
    if name.startswith("read_") and name.removeprefix("read_") in TRAINERS
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_trainer_finds_every_clip_with_its_caption_and_the_frames_that_were_scored(tmp_path, unchanged, trainer):
    home = tmp_path / "out" / "sub set"
    done = export_subset(unchanged, "motive", home, trainer)
    assert (done.num_clips, done.num_written) == (4, 4)
    assert str(home) in done.use
    found = READERS[trainer](home)
    assert sorted(found.values()) == sorted(WANTED)
    rule = FrameRule.of(unchanged.config)
    catalog = unchanged.published("clip_catalog").table("catalog").set_index("caption")
    for video, caption in found.items():
        facts = probe(video)
        assert (facts.num_frames, facts.fps, facts.width, facts.height, facts.flags) == (9 if caption else 5, 16, 64, 48, ())
        scored = read_clip(Path(catalog.at[caption, "path"]), rule).frames_THWC.mean(axis=3)
        written = read_clip(video, rule).frames_THWC.mean(axis=3)
        distance_TT = np.abs(written[:, None] - scored[None]).mean(axis=(2, 3))
        assert distance_TT.argmin(axis=1).tolist() == list(range(facts.num_frames)), "each frame is the one that was scored"
        assert distance_TT.diagonal().max() < 3, "but for what H.264 loses"
    if trainer in LISTS:
        return
    again = publish_clip_catalog(workspace(tmp_path / "again", source=trainer, path=str(home)))
    assert sorted(again.table("catalog")["caption"]) == sorted(WANTED), "and it can be read in again as that source"
    assert again.rejects().empty


# ---- the folder


def test_the_manifest_and_the_scores_say_where_every_video_comes_from(tmp_path, unchanged):
    home = tmp_path / "out"
    export_subset(unchanged, "motive", home, "diffsynth")
    manifest = json.loads((home / "motive" / "MANIFEST.json").read_text(encoding="utf-8"))
    subset = unchanged.published("curated_subset/motive")
    assert (manifest["arm"], manifest["trainer"], manifest["subset"]) == ("motive", "diffsynth", subset.data_version)
    assert manifest["provenance"] == subset.provenance, "of the subset, not of the settings of the day"
    assert [clip["clip_id"] for clip in manifest["clips"]] == subset.table("subset")["clip_id"].tolist()
    for clip in manifest["clips"]:
        assert digest_file(home / "videos" / clip["file"]) == clip["sha256"]
        assert digest_file(Path(clip["source"])).startswith(clip["clip_id"])
    scores = pd.read_csv(home / "motive" / "scores.csv", keep_default_na=False)
    assert scores["rank"].tolist() == [1, 2, 3, 4]
    assert scores["caption"].tolist() == list(WANTED)
    assert scores["votes_motive"].tolist() == [3] * 4
    assert scores["motion_magnitude_px"].tolist() == [1.5] * 4
    assert "the same number of optimizer steps" in (home / "motive" / "README.md").read_text(encoding="utf-8")


def test_original_copies_the_bytes_out_of_archives_too(tmp_path):
    write_clips(tmp_path / "loose")
    (tmp_path / "clips").mkdir()
    with zipfile.ZipFile(tmp_path / "clips" / "all.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted((tmp_path / "loose").rglob("*")):
            if file.is_file():
                packed.write(file, file.relative_to(tmp_path / "loose").as_posix())
    ws = workspace(tmp_path, source="zip")
    ids = publish(ws)
    export_subset(ws, "motive", tmp_path / "out", "videofolder", videos="original")
    found = read_videofolder(tmp_path / "out")
    assert [video.name for video in found] == [
        f"{clip_id}{ending}" for clip_id, ending in zip(ids, (".mp4", ".mp4", ".mkv", ".mp4"), strict=True)
    ]
    kept = {digest_file(file) for file in (tmp_path / "loose").rglob("*") if file.suffix in (".mp4", ".mkv")}
    assert {digest_file(video) for video in found} == kept


def test_the_same_export_again_changes_nothing_and_another_is_refused(tmp_path, ws):
    home = tmp_path / "out"
    export_subset(ws, "motive", home, "musubi")
    before = {file: (file.stat().st_mtime_ns, digest_file(file)) for file in sorted(home.rglob("*")) if file.is_file()}
    again = export_subset(ws, "motive", home, "musubi")
    assert again.num_written == 0
    with pytest.raises(MotiveError, match="holds another export \\(arm motive, for musubi"):
        export_subset(ws, "motive", home, "diffsynth")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(MotiveError, match="is not empty and is not changed"):
        export_subset(ws, "motive", tmp_path / "mine", "diffsynth")
    with pytest.raises(MotiveError, match="is not empty and is not changed"):
        export_subset(ws, "motive", tmp_path / "mine" / "notes.txt", "diffsynth")
    assert {file: (file.stat().st_mtime_ns, digest_file(file)) for file in sorted(home.rglob("*")) if file.is_file()} == before
    (tmp_path / "empty").mkdir()
    assert export_subset(ws, "motive", tmp_path / "empty", "diffsynth").num_written == 4
    assert not list(tmp_path.glob(".*")), "nothing is left beside the folders"
    (tmp_path / "second").mkdir()
    (tmp_path / "link").symlink_to("second")
    assert export_subset(ws, "motive", tmp_path / "link", "diffsynth").folder == tmp_path / "second"


def test_trainers_whose_settings_name_rate_and_lengths_do_not_take_the_clips_own_files(tmp_path, ws):
    refused = [name for name, trainer in TRAINERS.items() if trainer.needs_window]
    assert refused == ["diffusion_pipe", "musubi", "finetrainers", "ai_toolkit", "simpletuner", "ltx"]
    for name in refused:
        with pytest.raises(MotiveError, match="--videos original: the settings for"):
            export_subset(ws, "motive", tmp_path / "out", name, videos="original")


@pytest.mark.parametrize("what", ["vanishes", "changes"])
def test_a_file_that_vanishes_or_changes_while_it_is_copied_is_named(tmp_path, ws, monkeypatch, what):
    source, real = tmp_path / "clips" / "short.mp4", videos_module._copy
    whole = source.read_bytes()

    def copy(file, target):
        if file.path == source and what == "vanishes":
            source.unlink()
        elif file.path == source:
            source.write_bytes(whole + b"more")
        real(file, target)
        if what == "changes":
            source.write_bytes(whole)

    monkeypatch.setattr(videos_module, "_copy", copy)
    with pytest.raises(MotiveError, match=r"1 of 4 clips cannot be exported: .*short.mp4: (the file has gone|its content has changed)"):
        export_subset(ws, "motive", tmp_path / "out", "videofolder", videos="original")
    assert not (tmp_path / "out").exists()
    source.write_bytes(whole)
    monkeypatch.undo()
    export_subset(ws, "motive", tmp_path / "out", "videofolder", videos="original")
    assert digest_file(tmp_path / "out" / "videos" / f"{digest_file(source)[:16]}.mp4") == digest_file(source)


def test_frames_that_were_not_scored_are_refused(tmp_path, ws):
    other = workspace(tmp_path, fps=8, num_frames=5)
    with pytest.raises(MotiveError, match=r"clips.num_frames was 9 and is 5; clips.fps was 16.* and is 8.*Run `motive run`"):
        export_subset(other, "motive", tmp_path / "out", "diffsynth")


def test_hdr_that_was_mapped_for_the_scores_and_would_not_be_now_is_refused_and_the_other_way_round(tmp_path, ws):
    """The policy counts among a stage's settings only while it maps."""
    mapping = workspace(tmp_path, policies={"hdr": "repair"})
    with pytest.raises(MotiveError, match=r"clips.policies.hdr was None and is 'repair'"):
        export_subset(mapping, "motive", tmp_path / "out", "diffsynth")
    publish(mapping)
    with pytest.raises(MotiveError, match=r"clips.policies.hdr was 'repair' and is None"):
        export_subset(ws, "motive", tmp_path / "out", "diffsynth")


def test_an_arm_without_a_ranking_is_exported_and_what_a_killed_export_was_writing_is_not(tmp_path, ws, monkeypatch):
    real = export_module.write_videos

    def killed_before(*arguments):
        (arguments[3] / ".0123.mp4.4711.part").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "write_videos", killed_before)
    shutil.rmtree(ws.root / "published" / "voted_ranking")
    with pytest.raises(KeyboardInterrupt):
        export_subset(ws, "motive", tmp_path / "out", "diffusion_pipe")
    monkeypatch.setattr(export_module, "write_videos", real)
    export_subset(ws, "motive", tmp_path / "out", "diffusion_pipe")
    assert sorted(read_diffusion_pipe(tmp_path / "out").values()) == sorted(WANTED)
    assert "votes_motive" not in (tmp_path / "out" / "motive" / "scores.csv").read_text(encoding="utf-8")


def test_two_exports_to_one_folder_do_not_mix_and_what_is_left_of_another_is_named(tmp_path, ws, monkeypatch):
    held = "import sys, time; from pathlib import Path; from motive_pipeline.storage.lock import FileLock\n"
    held += "FileLock(Path(sys.argv[1]), 'x').acquire(who='motive export'); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", held, str(tmp_path / ".out.export.lock")], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(Locked, match=r"the export to .*out is in use by motive export"):
        export_subset(ws, "motive", tmp_path / "out", "diffsynth")
    other.kill()
    other.wait()
    (tmp_path / ".out.unfinished-0123").mkdir()
    done = export_subset(ws, "motive", tmp_path / "out", "diffsynth")
    assert ".out.unfinished-0123" in done.warnings[-1]


def test_equal_input_gives_equal_bytes(tmp_path, ws, monkeypatch):
    monkeypatch.setattr(trainers, "SHARD_BYTES", 1)
    for name in ("a", "b"):
        export_subset(ws, "motive", tmp_path / name / "out", "webdataset")
    shards = [sorted((tmp_path / name / "out").glob("*.tar")) for name in ("a", "b")]
    assert [len(each) for each in shards] == [4, 4], "one for each clip, so small as they may be here"
    assert [digest_file(shard) for shard in shards[0]] == [digest_file(shard) for shard in shards[1]]


def test_an_export_that_was_stopped_shows_nothing_and_goes_on_where_it_was(tmp_path, ws, monkeypatch):
    home = tmp_path / "out"
    real, calls = videos_module.write_mp4, []

    def stopping(target, frames, fps, sound):
        calls.append(target.name)
        if len(calls) > 2:
            raise KeyboardInterrupt
        real(target, frames, fps, sound=sound)

    monkeypatch.setattr(videos_module, "write_mp4", stopping)
    with pytest.raises(KeyboardInterrupt):
        export_subset(ws, "motive", home, "diffsynth")
    assert not home.exists()
    monkeypatch.setattr(videos_module, "write_mp4", lambda *arguments, **sound: calls.append("more") or real(*arguments, **sound))
    done = export_subset(ws, "motive", home, "diffsynth")
    assert done.num_written == calls.count("more") == 2
    assert sorted(read_diffsynth(home).values()) == sorted(WANTED)
    assert not list(tmp_path.glob(".*"))


def test_a_clip_that_has_changed_or_vanished_stops_the_export_before_it_begins(tmp_path, ws):
    (tmp_path / "clips" / "short.mp4").unlink()
    write_video(tmp_path / "clips" / "drei.drei.mkv", moving_square(9, seed=9), fps=16)
    with pytest.raises(MotiveError) as caught:
        export_subset(ws, "motive", tmp_path / "out", "diffsynth")
    assert "2 of 4 clips cannot be exported" in str(caught.value)
    assert "drei.drei.mkv: its content has changed" in str(caught.value)
    assert "short.mp4: the file has gone" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name and path.name != "root"] == []


def test_a_clip_that_can_no_longer_be_read_is_named(tmp_path, ws, monkeypatch):
    target = tmp_path / "clips" / "short.mp4"
    shutil.copy(target, tmp_path / "kept.mp4")
    monkeypatch.setattr(export_module, "remove_half_written", lambda videos: (videos.mkdir(parents=True), target.write_bytes(b"")))
    with pytest.raises(MotiveError, match=r"1 of 4 clips cannot be exported: .*short.mp4: the file has 0 bytes"):
        export_subset(ws, "motive", tmp_path / "out", "diffsynth")
    assert not (tmp_path / "out").exists()


def test_what_a_trainer_makes_of_captions_and_lengths_is_said(tmp_path, ws):
    said = " ".join(export_subset(ws, "motive", tmp_path / "a", "open_sora").warnings)
    assert "1 of 4 clips have no caption: pandas reads them as nan" in said
    assert "reads as missing (None)" in said
    assert "at the comma" in " ".join(export_subset(ws, "motive", tmp_path / "a,b", "fastvideo").warnings)
    said = " ".join(export_subset(ws, "motive", tmp_path / "b", "simpletuner").warnings)
    assert "2 different numbers of frames (5, 9)" in said
    assert said in " ".join((tmp_path / "b" / "motive" / "README.md").read_text(encoding="utf-8").split("\n- "))
    assert export_subset(ws, "motive", tmp_path / "c", "videofolder").warnings == []


def test_there_must_be_a_subset_and_its_clips_in_the_catalog(tmp_path, ws):
    with pytest.raises(MotiveError, match="is the untrained model"):
        export_subset(ws, "base", tmp_path / "out", "diffsynth")
    with pytest.raises(NotPublished, match="curated_subset/random"):
        export_subset(ws, "random", tmp_path / "out", "diffsynth")
    publish_table(ws, "curated_subset/random", "subset", {"clip_id": ["f" * 16], "rank": [1]})
    with pytest.raises(MotiveError, match="no longer in the catalog"):
        export_subset(ws, "random", tmp_path / "out", "diffsynth")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, ws, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(MotiveError, match=r"file/out: .*file is a file"):
        export_subset(ws, "motive", tmp_path / "file" / "out", "diffsynth")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(videos_module, "write_mp4", full)
    with pytest.raises(MotiveError, match=r"the export to .*out is not finished: no room to write.*Finished videos are in .*unfinished"):
        export_subset(ws, "motive", tmp_path / "out", "diffsynth")
    monkeypatch.undo()
    assert export_subset(ws, "motive", tmp_path / "out", "diffsynth").num_clips == 4


@pytest.mark.slow
def test_the_command_says_how_to_use_it_and_that_the_subset_is_out_of_date(tmp_path, ws):
    settings = {
        "clips": CLIPS,
        "queries": {"path": "clips"},
        "model": {"path": "tiny"},
        "storage": {"root": str(ws.root), "state": str(ws.state)},
    }
    file = tmp_path / "motive.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert Workspace(load_config(file)).published("curated_subset/motive").data_version
    command = [sys.executable, "-m", "motive_pipeline.cli", "export", "--config", str(file), "--arm", "motive", "--to", "sub", "--for"]
    done = subprocess.run([*command, "diffsynth"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"4 clips in {tmp_path}/sub\nUse: --dataset_base_path {tmp_path}/sub" in done.stdout
    assert "curated_subset/motive is out of date (" in done.stderr
    assert "export: 4 of 4" in done.stderr
    wrong = subprocess.run([*command, "diffsinth"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "diffusion_pipe" in wrong.stderr


def test_what_the_audit_found_is_said_also_of_a_finished_export(tmp_path, ws):
    said = "the audit found no ground to choose by influence"
    ws.publish("attribution_audit", content="made up", write=lambda folder: None, started=time.time(), facts={WARNING: said})
    assert [export_subset(ws, "motive", tmp_path / "a", "videofolder").warnings for _ in range(2)] == [[said]] * 2


# ---- sound


@pytest.fixture
def heard(tmp_path) -> Workspace:
    """Three clips: a film with clicks at 0.25 and 0.75 s, the window of another from 1 s on that has its only click at 1.25 s, and one without sound."""
    write_film_with_sound(tmp_path / "clips" / "film.mp4", moving_square(20, step_px=1, seed=1), fps=16, clicks_s=[0.25, 0.75])
    write_film_with_sound(tmp_path / "clips" / "long.mkv", noise(48), fps=16, clicks_s=[1.25])
    write_video(tmp_path / "clips" / "silent.mp4", moving_square(9, seed=3), fps=16)
    rows = ["video,caption,start,end", "film.mp4,a red ball,0,1.25", "long.mkv,None,1,2", "silent.mp4,,0,0.5625"]
    (tmp_path / "clips" / "clips.csv").write_text("\n".join(rows) + "\n")
    ws = workspace(tmp_path, source="csv", num_frames=17)
    publish(ws)
    return ws


def clicks_by_caption(ws: Workspace, home: Path) -> dict[str, list[float] | None]:
    found = {}
    for video, caption in read_videofolder(home).items():
        sound = read_sound(video, Fraction(probe(video).num_frames, 16))
        found[caption] = None if sound is None else clicks_in(sound.samples_CS, sound.rate)
    return found


def test_keep_writes_the_sound_of_the_scored_frames_and_says_how_many_clips_have_none(tmp_path, heard):
    done = export_subset(heard, "motive", tmp_path / "out", "videofolder", audio="keep")
    assert done.warnings == ["1 of 3 clips have no sound."]
    found = clicks_by_caption(heard, tmp_path / "out")
    assert found == {"a red ball": pytest.approx([0.25, 0.75], abs=0.003), "None": pytest.approx([0.25], abs=0.003), "": None}
    for video in read_videofolder(tmp_path / "out"):
        if has_sound(video):
            with av.open(str(video)) as container:
                lengths = {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}
                assert container.streams.audio[0].codec_context.name == "aac"
            assert lengths["audio"] == pytest.approx(lengths["video"], abs=1 / 16), "to within a frame"
    manifest = json.loads((tmp_path / "out" / "motive" / "MANIFEST.json").read_text(encoding="utf-8"))
    assert [clip["has_sound"] for clip in manifest["clips"]] == [True, True, False]
    assert "with the sound of their time" in (tmp_path / "out" / "motive" / "README.md").read_text(encoding="utf-8")


def test_without_keep_there_is_no_sound_and_the_two_are_different_exports(tmp_path, heard):
    assert export_subset(heard, "motive", tmp_path / "out", "videofolder").warnings == []
    assert not any(has_sound(video) for video in read_videofolder(tmp_path / "out"))
    with pytest.raises(MotiveError, match="holds another export"):
        export_subset(heard, "motive", tmp_path / "out", "videofolder", audio="keep")


def test_trainers_of_sound_are_told_what_becomes_of_silent_clips(tmp_path, heard):
    said = " ".join(export_subset(heard, "motive", tmp_path / "a", "simpletuner", audio="keep").warnings)
    assert "1 of 3 clips have no sound: with a model of sound it fails on them, unless audio.allow_zero_audio is true" in said
    (backend, _) = ascii_json(tmp_path / "a" / "multidatabackend.json")
    assert backend["audio"] == {"auto_split": True, "allow_zero_audio": False}
    said = " ".join(export_subset(heard, "motive", tmp_path / "b", "ltx", audio="keep").warnings)
    assert "1 of 3 clips have no sound: it gives them no audio latents" in said
    said = " ".join(export_subset(heard, "motive", tmp_path / "c", "ltx").warnings)
    assert "--skip-audio, or export with --audio keep" in said


def test_ltx_leaves_out_what_does_not_fill_a_bucket_and_that_is_said(tmp_path):
    for number, num_frames in enumerate((21, 17, 5, 9)):
        write_video(tmp_path / "clips" / f"{number}.mp4", moving_square(num_frames, step_px=0.5, seed=number), fps=16)
        (tmp_path / "clips" / f"{number}.txt").write_text(WANTED[number] if number < 3 else "a red ball", encoding="utf-8")
    ws = workspace(tmp_path, num_frames=21)
    publish(ws)
    said = " ".join(export_subset(ws, "motive", tmp_path / "out", "ltx").warnings)
    assert ltx_buckets(tmp_path / "out") == [(64, 32, 17), (64, 32, 9)]
    assert "1 of 4 clips have fewer than 9 frames: it leaves them out" in said
    assert "1 of 4 clips do not have 8n+1 frames" in said
    assert "64 x 48, and it resizes and crops to multiples of 32" in said
    assert "optimization.batch_size must be 1" in said


def test_the_atlas_is_written_some_clips_at_a_time(tmp_path, ws, monkeypatch):
    ids = sorted(ws.published("curated_subset/motive").table("subset")["clip_id"])
    publish_gradients(ws, "projected_gradients/motive", ids, np.eye(512, dtype=np.float32)[: len(ids)])
    export_subset(ws, "motive", tmp_path / "whole", "embedding_atlas")
    monkeypatch.setattr("motive_pipeline.export.lists.ROWS_AT_ONCE", 3)
    export_subset(ws, "motive", tmp_path / "parts", "embedding_atlas")
    whole, parts = (pd.read_parquet(tmp_path / name / "clips.parquet").drop(columns="path") for name in ("whole", "parts"))
    assert len(parts) == 4
    assert [row.tolist() for row in parts.pop("gradient")] == [row.tolist() for row in whole.pop("gradient")]
    assert {row["id"]: ids.index(row["id"]) for _, row in parts.iterrows()} == {
        row["id"]: int(np.argmax(gradient))
        for (_, row), gradient in zip(parts.iterrows(), pd.read_parquet(tmp_path / "parts" / "clips.parquet")["gradient"], strict=True)
    }, "each clip with its own gradient"
    pd.testing.assert_frame_equal(parts, whole)


def test_a_clip_without_a_gradient_leaves_the_atlas_without_vectors_and_that_is_said(tmp_path, ws):
    ids = sorted(ws.published("curated_subset/motive").table("subset")["clip_id"])[1:]
    publish_gradients(ws, "projected_gradients/motive", ids, np.eye(512, dtype=np.float32)[: len(ids)])
    said = " ".join(export_subset(ws, "motive", tmp_path / "out", "embedding_atlas").warnings)
    assert "no column `gradient`" in said
    assert "gradient" not in pd.read_parquet(tmp_path / "out" / "clips.parquet")
