"""The real VBench, offline, with random weights: ``MOTIVE_VBENCH_PYTHON`` names an interpreter that has it (docs/evaluation.md)."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from motive_pipeline.evaluation.metrics import opencv_frames, temporal_flickering
from motive_pipeline.evaluation.vbench.dimensions import DIMENSIONS
from motive_pipeline.evaluation.vbench.measure import Measured, measure_videos
from tests.assets.test_bad_input import moving
from tests.vbench_standin import film, project, publish_films

PYTHON = os.environ.get("MOTIVE_VBENCH_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="MOTIVE_VBENCH_PYTHON names no interpreter that has vbench")
FILMS = [(0, "still", 0, np.repeat(film(0, 1), 17, axis=0)), (0, "moving", 0, moving(1, speed_px=1.0)), (0, "noise", 0, film(1))]


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Measured, list[Path]]:
    """All seven dimensions of a still film, a moving one and noise, and their files."""
    folder = tmp_path_factory.mktemp("vbench")
    subprocess.run([PYTHON, "-W", "ignore", str(Path(__file__).with_name("vbench_random_weights.py")), str(folder / "weights")], check=True)
    settings = {"python": PYTHON, "weights": "weights", "accept_noncommercial": True, "accept_other_weights": True, "device": "cpu"}
    ws = project(folder, settings)
    videos = publish_films(ws, FILMS)
    found = measure_videos(ws, "motive", videos)
    assert measure_videos(ws, "motive", videos).counts.computed == 0
    return found, [videos.path / file for file in videos.table("videos")["file"]]


def test_every_dimension_measures_every_video(measured):
    found, _ = measured
    assert found.table.groupby("metric").size().to_dict() == dict.fromkeys(DIMENSIONS, 3)
    assert found.record["versions"]["vbench"] == "0.1.5"
    assert found.record["device"] == "cpu"


def test_a_still_video_is_consistent_and_does_not_move(measured):
    """But for what H.264 changes from frame to frame."""
    still = measured[0].table.query("prompt_index == 0").set_index("metric")["value"]
    assert still["subject_consistency"] == pytest.approx(1.0, abs=1e-3)
    assert still["background_consistency"] == pytest.approx(1.0, abs=1e-3)
    assert still["dynamic_degree"] == 0.0


def test_our_temporal_flickering_is_the_packages(measured):
    found, files = measured
    theirs = found.table.query("metric == 'temporal_flickering'").set_index("prompt_index")["value"]
    for number, file in enumerate(files):
        assert temporal_flickering(opencv_frames(file)) == pytest.approx(theirs[number], abs=1e-6)
