"""``motive init``: settings that the project's own loader reads, for folders as people have them, and refusals that say what to do."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from motive_pipeline import cli
from motive_pipeline.config import Config, load_config
from motive_pipeline.models.folder import TINY
from motive_pipeline.sources.configured import clip_source, query_source
from motive_pipeline.starter import look
from motive_pipeline.starter.layout import recognise
from motive_pipeline.starter.look import frames_at
from motive_pipeline.starter.presets import PRESETS, preset_for
from motive_pipeline.starter.settings import fitting_min_frames
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule, read_clip
from tests.clip_fixtures import moving_square, write_video

REPOSITORY = Path(__file__).parents[2]
COMPARED = ("model", "gradient", "influence", "finetune", "generate")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Videos of 20, 17 and 12 frames at 16 a second, and one that no decoder opens."""
    folder = tmp_path_factory.mktemp("videos")
    for name, num_frames in (("long", 20), ("second", 17), ("short", 12)):
        write_video(folder / f"{name}.mp4", moving_square(num_frames, step_px=1.0), fps=16)
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    return folder


@pytest.fixture
def here(tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with three clips and two queries, all with captions, and four files of held-out queries."""
    monkeypatch.chdir(tmp_path)
    for name in ("clips/a", "clips/b", "clips/c", "queries/spin/q", "queries/spin/r", "held_out/h"):
        put(videos / ("second.mp4" if name.endswith(("q", "r")) else "long.mp4"), tmp_path / f"{name}.mp4", caption=f"a square, {name}")
    for number, clip in enumerate(sorted(tmp_path.glob("*/**/*.mp4"))):
        with clip.open("ab") as file:  # another content, behind the end of the film
            file.write(bytes([number]) * 8)
    return tmp_path


def put(video: Path, at: Path, *, caption: str | None = None) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(video, at)
    if caption is not None:
        at.with_suffix(".txt").write_text(caption, encoding="utf-8")


def init(*arguments: str) -> int:
    return cli.main(["init", *arguments])


def written(name: str = "my.yaml") -> Config:
    return load_config(name)


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The message of a refusal, which leaves no file behind."""
    before = {path for path in Path.cwd().rglob("*") if path.name != "my.yaml"}
    assert init(*arguments) == 1
    assert {path for path in Path.cwd().rglob("*") if path.name != "my.yaml"} == before
    return capsys.readouterr().err


class TestWhatItWrites:
    def test_the_loader_reads_it_and_finds_the_videos(self, here: Path, capsys: pytest.CaptureFixture):
        assert init("clips", "--queries", "queries", "--held-out", "held_out") == 0
        config = written()
        assert config.clips.path == here / "clips"
        assert config.queries.held_out_path == here / "held_out"
        assert config.storage.root == here / "motive_data" / "my"
        assert [entry.relative for entry in clip_source(Workspace(config)).entries()] == ["a.mp4", "b.mp4", "c.mp4"]
        assert [entry.relative for entry in query_source(Workspace(config)).entries()] == ["spin/q.mp4", "spin/r.mp4"]
        out = capsys.readouterr().out
        assert "3 videos in" in out
        assert "categories: spin" in out
        assert "plumbing only" in out
        assert "rank --config my.yaml" in out
        assert "view --config my.yaml" in out
        assert not (here / "motive_data").exists(), "nothing is computed"

    def test_folders_below_the_file_are_relative_and_others_absolute(self, here: Path):
        (here / "project").mkdir()
        assert init("clips", "--queries", str(here / "queries"), "--write", "project/a b.yaml") == 0
        assert yaml.safe_load((here / "project" / "a b.yaml").read_text())["clips"]["path"] == str(here / "clips")
        assert written("project/a b.yaml").queries.path == here / "queries"
        assert init("clips", "--queries", "queries") == 0
        assert yaml.safe_load((here / "my.yaml").read_text())["queries"]["path"] == "queries"

    @pytest.mark.parametrize("name", ["a: b #c", "'quoted'", "ünï çlips", "~home", "{x}", "null"])
    def test_a_folder_of_any_name_is_read_back(self, here: Path, name: str):
        (here / "clips").rename(here / name)
        assert init(f"./{name}", "--queries", "queries") == 0
        assert written().clips.path == here / name

    @pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.config)
    def test_the_settings_of_a_model_are_those_of_configs(self, here: Path, preset):
        assert init("clips", "--queries", "queries", "--model", preset.hub_id) in (0, 1)
        found, meant = written(), load_config(REPOSITORY / "configs" / preset.config)
        for section in COMPARED:
            assert getattr(found, section).model_dump() == getattr(meant, section).model_dump(), section
        assert found.clips.model_copy(update={"path": None, "min_frames": None}) == meant.clips.model_copy(update={"path": None})

    def test_the_keys_that_a_newcomer_changes_are_explained(self, here: Path):
        init("clips", "--queries", "queries")
        lines = (here / "my.yaml").read_text().splitlines()
        for key in ("root", "path", "num_frames", "fps", "width", "share", "camera"):
            assert all("#" in line for line in lines if line.strip().startswith(f"{key}:")), key
        assert any("PLUMBING ONLY" in line for line in lines)


class TestLength:
    @pytest.mark.parametrize(
        ("num_frames", "own_fps", "fps"),
        [(20, 16.0, 16.0), (12, 16.0, 16.0), (31, 30.0, 16.0), (9, 8.0, 16.0), (14, 24.0, 16.0), (2, 30.0, 8.0)],
    )
    def test_a_video_gives_as_many_frames_as_reading_it_does(self, tmp_path: Path, num_frames: int, own_fps: float, fps: float):
        file = write_video(tmp_path / "x.mp4", moving_square(num_frames, step_px=0.5), fps=own_fps)
        rule = FrameRule(num_frames=81, min_frames=1, fps=fps, width=64, height=48, frame_step=1)
        assert frames_at(fps, num_frames=num_frames, own_fps=own_fps) == len(read_clip(file, rule).frames_THWC)

    def test_short_clips_set_min_frames_so_that_they_are_used(self, here: Path, videos: Path, capsys: pytest.CaptureFixture):
        put(videos / "short.mp4", here / "queries" / "short.mp4", caption="short")
        assert init("clips", "--queries", "queries") == 0
        assert written().clips.min_frames == 9, "12 frames hold 4n+1 = 9"
        said = "1 of the videos, queries included, give fewer than 17 frames at 16 a second; clips.min_frames: 9 is set"
        assert f"warn  length    {said}" in capsys.readouterr().out

    def test_the_value_fits_all_queries_and_nearly_all_clips(self):
        tiny = preset_for("tiny")
        assert fitting_min_frames(tiny, [17] * 5, [17]) is None
        assert fitting_min_frames(tiny, [17] * 99 + [9], [17]) is None, "one clip in a hundred is rejected"
        assert fitting_min_frames(tiny, [17] * 80 + [14] * 20, [17]) == 13
        assert fitting_min_frames(tiny, [17] * 80, [11]) == 9
        assert fitting_min_frames(tiny, [4] * 80, [17]) is None, "a single latent frame shows no motion"
        assert fitting_min_frames(preset_for("Lightricks/LTX-Video"), [60] * 9, [97]) == 57, "8n+1"

    def test_what_stays_too_short_fails_for_a_query(self, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
        for number in range(4):  # more good ones, so that it is not the share that counts
            put(here / "queries" / "spin" / "q.mp4", here / "queries" / f"{number}.mp4", caption="x")
        write_video(here / "queries" / "blink.mp4", moving_square(3), fps=16)
        assert init("clips", "--queries", "queries") == 1
        out = capsys.readouterr().out
        assert "fail  queries" in out
        assert "fewer than 17 frames" in out
        assert "Mend what fails" in out


class TestWhatItFinds:
    def test_broken_files_and_missing_captions_are_named(self, here: Path, videos: Path, capsys: pytest.CaptureFixture):
        for number in range(4):
            put(videos / "long.mp4", here / "clips" / f"more{number}.mp4")
        put(videos / "broken.mp4", here / "clips" / "broken.mp4")
        assert init("clips", "--queries", "queries") == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[1] == "clips")
        assert line.startswith("warn")
        assert "8 videos in" in line
        assert "3 with a caption" in line
        assert "1 cannot be used: broken.mp4 (not_a_video" in line

    def test_more_rejects_than_a_run_allows_fail(self, here: Path, videos: Path, capsys: pytest.CaptureFixture):
        for number in range(2):
            put(videos / "broken.mp4", here / "clips" / f"broken{number}.mp4")
        assert init("clips", "--queries", "queries") == 1
        assert "fail  clips     40% cannot be used; clips.max_reject_share stops a run at 25%" in capsys.readouterr().out

    def test_a_broken_query_fails(self, here: Path, videos: Path, capsys: pytest.CaptureFixture):
        put(videos / "broken.mp4", here / "queries" / "broken.mp4")
        assert init("clips", "--queries", "queries") == 1
        assert "fail  queries   every query must be usable" in capsys.readouterr().out
        assert written().queries.path == here / "queries", "the file is there, to go on with"

    def test_a_query_that_is_also_a_clip_is_named(self, here: Path, capsys: pytest.CaptureFixture):
        put(here / "clips" / "b.mp4", here / "queries" / "same.mp4", caption="x")
        assert init("clips", "--queries", "queries") == 0
        assert "also among the clips: same.mp4" in capsys.readouterr().out

    def test_a_query_of_a_clip_s_size_is_another_video(self, here: Path, capsys: pytest.CaptureFixture):
        content = (here / "clips" / "b.mp4").read_bytes()
        (here / "queries" / "other.mp4").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert init("clips", "--queries", "queries") == 0
        assert "also among the clips" not in capsys.readouterr().out

    def test_of_many_videos_evenly_spread_ones_are_opened(self, here: Path, videos: Path, capsys: pytest.CaptureFixture, monkeypatch):
        monkeypatch.setattr(look, "MOST_OPENED", 2)
        put(videos / "broken.mp4", here / "clips" / "z.mp4")
        assert init("clips", "--queries", "queries") == 1, "half of what was opened is broken"
        out = capsys.readouterr().out
        assert "4 videos in" in out
        assert "2 of them opened" in out
        assert "fail  clips     50% cannot be used" in out

    def test_queries_without_captions_are_a_warning(self, here: Path, capsys: pytest.CaptureFixture):
        (here / "queries" / "spin" / "q.txt").unlink()
        assert init("clips", "--queries", "queries") == 0
        assert "1 have no caption" in capsys.readouterr().out


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("nowhere", "--queries", "queries"), "clips.path|FOLDER = .*nowhere: there is no such folder"),
            (("clips/a.mp4", "--queries", "queries"), "FOLDER = .*a.mp4: this is a file"),
            (("clips", "--queries", "clips"), "--queries and FOLDER are the same folder|FOLDER and --queries are the same folder"),
            (("clips", "--queries", "queries", "--held-out", "queries"), "are the same folder"),
            ((".", "--queries", "queries"), "--queries .*queries lies inside FOLDER"),
            (("queries/spin", "--queries", "queries"), "FOLDER .*spin lies inside --queries"),
            (("s3://bucket/clips", "--queries", "queries"), "looks into folders on this machine.*object_storage"),
            (("clips", "--queries", "queries", "--model", "nobody/nothing"), "no settings are known for this model. Known: tiny, Wan-AI"),
            (("clips", "--queries", "queries", "--model", "./none"), "there is no such folder"),
            (("clips", "--queries", "queries", "--config", "x.yaml"), "name the new file with --write x.yaml"),
        ],
    )
    def test_each_says_what_to_do(self, here: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], says: str):
        assert re.search(says, refused(capsys, *arguments))
        assert not (here / "my.yaml").exists()

    def test_an_empty_folder_and_one_without_videos(self, here: Path, capsys: pytest.CaptureFixture):
        (here / "empty").mkdir()
        assert "the folder is empty. Put your videos there" in refused(capsys, "empty", "--queries", "queries")
        (here / "empty" / "a.png").write_bytes(b"")
        assert "no videos were found among 1 files (.png)" in refused(capsys, "empty", "--queries", "queries")

    def test_a_folder_whose_videos_are_all_broken(self, here: Path, videos: Path, capsys: pytest.CaptureFixture):
        put(videos / "broken.mp4", here / "bad" / "x.mp4")
        assert "--queries" in (said := refused(capsys, "clips", "--queries", "bad"))
        assert "none of its videos can be used" in said
        assert "not_a_video" in said

    @pytest.mark.parametrize("link", [False, True])
    def test_a_file_that_exists_is_left_as_it_is(self, here: Path, capsys: pytest.CaptureFixture, link: bool):
        if link:
            (here / "my.yaml").symlink_to(here / "elsewhere.yaml")
        else:
            (here / "my.yaml").write_text("mine")
        assert "exists, and nothing is overwritten" in refused(capsys, "clips", "--queries", "queries")
        assert link or (here / "my.yaml").read_text() == "mine"
        assert not (here / "elsewhere.yaml").exists()

    def test_a_root_among_the_clips(self, here: Path, capsys: pytest.CaptureFixture):
        assert "lies inside clips.path" in refused(capsys, "clips", "--queries", "queries", "--write", "clips/my.yaml")


class TestLayouts:
    """Folders of other layouts are recognised, and their source lists the videos."""

    @pytest.mark.parametrize(
        ("file", "text", "source"),
        [
            ("metadata.csv", "file_name,caption\na.mp4,one\n", "videofolder"),
            ("metadata.csv", "video,prompt\na.mp4,one\n", "diffsynth"),
            ("metadata.json", json.dumps([{"file_path": "a.mp4", "text": "one", "type": "video"}]), "videox_fun"),
            ("list.jsonl", json.dumps({"video_path": "a.mp4", "caption": "one"}), "musubi"),
            ("captions.json", json.dumps({"a.mp4": ["one"]}), "diffusion_pipe"),
            ("videos2caption.json", json.dumps([{"path": "a.mp4", "cap": "one"}]), "fastvideo"),
            ("prompts.txt", "one\n", "finetrainers"),
            ("my list.csv", "path,caption\na.mp4,one\n", "csv"),
            ("notes.csv", "day,weather\n1,rain\n", "folder"),
            ("OpenVid-1M.csv", "video,caption\na.mp4,one\n", "openvid"),
        ],
    )
    def test_by_their_tables(self, here: Path, file: str, text: str, source: str):
        for each in (here / "clips").glob("*.txt"):
            each.unlink()
        for name in ("b.mp4", "c.mp4"):
            (here / "clips" / name).unlink()
        (here / "clips" / file).write_text(text)
        if source == "finetrainers":
            (here / "clips" / "videos.txt").write_text("a.mp4\n")
        if source == "fastvideo":
            put(here / "clips" / "a.mp4", here / "clips" / "videos" / "a.mp4")
            (here / "clips" / "a.mp4").unlink()
        assert recognise(here / "clips").source == source
        assert init("clips", "--queries", "queries") == 0
        (entry,) = clip_source(Workspace(written())).entries()
        assert entry.caption == (None if source == "folder" else "one")

    def test_one_table_among_others_is_named(self, here: Path):
        (here / "clips" / "notes.csv").write_text("day,weather\n1,rain\n")
        (here / "clips" / "list.csv").write_text("path,caption\na.mp4,one\n")
        assert init("clips", "--queries", "queries") == 0
        assert written().clips.table == here / "clips" / "list.csv"

    @pytest.mark.parametrize(("name", "source"), [("shard-000000.tar", "webdataset"), ("part1.zip", "zip")])
    def test_archives(self, here: Path, name: str, source: str):
        shutil.make_archive(str(here / "packed"), name.rpartition(".")[2], here / "clips")
        (here / "archives").mkdir()
        (here / f"packed.{name.rpartition('.')[2]}").rename(here / "archives" / name)
        assert init("archives", "--queries", "queries") == 0
        assert written().clips.source == source
        assert len([entry for entry in clip_source(Workspace(written())).entries() if entry.caption]) == 3

    def test_held_out_queries_of_another_layout_are_refused(self, here: Path, capsys: pytest.CaptureFixture):
        (here / "held_out" / "metadata.csv").write_text("file_name,caption\nh.mp4,one\n")
        said = refused(capsys, "clips", "--queries", "queries", "--held-out", "held_out")
        assert "is laid out as videofolder" in said
        assert "as folder" in said


class TestModels:
    def test_a_folder_s_files_choose_the_settings(self, here: Path, capsys: pytest.CaptureFixture):
        shutil.copytree(TINY, here / "model")
        assert init("clips", "--queries", "queries", "--model", "model") in (0, 1)
        assert written().model.path == str(here / "model")
        assert "settings of Wan 2.1 1.3B" in capsys.readouterr().out
        for (part, key, value), config in {
            ("vae", "z_dim", 48): "wan2.2-ti2v-5b.yaml",
            ("transformer", "num_layers", 40): "wan2.1-t2v-14b-lora.yaml",
        }.items():
            file = here / "model" / part / "config.json"
            before = file.read_text()
            file.write_text(json.dumps(json.loads(before) | {key: value}))
            assert preset_for(str(here / "model")).config == config
            file.write_text(before)

    @pytest.mark.parametrize(
        ("model", "config"),
        [
            ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan2.1-t2v-1.3b.yaml"),
            ("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "wan2.1-t2v-14b-lora.yaml"),
            ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "wan2.2-t2v-a14b-lora.yaml"),
            ("someone/wan2.2-ti2v-5b-anime", "wan2.2-ti2v-5b.yaml"),
            ("Lightricks/LTX-Video", "ltx-video-2b.yaml"),
            ("zai-org/CogVideoX-5b", "cogvideox-2b.yaml"),
        ],
    )
    def test_a_hub_id_does(self, model: str, config: str):
        assert preset_for(model).config == config
