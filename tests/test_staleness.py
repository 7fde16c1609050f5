"""What recomputes after each kind of change, on a real Dagster instance, against the table printed in docs/staleness.md."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from assets.running import Report, run_stale
from motive_pipeline import stages
from motive_pipeline.models.load import model_folder
from tests.graph_project import SETTINGS, Project
from tests.test_bad_input import moving

TABLE = Path(__file__).parents[1] / "docs" / "staleness.md"
ROWS = ("latents", "motion_masks", "projected_gradients/motive", "projected_gradients/no_mask")


class Change:
    """Changes of a project, by the words of the table; each gives back a function that undoes it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.clips = project.folder / "clips"

    def apply(self, words: str):
        """Make the change and return its undoing."""
        return getattr(self, re.sub(r"[^a-z]+", "_", words.lower()).strip("_"))()

    def _setting(self, dotted: str, value):
        before = dict(self.project.settings.get(dotted.split(".")[0], {})) if "." in dotted else list(self.project.settings[dotted])
        if "." in dotted:
            self.project.set(dotted, value)
        else:
            self.project.settings[dotted] = value
            self.project.save()

        def undo() -> None:
            self.project.settings[dotted.split(".")[0]] = before
            self.project.save()

        return undo

    def _write(self, path: Path, seed: int):
        from motive_pipeline.clips.encode import write_mp4

        write_mp4(path, moving(seed), 16)
        path.with_suffix(".txt").write_text(f"a patch, number {seed}", encoding="utf-8")

        def undo() -> None:
            path.unlink()
            path.with_suffix(".txt").unlink()

        return undo

    def nothing_changed(self):
        return lambda: None

    def one_clip_added(self):
        return self._write(self.clips / "new.mp4", 50)

    def one_clip_s_bytes_changed(self):
        kept = (self.clips / "1.mp4").read_bytes()
        self._write(self.clips / "1.mp4", 51)
        (self.clips / "1.txt").write_text("a patch, number 1", encoding="utf-8")
        return lambda: (self.clips / "1.mp4").write_bytes(kept)

    def one_clip_removed(self):
        kept = (self.clips / "2.mp4").read_bytes()
        (self.clips / "2.mp4").unlink()
        return lambda: (self.clips / "2.mp4").write_bytes(kept)

    def one_clip_renamed(self):
        for suffix in (".mp4", ".txt"):
            (self.clips / f"3{suffix}").rename(self.clips / f"renamed{suffix}")
        return lambda: [(self.clips / f"renamed{suffix}").rename(self.clips / f"3{suffix}") for suffix in (".mp4", ".txt")]

    def a_caption_edited(self):
        file = self.clips / "4.txt"
        kept = file.read_text()
        file.write_text("another caption")
        return lambda: file.write_text(kept)

    def a_query_added(self):
        return self._write(self.project.folder / "queries" / "new.mp4", 150)

    def a_query_removed(self):
        file = self.project.folder / "queries" / "101.mp4"
        kept = file.read_bytes()
        file.unlink()
        return lambda: file.write_bytes(kept)

    def mask_setting(self):
        return self._setting("motion.floor_px", 3.0)

    def tracker_preset(self):
        return self._setting("motion.preset", "fast")

    def a_mask_setting_that_changes_no_mask(self):
        return self._setting("motion.reference", "previous")

    def timestep(self):
        return self._setting("gradient.timestep", 751)

    def projection_seed(self):
        return self._setting("gradient.proj_seed", 1)

    def smaller_proj_dim(self):
        return self._setting("influence.proj_dim", 128)

    def vote_percentile(self):
        return self._setting("vote.percentile", 50)

    def subset_share(self):
        return self._setting("subset.share", 0.6)

    def an_arm_added(self):
        return self._setting("arms", [*self.project.settings["arms"], "motion_magnitude"])

    def fine_tune_learning_rate(self):
        return self._setting("finetune.learning_rate", 2e-4)

    def prompts(self):
        (self.project.folder / "prompts.txt").write_text("a patch, number 7\n")
        return self._setting("generate.prompts", "prompts.txt")

    def bootstrap_samples(self):
        return self._setting("evaluate.bootstrap_samples", 200)

    def a_comment_in_the_yaml(self):
        self.project.file.write_text(self.project.file.read_text() + "# a comment\n")
        return self.project.save

    def model_weights_replaced_in_place(self):
        file = next((self.project.folder / "model" / "transformer").glob("*.safetensors"))
        kept = file.read_bytes()
        weights = load_file(file)
        name = sorted(weights)[0]
        weights[name] = weights[name] + 0.01
        save_file(weights, file, metadata={"format": "pt"})
        return lambda: file.write_bytes(kept)

    def the_code_of_one_stage(self):
        before = stages.STAGES["voted_ranking"]
        stages.STAGES["voted_ranking"] = stages.Stage(settings=before.settings, gates=before.gates, version=before.version + 1)

        def undo() -> None:
            stages.STAGES["voted_ranking"] = before

        return undo


def table() -> list[tuple[str, str, str, str]]:
    """(change, assets that run, those of them that come out different, clip rows computed) of docs/staleness.md."""
    if not TABLE.exists():
        return []
    rows = [line.strip("| \n").split("|") for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in row) for row in rows[1:]]  # type: ignore[misc]


def shown(report: Report) -> tuple[str, str, str]:
    """A report in the words of the table: assets of one name are joined (``curated_subset/{motive, random}``)."""
    ran = [name for name, run in report.assets.items() if run.seconds or run.status in ("failed", "blocked")]
    changed = [name for name in ran if report.assets[name].status == "computed"]
    rows = [f"{name} {report.assets[name].rows_computed}" for name in ROWS if report.assets[name].rows_computed]
    return _joined(ran), _joined(changed), ", ".join(rows) or "none"


def _joined(names: list[str]) -> str:
    arms: dict[str, list[str]] = {}
    for name in names:
        asset, _, arm = name.partition("/")
        arms.setdefault(asset, []).append(arm)
    words = [
        asset if found == [""] else f"{asset}/{{{', '.join(found)}}}" if len(found) > 1 else f"{asset}/{found[0]}"
        for asset, found in arms.items()
    ]
    return ", ".join(words) or "none"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """Six clips and two queries in folders of the user's own, a model of the user's own, run once."""
    from motive_pipeline.clips.encode import write_mp4

    folder = tmp_path_factory.mktemp("staleness")
    for name, seeds in (("clips", range(6)), ("queries", range(100, 102)), ("held_out", range(200, 201))):
        (folder / name).mkdir()
        for seed in seeds:
            write_mp4(folder / name / f"{seed}.mp4", moving(seed, speed_px=1.0 + 0.2 * (seed % 5)), 16)
            (folder / name / f"{seed}.txt").write_text(f"a patch, number {seed}", encoding="utf-8")
    settings = SETTINGS | {
        "clips": {"path": "clips", "num_frames": 17, "width": 64, "height": 64},
        "queries": {"path": "queries", "held_out_path": "held_out"},
        "arms": ["base", "random", "no_mask", "motive"],
        "subset": {"share": 0.4},
        "motion": {},
        "vote": {},
    }
    project = Project(folder, settings)
    shutil.copytree(model_folder(project.config.model), folder / "model")
    project.settings["model"] = SETTINGS["model"] | {"path": "./model"}
    project.save()
    assert run_stale(project.config).ok
    return project


@pytest.mark.parametrize(("change", "runs", "different", "rows"), table(), ids=[row[0] for row in table()])
def test_exactly_what_changed_recomputes(project, change, runs, different, rows):
    undo = Change(project).apply(change)
    try:
        report = run_stale(project.config)
        assert shown(report) == (runs, different, rows)
        assert {run.status for run in run_stale(project.config).assets.values()} == {"unchanged"}
    finally:
        undo()
    back = run_stale(project.config)
    assert back.ok
    assert all(back.assets[name].rows_computed == 0 for name in ROWS), "a setting gone back to computes no row"


def _print_table() -> None:
    """Write the table as it comes out now, for a person to compare with the design: python -m tests.test_staleness."""
    import tempfile

    class Factory:
        def mktemp(self, _: str) -> Path:
            return Path(tempfile.mkdtemp())

    made = project.__wrapped__(Factory())  # type: ignore[attr-defined]
    words = [
        "nothing changed", "one clip added", "one clip's bytes changed", "one clip removed", "one clip renamed", "a caption edited",
        "a query added", "a query removed", "mask setting", "tracker preset", "a mask setting that changes no mask", "timestep",
        "projection seed", "smaller proj_dim", "vote percentile", "subset share", "an arm added", "fine-tune learning rate", "prompts",
        "bootstrap samples", "a comment in the YAML", "model weights replaced in place", "the code of one stage",
    ]  # fmt: skip
    for text in words:
        started = time.monotonic()
        undo = Change(made).apply(text)
        print("| " + " | ".join((text, *shown(run_stale(made.config)))) + " |", flush=True)
        undo()
        run_stale(made.config)
        print(f"    {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _print_table()
