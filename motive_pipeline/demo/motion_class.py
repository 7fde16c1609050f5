"""Names the one motion of a short film of one shape, from its optical flow alone.

The rule. DIS flow is taken from frames 0, 2, 4, ... to the frame `STEP_FRAMES` later, on pictures scaled up four times, and divided by the step:
px per frame. The camera's motion of a pair is the median flow of the whole picture. What differs from it by more than `MOVING_SHARE` of the
film's speed moves; slower is flicker of a decoder. (A film that flickers between odd and even frames alone is not told apart.)

* The film is **static** if the camera stands still and the fastest 5 % of the pixels move less than `STATIC_PX`.
* The moving pixels' flow (camera taken off) is compared with five patterns over all pairs at once, each scaled by least squares: constant
  along x (right, left), constant along y (down, up), away from the moving region's centre (grow, shrink), along x or y as one period of a
  sine over the film (sway, bounce). The pattern that explains the largest share of the flow's energy gives the label, that share is the **coherence**.
* If the camera moves, in the same direction in all pairs, it is a **pan**; its coherence is the share of the camera's energy that
  one constant velocity explains, times the share of the picture that goes along with it.
* Below `MIN_COHERENCE` the film is **incoherent**: noise, flicker, a shape that dissolves, motions that change their mind.

Axes: F frames, P pairs, H W pixels, C channels, 2 = (dx, dy).
"""

import cv2
import numpy as np

from motive_pipeline.evaluation.ground_truth import RecognizedMotion

STEP_FRAMES = 5
STATIC_PX = 0.3
MOVING_SHARE = 0.4
MIN_CAMERA_PX = 0.25
MIN_COHERENCE = 0.4
_UPSCALE = 4

_SIGNED_LABELS = {
    "x": ("right", "left"),
    "y": ("down", "up"),
    "radial": ("grow", "shrink"),
    "sine_x": ("sway", "sway"),
    "sine_y": ("bounce", "bounce"),
}


def motion_class(frames_FHWC: np.ndarray) -> RecognizedMotion:
    """Read the motion of uint8 RGB frames (F >= 5); the thresholds are meant for pictures of about 64 pixels."""
    if frames_FHWC.dtype != np.uint8 or frames_FHWC.ndim != 4 or len(frames_FHWC) < 5:
        raise ValueError(f"expected at least 5 uint8 RGB frames, not {frames_FHWC.dtype} {frames_FHWC.shape}")
    flow_PHW2 = _flow(frames_FHWC)
    speed_PHW = np.linalg.norm(flow_PHW2, axis=-1)
    speed_px = float(np.mean([pair[pair >= np.quantile(pair, 0.95)].mean() for pair in speed_PHW]))
    camera_P2 = np.median(flow_PHW2, axis=(1, 2))
    camera = _camera_coherence(flow_PHW2, camera_P2)
    if np.linalg.norm(camera_P2, axis=1).mean() > MIN_CAMERA_PX:
        return RecognizedMotion("pan" if camera >= MIN_COHERENCE else "incoherent", camera, speed_px)
    if speed_px < STATIC_PX:
        return RecognizedMotion("static", 1.0, speed_px)
    own_PHW2 = flow_PHW2 - camera_P2[:, None, None]
    moving_PHW = np.linalg.norm(own_PHW2, axis=-1) > MOVING_SHARE * speed_px
    label, coherence = _best_pattern(own_PHW2, moving_PHW, len(frames_FHWC))
    return RecognizedMotion(label if coherence >= MIN_COHERENCE else "incoherent", coherence, speed_px)


def _flow(frames_FHWC: np.ndarray) -> np.ndarray:
    """Forward flow in px per frame, (P, H, W, 2)."""
    height, width = frames_FHWC.shape[1:3]
    tracker = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # pyright: ignore[reportAttributeAccessIssue]
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_FHWC]
    grey = [cv2.resize(frame, None, fx=_UPSCALE, fy=_UPSCALE, interpolation=cv2.INTER_CUBIC) for frame in grey]
    starts = _starts(len(grey))
    flows = (tracker.calc(grey[start], grey[start + STEP_FRAMES], None) for start in starts)
    small = [cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) for flow in flows]
    return np.stack(small) / (_UPSCALE * STEP_FRAMES)


def _starts(num_frames: int) -> range:
    return range(0, num_frames - STEP_FRAMES, 2)


def _camera_coherence(flow_PHW2: np.ndarray, camera_P2: np.ndarray) -> float:
    energy = np.square(camera_P2).sum()
    steady = len(camera_P2) * np.square(camera_P2.mean(0)).sum() / max(energy, 1e-12)
    velocity_2 = camera_P2.mean(0)
    along = np.linalg.norm(flow_PHW2 - velocity_2, axis=-1) < 0.5 * np.linalg.norm(velocity_2)
    return float(steady * along.mean())


def _best_pattern(own_PHW2: np.ndarray, moving_PHW: np.ndarray, num_frames: int) -> tuple[str, float]:
    weighted_PHW2 = np.where(moving_PHW[..., None], own_PHW2, 0)
    energy = np.square(weighted_PHW2).sum()
    best = ("incoherent", 0.0)
    for name, pattern_PHW2 in _patterns(moving_PHW, num_frames).items():
        product, norm = (weighted_PHW2 * pattern_PHW2).sum(), np.square(pattern_PHW2).sum()
        share = float(product**2 / max(norm * energy, 1e-12))
        if share > best[1]:
            best = (_SIGNED_LABELS[name][int(product < 0)], share)
    return best


def _patterns(moving_PHW: np.ndarray, num_frames: int) -> dict[str, np.ndarray]:
    """The five shapes of motion, zero where nothing moves."""
    height, width = moving_PHW.shape[1:]
    count_P = np.maximum(moving_PHW.sum((1, 2)), 1)
    y_HW, x_HW = np.mgrid[:height, :width]
    from_centre = [axis - ((axis * moving_PHW).sum((1, 2)) / count_P)[:, None, None] for axis in (x_HW, y_HW)]
    radius_P = np.sqrt((moving_PHW * (from_centre[0] ** 2 + from_centre[1] ** 2)).sum((1, 2)) / count_P)
    zero, one = np.zeros(moving_PHW.shape), np.ones(moving_PHW.shape)
    middle_P = np.array(_starts(num_frames)) + STEP_FRAMES / 2
    sine = one * np.sin(2 * np.pi * middle_P / (num_frames - 1))[:, None, None]
    radial = np.stack(from_centre, -1) / np.maximum(radius_P, 1)[:, None, None, None]
    patterns = {
        "x": np.stack([one, zero], -1),
        "y": np.stack([zero, one], -1),
        "radial": radial,
        "sine_x": np.stack([sine, zero], -1),
        "sine_y": np.stack([zero, sine], -1),
    }
    return {name: pattern * moving_PHW[..., None] for name, pattern in patterns.items()}
