"""Generated videos: the same prompts and seeds for every arm, drawn once, readable, and none lost to a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from motive_pipeline.config import load_config
from motive_pipeline.errors import ConfigError, GateFailed
from motive_pipeline.models.load import load_model, model_hash
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.generate import publish_videos
from motive_pipeline.training.prompts import load_prompts, planned_videos, sampling_seed
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.encode import write_mp4
from tests.curation_fixtures import clip_names, publish_table
from tests.tiny_wan import build_pipeline, save_tiny_wan

ODD = 'a "circle"/\\.. & it\'s <b>\U0001f408</b>'
CAPTIONS = ["a red circle", "a blue square", "a red circle", ODD]
PROMPTS = ["a red circle", "a blue square", ODD]
CONFIG = """
clips: {{source: demo, num_frames: 5, width: 32, height: 32, fps: 8}}
queries: {{source: demo}}
model: {{path: {model}, dtype: float32, device: cpu, max_prompt_tokens: 8}}
storage: {{root: {root}}}
engine: {{threads: 1}}
generate: {{{generate}, num_steps: 2, guidance: 3.0}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_wan(tmp_path_factory.mktemp("model") / "wan")


def make_workspace(folder: Path, model: Path, *, root: str = "data", generate: str = "videos_per_prompt: 2, batch_size: 4") -> Workspace:
    file = folder / f"{root}.yaml"
    file.write_text(CONFIG.format(model=model, root=root, generate=generate))
    ws = Workspace(load_config(file))
    roles = ["query", "query", "held_out", "held_out"]
    publish_table(ws, "query_catalog", "queries", {"query_id": clip_names(4), "caption": CAPTIONS, "role": roles})
    return ws


def publish_trainings(ws: Workspace, arm: str, *, seeds: tuple[int, ...] = (1, 2), broken: tuple[int, ...] = ()) -> None:
    """A checkpoint for each of the random weights ``seeds``, in the layout of the fine-tuning stage; a ``broken`` one predicts NaN."""

    def write(folder: Path) -> None:
        records = []
        for number, seed in enumerate(seeds):
            pipeline = build_pipeline(seed=seed)
            if seed in broken:
                with torch.no_grad():
                    pipeline.transformer.proj_out.bias.fill_(float("nan"))
            pipeline.save_pretrained(folder if number == 0 else folder / f"seed-{number}")
            records.append({"training": number, "content": f"weights {seed}", "base": model_hash(ws)})
        atomic.write_json(folder / "training.json", {"trainings": records})

    ws.publish(f"finetuned_checkpoint/{arm}", content=f"{seeds}", write=write, started=time.time())


def test_publishes_videos_that_the_reader_of_clips_reads(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    publication = publish_videos(ws, "base")
    videos = publication.table("videos")
    assert videos.columns.tolist() == ["training", "prompt_index", "n", "prompt", "sampling_seed", "file", "num_frames"]
    assert videos["prompt"].tolist() == [prompt for prompt in PROMPTS for _ in range(2)], "each caption once, in the catalog's order"
    assert videos["file"].tolist() == [f"seed-0/{index}-{n}.mp4" for index in range(3) for n in range(2)]
    for name in videos["file"]:
        assert read_clip(publication.path / name, FrameRule.of(ws.config)).frames_THWC.shape == (5, 32, 32, 3)
    assert publication.facts["videos"] == 6
    assert publication.facts["prompts"] == 3
    assert publication.facts["seconds_per_video"] > 0
    assert publication.preview.stat().st_size > 1000


def test_the_frames_are_those_of_the_model(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    publication = publish_videos(ws, "base")
    batch = publication.table("videos").iloc[:4]
    model = load_model(ws.config.model, threads=1)
    expected = model.generate(
        list(batch["prompt"]),
        seeds=[int(seed) for seed in batch["sampling_seed"]],
        num_frames=5,
        height=32,
        width=32,
        num_steps=2,
        guidance=3.0,
    )
    for name, frames in zip(batch["file"], expected, strict=True):
        write_mp4(tmp_path / "expected.mp4", frames, 8)
        assert (publication.path / name).read_bytes() == (tmp_path / "expected.mp4").read_bytes()
    assert not np.array_equal(expected[0], expected[1]), "two videos of a prompt differ"


def test_every_arm_and_training_has_the_same_prompts_and_seeds(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    publish_trainings(ws, "motive")
    base, trained = publish_videos(ws, "base").table("videos"), publish_videos(ws, "motive").table("videos")
    columns = ["prompt_index", "n", "prompt", "sampling_seed"]
    for training in (0, 1):
        part = trained[trained["training"] == training]
        assert part[columns].values.tolist() == base[columns].values.tolist()
        assert part["file"].tolist() == [name.replace("seed-0", f"seed-{training}") for name in base["file"]]
    folder = ws.published("generated_videos/motive").path
    first, second = ((folder / f"seed-{training}" / "0-0.mp4").read_bytes() for training in (0, 1))
    assert first != second, "each training draws from its own weights"


def test_a_sampling_seed_depends_on_seed_prompt_and_number_alone() -> None:
    seeds = {sampling_seed(seed, prompt, n) for seed in range(3) for prompt in PROMPTS for n in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sampling_seed(0, "a cat", 0) == sampling_seed(0, "a cat", 0)


def test_finished_videos_are_not_drawn_twice(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    first = publish_videos(ws, "base")
    assert first.counts.computed == 6
    again = publish_videos(ws, "base")
    assert (again.counts.computed, again.counts.reused) == (0, 6)
    assert again.data_version == first.data_version
    publish_table(ws, "query_catalog", "queries", {"query_id": ["0" * 16], "caption": CAPTIONS[:1], "role": ["query"]})
    assert publish_videos(make_workspace(tmp_path, tiny, generate="videos_per_prompt: 2, batch_size: 2"), "base").counts.computed == 4, (
        "the last two were drawn in a batch of two before"
    )


def test_prompts_come_from_the_file_one_a_line(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\ufeffa red circle\n\n  a blue square \r\na red circle\n", encoding="utf-8")
    ws = make_workspace(tmp_path, tiny, generate="prompts: prompts.txt")
    assert load_prompts(ws) == ["a red circle", "a blue square"]
    assert [video.name for video in planned_videos(ws)] == ["0-0.mp4", "1-0.mp4"]


@pytest.mark.parametrize("captions", [["", ""], ["a red circle", ""], [" ", "a red circle"]])
def test_queries_without_a_caption_are_refused_unless_prompts_are_set(tmp_path: Path, tiny: Path, captions: list[str]) -> None:
    ws = make_workspace(tmp_path, tiny)
    paths = [f"/q/{number}.mp4" for number in range(2)]
    publish_table(ws, "query_catalog", "queries", {"query_id": clip_names(2), "path": paths, "caption": captions, "role": ["query"] * 2})
    lacking = [path for path, caption in zip(paths, captions, strict=True) if not caption.strip()]
    with pytest.raises(
        GateFailed, match=rf"{len(lacking)} of 2 queries have no caption.*: {', '.join(lacking)}\. Write .*generate\.prompts"
    ):
        publish_videos(ws, "base")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    assert load_prompts(make_workspace(tmp_path, tiny, root="with", generate="prompts: prompts.txt")) == ["a red circle"]


def test_prompts_that_are_cut_at_the_token_limit_are_counted(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n" + "a red circle " * 20 + "\n")
    ws = make_workspace(tmp_path, tiny, generate="prompts: prompts.txt")
    assert publish_videos(ws, "base").facts["prompts longer than model.max_prompt_tokens, which are cut"] == 1


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"\n \n", "contains no prompt"), (b"\xff\xfe\xff", "not UTF-8")]
)
def test_a_prompt_file_that_cannot_be_used_names_the_key(tmp_path: Path, tiny: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    ws = make_workspace(tmp_path, tiny, generate="prompts: prompts.txt")
    with pytest.raises(ConfigError, match=rf"generate\.prompts = .*prompts\.txt.*{message}"):
        publish_videos(ws, "base")


def test_a_checkpoint_that_draws_nan_stops_the_arm_and_a_good_one_goes_on(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny)
    publish_trainings(ws, "motive", seeds=(1, 2), broken=(2,))
    with pytest.raises(GateFailed, match=r"training 1 generated no usable video.*NaN"):
        publish_videos(ws, "motive")
    assert not ws.has_published("generated_videos/motive")


def test_a_video_that_is_not_finite_is_a_rejected_row(tmp_path: Path, tiny: Path, monkeypatch) -> None:
    """One embedding is NaN: its videos are rejected, those drawn in the same batch are kept."""
    ws = make_workspace(tmp_path, tiny)
    model = load_model(ws.config.model, threads=1)
    encode = model.encode_prompt
    factor = {PROMPTS[1]: torch.nan}
    monkeypatch.setattr(
        model, "encode_prompt", lambda prompt: {name: tensor * factor.get(prompt, 1.0) for name, tensor in encode(prompt).items()}
    )
    monkeypatch.setattr("motive_pipeline.models.wan._embeddings", {})
    publication = publish_videos(ws, "base")
    assert publication.table("videos")["prompt_index"].tolist() == [0, 0, 2, 2]
    rejects = publication.rejects()
    assert rejects["path"].tolist() == ["seed-0/1-0.mp4", "seed-0/1-1.mp4"]
    assert set(rejects["reason"]) == {"non_finite_video"}
    assert publication.counts.rejected == 2
    assert publish_videos(ws, "base").counts.computed == 0, "a rejection is remembered"


def test_a_device_that_is_too_small_stops_the_arm_before_the_model_is_loaded(tmp_path: Path, tiny: Path, monkeypatch) -> None:
    ws = make_workspace(tmp_path, tiny)
    monkeypatch.setattr("motive_pipeline.models.memory_limit.device_memory", lambda name: (0.01, "this GPU", True))
    monkeypatch.setattr("motive_pipeline.training.generate.load_model", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(GateFailed, match=r"generate: needs about 1\.\d GB, this GPU has 0\.0 GB"):
        publish_videos(ws, "base")


SCRIPT = """
import sys
from motive_pipeline.config import load_config
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.generate import publish_videos
publish_videos(Workspace(load_config(sys.argv[1])), "base")
"""


@pytest.mark.slow
def test_finished_videos_survive_a_kill(tmp_path: Path, tiny: Path) -> None:
    generate = "videos_per_prompt: 3, batch_size: 1"
    calm = publish_videos(make_workspace(tmp_path, tiny, root="calm", generate=generate), "base")
    ws = make_workspace(tmp_path, tiny, root="killed", generate=generate)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "killed.yaml")], cwd=Path(__file__).parents[2])
    while len(done := list((ws.root / "work" / "videos").glob("*/[!.]*.json"))) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    times = {file: file.stat().st_mtime_ns for file in done}
    publication = publish_videos(ws, "base")
    assert 2 <= publication.counts.reused < 9
    assert publication.counts.computed == 9 - publication.counts.reused
    assert {file: file.stat().st_mtime_ns for file in done} == times
    assert publication.data_version == calm.data_version
    assert json.loads((publication.folder / "publication.json").read_text())["facts"]["videos"] == 9
