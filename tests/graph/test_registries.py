"""A tracker, a metric and a model family are each one entry and one function. Toys show it, through the real stages."""

import json
import shutil

import diffusers
import numpy as np
import pytest
from pydantic import ValidationError

from motive_pipeline.config import Model, Motion
from motive_pipeline.errors import MotiveError
from motive_pipeline.evaluation.metrics import Video
from motive_pipeline.evaluation.stage import publish_eval_scores
from motive_pipeline.graph import resolve_dotted
from motive_pipeline.graph.families import FAMILIES, ModelFamily
from motive_pipeline.graph.metrics import METRICS, Metric, Style, video_metrics
from motive_pipeline.graph.trackers import TRACKERS, TrackerEntry
from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.models.input_rules import InputRules
from motive_pipeline.models.load import latent_grid, load_model
from motive_pipeline.models.wan import WanModel
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.motion.trackers import Tracks
from motive_pipeline.report.stage import publish_report
from tests.eval_fixtures import copied, with_settings


class LeftHalfMoves:
    """The toy tracker: the left half moves by four pixels."""

    reference = "previous"

    def track(self, frames_THWC: np.ndarray) -> Tracks:
        displacement_THW2 = np.zeros((*frames_THWC.shape[:3], 2), np.float32)
        displacement_THW2[:, :, : frames_THWC.shape[2] // 2, 0] = 4
        return Tracks(displacement_THW2=displacement_THW2)


def build_left_half_moves(motion: Motion, *, device: str, threads: int) -> LeftHalfMoves:
    assert motion.tracker == "left_half_moves"
    return LeftHalfMoves()


@pytest.mark.parametrize("by_threads", [True, False])
def test_a_toy_tracker_makes_masks(ws, monkeypatch, by_threads):
    entry = TrackerEntry(name="left_half_moves", build=f"{__name__}:build_left_half_moves", kind="numpy", by_threads=by_threads)
    with pytest.raises(ValidationError, match=r"there is no tracker 'left_half_moves'.* There are: 'dis', 'alltracker'"):
        Motion(tracker=entry.name)
    monkeypatch.setitem(TRACKERS, entry.name, entry)
    toy = with_settings(ws, motion=Motion(tracker=entry.name))
    assert publish_motion_masks(toy, role="clip").table("index")["motion_magnitude_px"].tolist() == [2.0] * 3
    assert "numpy" in toy.graph.asset("motion_masks").kinds
    assert toy.config.fingerprint("motion_masks") != ws.config.fingerprint("motion_masks")
    with pytest.raises(
        ValidationError, match=r"weigh_by .* needs a tracker .*: tracker: alltracker; with left_half_moves use weigh_by: none"
    ):
        Motion(tracker=entry.name, weigh_by="visibility")


def test_a_misspelt_tracker_is_told_the_nearest_name():
    with pytest.raises(ValidationError, match="Did you mean 'alltracker'"):
        Motion(tracker="all-tracker")


def measure_redness(video: Video) -> float:
    return float(video.frames_THWC[..., 0].mean()) / 255


@pytest.mark.slow
def test_a_toy_metric_is_measured_compared_and_reported(evaluated, tmp_path, tiny_model, monkeypatch):
    ws = copied(evaluated, tmp_path, tiny_model)
    before = ws.config.fingerprint("eval_scores")
    redness = Metric(
        name="redness",
        backend="exact",
        measure=f"{__name__}:measure_redness",
        style=Style(title="redness", unit="0 to 1", decimals=3, meaning="mean of the red channel"),
    )
    monkeypatch.setitem(METRICS, redness.label, redness)
    assert ws.config.fingerprint("eval_scores") != before
    computed = [publish_eval_scores(ws, arm).counts.computed for arm in ws.config.arms]
    assert sum(computed) > 0, "videos measured before lack the new metric"
    per_video = ws.published("eval_scores/motive").table("per_video")
    assert (per_video["metric"] == "redness").sum() == len(ws.published("generated_videos/motive").table("videos"))
    assert ws.scores.query("SELECT count(*) FROM eval_scores WHERE metric = 'redness' AND seed IS NULL").fetchall() == [
        (len(ws.config.arms),)
    ]
    report = publish_report(ws)
    assert "mean of the red channel" in (report.path / "report.html").read_text()
    numbers = report.table("numbers")
    assert {"arms", "differences"} <= set(numbers.loc[numbers["column"] == "redness", "table"])


class ToyModel(WanModel):
    """A model of the toy family; it is a WanModel so that something real is loaded."""


def load_toy(folder, *, shared, **settings) -> ToyModel:
    return ToyModel(diffusers.WanPipeline.from_pretrained(folder, **shared), **settings)


def toy_rules(vae, transformer) -> InputRules:
    grid = LatentGrid(channels=vae["toy_channels"], temporal_stride=vae["toy_stride"], spatial_stride=8)
    return InputRules(grid=grid, frame_step=vae["toy_stride"], side_multiple=8)


@pytest.fixture
def toy_family(monkeypatch) -> ModelFamily:
    family = ModelFamily(
        pipeline="ToyPipeline",
        label="toys",
        load=f"{__name__}:load_toy",
        rules=f"{__name__}:toy_rules",
    )
    monkeypatch.setitem(FAMILIES, family.pipeline, family)
    return family


@pytest.fixture
def toy_folder(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "toy")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "ToyPipeline"}))
    vae = json.loads((folder / "vae/config.json").read_text())
    (folder / "vae/config.json").write_text(json.dumps(vae | {"toy_channels": 5, "toy_stride": 2}))
    return folder


def test_a_toy_family_is_found_by_the_class_of_its_pipeline(toy_family, toy_folder, workspace):
    section = Model(path=str(toy_folder), dtype="float32", device="cpu", max_prompt_tokens=8)
    assert isinstance(load_model(section, threads=1), ToyModel)
    assert latent_grid(with_settings(workspace, model=section)).shape(17, 64, 64) == (5, 9, 8, 8)


def test_a_pipeline_of_no_family_is_refused_with_those_that_there_are(toy_folder):
    with pytest.raises(MotiveError, match=r"ToyPipeline, which no family loads\. There are: .*Wan 2\.1 and 2\.2 \(WanPipeline\)"):
        load_model(Model(path=str(toy_folder), dtype="float32", device="cpu"), threads=1)


def test_every_entry_names_a_function_that_there_is():
    names = [entry.build for entry in TRACKERS.values()] + [family.load for family in FAMILIES.values()]
    for name in [*names, *(str(metric.measure) for metric in video_metrics())]:
        assert callable(resolve_dotted(name)), name
