"""AllTracker behind the protocol of trackers: its conventions stay inside, its code and weights are checked before they are used."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from motive_pipeline.config import AllTracker, Motion
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.motion.alltracker import AllTrackerTracker
from motive_pipeline.motion.stage import MaskSet, publish_motion_masks
from motive_pipeline.motion.trackers import Tracker, build_tracker
from motive_pipeline.storage.digest import digest_file
from tests.alltracker_standin import write_checkout, write_weights
from tests.clip_fixtures import catalogued, project, write_project

REAL = "MOTIVE_TEST_ALLTRACKER"


@pytest.fixture
def files(tmp_path):
    """(checkout, checkpoint) of the stand-in."""
    return write_checkout(tmp_path / "checkout"), write_weights(tmp_path / "weights.pth")


def tracker(files, *, reference="auto", min_side_px=128, **settings) -> AllTrackerTracker:
    repo, checkpoint = files
    chosen = AllTracker(**{"repo": repo, "checkpoint": checkpoint} | settings)
    found = build_tracker(
        Motion(tracker="alltracker", reference=reference, min_side_px=min_side_px, alltracker=chosen), device="cpu", threads=1
    )
    assert isinstance(found, AllTrackerTracker)
    return found


def reddening(num_frames: int, *, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames that get redder by 4 and bluer by 2 each; green jumps about."""
    frames = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    for frame in range(num_frames):
        frames[frame] = (20 + 4 * frame, (37 * frame) % 251, 200 - 2 * frame)
    return frames


def test_it_is_a_tracker_and_auto_is_first(files):
    found = tracker(files)
    assert isinstance(found, Tracker)
    assert found.reference == "first"


def test_first_leads_from_frame_0_to_each_frame_in_pixels_of_the_frames_given(files):
    """The network sees RGB from 0 to 255, channels first, enlarged to a smaller side of 128, over more than one window."""
    tracks = tracker(files).track(reddening(19))
    assert tracks.displacement_THW2.shape == (19, 64, 96, 2)
    assert tracks.displacement_THW2.dtype == np.float32
    expected_T2 = np.stack([4 * np.arange(19), -2 * np.arange(19)], axis=1) / 2  # twice as large for the network
    assert tracks.displacement_THW2 == pytest.approx(np.broadcast_to(expected_T2[:, None, None], (19, 64, 96, 2)), abs=1e-3)


def test_previous_leads_back_from_each_frame_and_frame_0_leads_to_frame_1(files):
    tracks = tracker(files, reference="previous").track(reddening(4, height=128, width=160))
    assert tracks.displacement_THW2[:, 5, 5] == pytest.approx(np.array([[4, -2], [-4, 2], [-4, 2], [-4, 2]]), abs=1e-3)
    assert tracks.visibility_THW[0, 0, 0] == pytest.approx(0.75), "frame 0 is tracked, too"


@pytest.mark.parametrize("reference", ["first", "previous"])
def test_clips_of_one_and_of_two_frames(files, reference):
    one = tracker(files, reference=reference).track(reddening(1))
    assert not one.displacement_THW2.any()
    assert one.visibility_THW.min() == one.confidence_THW.min() == 1
    two = tracker(files, reference=reference).track(reddening(2, height=128, width=128))
    assert two.displacement_THW2[1, 0, 0] == pytest.approx([4, -2] if reference == "first" else [-4, 2], abs=1e-3)
    assert two.displacement_THW2[0].any() == (reference == "previous")


def test_visibility_and_confidence_are_told_apart_and_a_frame_sees_itself(files):
    tracks = tracker(files).track(reddening(5))
    assert tracks.visibility_THW[1:] == pytest.approx(0.75)
    assert tracks.confidence_THW[1:] == pytest.approx(0.25)
    assert (tracks.visibility_THW[0] == 1).all()
    assert tracks.visibility_THW.shape == (5, 64, 96)


def test_larger_frames_are_left_as_they_are_and_a_larger_least_side_enlarges_them(files):
    frames = reddening(3, height=144, width=160)
    plain = tracker(files).track(frames).displacement_THW2
    larger = tracker(files, min_side_px=288).track(frames).displacement_THW2
    assert plain[2, 0, 0, 0] == pytest.approx(8, abs=1e-3)
    assert larger[2, 0, 0, 0] == pytest.approx(4, abs=1e-3), "the stand-in counts pixels of the enlarged picture"
    assert tracker(files, min_side_px=0).track(reddening(3)).displacement_THW2[2, 0, 0, 0] == pytest.approx(4, abs=1e-3)


def test_the_modules_named_nets_and_utils_are_what_they_were_and_the_checkout_is_untouched(files, monkeypatch):
    own = type(sys)("utils")
    monkeypatch.setitem(sys.modules, "utils", own)
    path = list(sys.path)
    found = tracker(files)
    found.track(reddening(3))
    assert sys.modules["utils"] is own
    assert not [name for name in sys.modules if name.startswith(("nets", "utils."))]
    assert sys.path == path
    assert sorted(file.name for file in files[0].rglob("*") if file.is_file()) == ["alltracker.py", "misc.py"]


def test_two_checkouts_in_one_process_are_kept_apart(files, tmp_path):
    other = write_checkout(tmp_path / "other")
    code = (other / "nets" / "alltracker.py").read_text()
    (other / "nets" / "alltracker.py").write_text(code.replace("* self.gain.sum()", "* self.gain.sum() * 3"))
    first, second = tracker(files), tracker((other, files[1]))
    frames = reddening(3, height=128, width=128)
    assert first.track(frames).displacement_THW2[2, 0, 0, 0] == pytest.approx(8, abs=1e-3)
    assert second.track(frames).displacement_THW2[2, 0, 0, 0] == pytest.approx(24, abs=1e-2)


def test_the_weights_are_used_bare_or_below_the_key_model(files, tmp_path):
    torch.save({"gain": torch.tensor([0.5])}, tmp_path / "bare.pth")
    tracks = tracker((files[0], tmp_path / "bare.pth")).track(reddening(3, height=128, width=128))
    assert tracks.displacement_THW2[2, 0, 0, 0] == pytest.approx(4, abs=1e-3)


def test_the_tiny_variant_is_another_network(files, tmp_path):
    torch.save({"model": {"gain": torch.tensor([0.5, 0.5])}}, tmp_path / "tiny.pth")
    assert tracker((files[0], tmp_path / "tiny.pth"), variant="tiny").track(reddening(3)).displacement_THW2.any()
    with pytest.raises(MotiveError, match=r"not the weights of AllTracker's tiny network.*motion\.alltracker\.variant"):
        tracker(files, variant="tiny")


class _Harm:
    def __reduce__(self):
        return os.mkdir, (self.folder,)

    def __init__(self, folder):
        self.folder = folder


def test_a_checkpoint_that_holds_code_is_refused_and_nothing_in_it_runs(files, tmp_path):
    torch.save({"model": _Harm(str(tmp_path / "harm"))}, tmp_path / "harmful.pth")
    with pytest.raises(MotiveError, match=r"harmful\.pth: cannot be read as plain weights.*Nothing in it was run"):
        tracker((files[0], tmp_path / "harmful.pth"))
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_with_another_hash_is_refused_before_it_is_loaded(files):
    good = digest_file(files[1])
    assert tracker(files, sha256=good).net is not None
    with pytest.raises(MotiveError, match=rf"motion\.alltracker\.sha256: .*weights\.pth has the SHA-256 {good}, not {'0' * 64}"):
        tracker(files, sha256="0" * 64)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_refused_in_words(files, tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(MotiveError, match=r"bad\.pth: cannot be read as plain weights"):
        tracker((files[0], tmp_path / "bad.pth"))


def test_what_is_missing_is_named_with_what_to_do(files, tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIVE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MotiveError, match=r"there is no nets/alltracker\.py in it.*motive fetch alltracker"):
        tracker((tmp_path, files[1]))
    with pytest.raises(MotiveError, match=r"motion\.alltracker\.checkpoint = .*gone\.pth.*no such file"):
        tracker((files[0], tmp_path / "gone.pth"))
    with pytest.raises(MotiveError, match=r"the code of alltracker is not in .*cache.*Run `motive fetch alltracker`"):
        tracker((None, files[1]))
    with pytest.raises(MotiveError, match=r"alltracker\.pth is not in .*cache.*Run `motive fetch alltracker`"):
        tracker((files[0], None))
    (files[0] / "utils" / "misc.py").write_text("import a_library_that_is_not_there")
    with pytest.raises(MotiveError, match=r"does not import: No module named 'a_library_that_is_not_there'.*motive-pipeline\[alltracker\]"):
        tracker(files)


def test_the_stage_makes_masks_with_it_and_knows_its_code_and_weights_by_content(tmp_path, files):
    """A moved checkout recomputes nothing; other weights recompute everything; its settings do not touch DIS's rows."""
    write_project(tmp_path)
    repo, checkpoint = files

    def opened(**motion):
        return project(
            tmp_path, motion={"tracker": "alltracker", "alltracker": {"repo": str(repo), "checkpoint": str(checkpoint)}} | motion
        )

    ws = catalogued(opened())
    first = publish_motion_masks(ws, role="clip")
    assert first.counts.computed == 3
    assert MaskSet(ws, "clip").get(MaskSet(ws, "clip").clip_ids[0]).shape == (3, 6, 8)
    settings = first.provenance["settings"]
    assert settings["motion.alltracker"]["checkpoint"] == digest_file(checkpoint)
    assert str(tmp_path) not in str(settings)
    repo, checkpoint = repo.rename(tmp_path / "moved"), checkpoint.rename(tmp_path / "moved.pth")
    assert publish_motion_masks(opened(), role="clip").counts.computed == 0
    assert publish_motion_masks(opened(weigh_by="both"), role="clip").counts.computed == 3
    write_weights(checkpoint, gain=2.0)
    assert publish_motion_masks(opened(), role="clip").counts.computed == 3
    (repo / "utils" / "misc.py").write_text((repo / "utils" / "misc.py").read_text() + "\n# changed\n")
    assert publish_motion_masks(opened(), role="clip").counts.computed == 3


def test_settings_that_cannot_be_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"weigh_by \(visibility\) needs a tracker that gives visibility.*alltracker"):
        project(tmp_path, motion={"weigh_by": "visibility"})
    with pytest.raises(ConfigError, match=r"alltracker\.variant: tiny needs alltracker\.checkpoint"):
        project(tmp_path, motion={"tracker": "alltracker", "alltracker": {"variant": "tiny"}})
    with pytest.raises(ConfigError, match=r"motion\.alltracker\.sha256 = 'abc'"):
        project(tmp_path, motion={"alltracker": {"sha256": "abc"}})


def _import_torchvision() -> None:
    """The CPU build of torch has no torchvision of its own: the pure Python part of any imports once these two operators are declared."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _import_torchvision.library = library  # it takes the operators back when it is collected
        import torchvision  # noqa: F401


@pytest.mark.skipif(not os.environ.get(REAL), reason=f"{REAL} names no checkout of github.com/aharley/alltracker")
@pytest.mark.parametrize("variant", ["full", "tiny"])
def test_the_real_network_with_weights_of_chance_gives_what_it_gives_when_asked_directly(tmp_path, variant):
    _import_torchvision()
    from motive_pipeline.motion.alltracker import _Imported

    repo = Path(os.environ[REAL])
    torch.manual_seed(0)
    torch.save({"model": _Imported(repo).net(variant, torch.device("cpu")).state_dict()}, tmp_path / "weights.pth")
    found = tracker((repo, tmp_path / "weights.pth"), variant=variant, iters=1)
    frames = np.random.default_rng(0).integers(0, 255, (4, 128, 144, 3), dtype=np.uint8)
    tracks = found.track(frames)
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float()[None]
    with torch.inference_mode():
        flows, visconfs, *_ = found.net.forward_sliding(pictures, iters=1, sw=None, is_training=False)
        pair_flow, *_ = found.net.forward_sliding(pictures[:, [2, 1]], iters=1, sw=None, is_training=False)
    assert flows.shape == visconfs.shape == (1, 4, 2, 128, 144)
    assert np.array_equal(tracks.displacement_THW2[1:], flows[0, 1:].permute(0, 2, 3, 1).numpy())
    assert np.array_equal(tracks.visibility_THW[1:], visconfs[0, 1:, 0].numpy())
    assert np.array_equal(tracks.confidence_THW[1:], visconfs[0, 1:, 1].numpy())
    assert np.array_equal(found.track(frames).displacement_THW2, tracks.displacement_THW2), "the same frames give the same bits"
    pairs = tracker((repo, tmp_path / "weights.pth"), variant=variant, iters=1, reference="previous").track(frames[:3])
    assert np.array_equal(pairs.displacement_THW2[2], pair_flow[0].permute(1, 2, 0).numpy())
