"""docs/tutorial_tracker.md: the tracker on the page, run as it stands there."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from motive_pipeline.config import Motion
from motive_pipeline.graph.trackers import TRACKERS
from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.motion.field import MaskRule, motion_field
from motive_pipeline.motion.trackers import Tracker, build_tracker
from tests.clip_fixtures import moving_square

PAGE = Path(__file__).parents[2] / "docs" / "tutorial_tracker.md"


@pytest.fixture
def brightness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The code of the page as a module, with its entry among the trackers."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "brightness.py").write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("brightness", tmp_path / "brightness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "brightness", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(TRACKERS, module.ENTRY.name, module.ENTRY)
    return module


def test_the_example_is_a_tracker_that_the_settings_know(brightness):
    tracker = build_tracker(Motion(tracker="brightness"))
    assert isinstance(tracker, Tracker)
    frames_THWC = moving_square(9)
    tracks = tracker.track(frames_THWC)
    assert tracks.displacement_THW2.shape == (9, 48, 64, 2)
    assert tracks.displacement_THW2.dtype == np.float32
    assert np.array_equal(tracks.displacement_THW2, tracker.track(frames_THWC).displacement_THW2)
    assert not tracker.track(frames_THWC[:1]).displacement_THW2.any(), "one frame has no motion"


def test_its_mask_lies_where_the_square_moves(brightness):
    field = motion_field(moving_square(9), build_tracker(Motion(tracker="brightness")), MaskRule(floor_px=1.0))
    mask_FHW = field.mask(LatentGrid(channels=16, temporal_stride=4, spatial_stride=8))
    assert mask_FHW.shape == (3, 6, 8)
    assert mask_FHW[:, 2:4].mean() > 10 * mask_FHW[:, [0, 5]].mean()


def test_the_entry_on_the_page_is_the_one_that_runs(brightness):
    shown = re.findall(
        r'TrackerEntry\(name="(\w+)", build="[\w.]+:(\w+)", kind="(\w+)", by_threads=(\w+)\)', PAGE.read_text(encoding="utf-8")
    )
    assert shown == [("brightness", "build_brightness", "numpy", "True")] * 2
