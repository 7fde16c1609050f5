"""Scenes whose motion is known exactly: a textured thing moves over a textured ground, the camera shifts by whole pixels, or the scene is cut.

Axes: T frames, H W pixels, C channels (RGB), 2 = (dx, dy).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

CameraMove = Literal["none", "pan", "late_pan", "cut"]
_CAMERA_STEP_PX = (3, -1)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Frames; the displacement from each to the one before (frame 0: to frame 1), as it is seen and without the camera's; the thing's place.

    Where a cut lies between the two frames there is no displacement: ``is_cut_T``.
    """

    frames_THWC: np.ndarray
    seen_THW2: np.ndarray
    own_THW2: np.ndarray
    object_THW: np.ndarray
    is_cut_T: np.ndarray


def render_scene(seed: int, *, camera: CameraMove, width: int = 832, height: int = 480, num_frames: int = 17) -> Scene:
    """One scene. The thing, a disc of a fifth of the height or so, moves 2 to 6 px a frame; a panning camera 3 px, in the second half or always."""
    rng = np.random.default_rng([seed, 11])
    camera_T2 = _camera_path(camera, num_frames)
    margin = int(np.abs(camera_T2).max()) + 2
    radius = int(height * rng.uniform(0.15, 0.22))
    step_2 = _own_step(rng)
    start_2 = np.array([width, height]) / 2 + margin - step_2 * num_frames / 2 + rng.uniform(-0.05, 0.05, 2) * height
    grounds = [_texture(rng, height + 2 * margin, width + 2 * margin, 6.0) for _ in range(2)]
    thing_HWC = _texture(rng, 2 * radius + 1, 2 * radius + 1, 3.0) // 2 + 110
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    is_thing_hw = x**2 + y**2 <= radius**2
    frames, places = [], []
    for frame in range(num_frames):
        world = grounds[int(camera == "cut" and frame > num_frames // 2)].copy()
        is_object = np.zeros(world.shape[:2], dtype=bool)
        left, top = np.rint(start_2 + step_2 * frame).astype(int) - radius
        at = (slice(top, top + len(is_thing_hw)), slice(left, left + len(is_thing_hw)))
        world[at][is_thing_hw] = thing_HWC[is_thing_hw]
        is_object[at] = is_thing_hw
        view = tuple(
            slice(margin + shift, margin + shift + size) for shift, size in zip(camera_T2[frame][::-1], (height, width), strict=True)
        )
        frames.append(world[view])
        places.append(is_object[view])
    return _with_truth(np.stack(frames), np.stack(places), camera_T2, np.rint(start_2 + step_2 * np.arange(num_frames)[:, None]), camera)


def _with_truth(frames: np.ndarray, places: np.ndarray, camera_T2: np.ndarray, centre_T2: np.ndarray, camera: CameraMove) -> Scene:
    num_frames = len(frames)
    before = np.r_[1, 0 : num_frames - 1]
    own_T2, shift_T2 = centre_T2[before] - centre_T2, -(camera_T2[before] - camera_T2)
    own = np.where(places[..., None], own_T2[:, None, None, :], 0.0).astype(np.float32)
    is_cut = np.zeros(num_frames, dtype=bool)
    if camera == "cut":
        is_cut[num_frames // 2 + 1] = True
    return Scene(
        frames_THWC=frames,
        seen_THW2=(own + shift_T2[:, None, None, :]).astype(np.float32),
        own_THW2=own,
        object_THW=places,
        is_cut_T=is_cut,
    )


def _camera_path(camera: CameraMove, num_frames: int) -> np.ndarray:
    """Where the camera's corner lies in each frame, whole pixels."""
    step_T = np.zeros((num_frames, 2), dtype=int)
    if camera in ("pan", "late_pan"):
        step_T[num_frames // 2 + 1 if camera == "late_pan" else 1 :] = _CAMERA_STEP_PX
    return step_T.cumsum(axis=0)


def _own_step(rng: np.random.Generator) -> np.ndarray:
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(2.0, 6.0)
    return np.rint(speed * np.array([np.cos(angle), np.sin(angle)]))


def _texture(rng: np.random.Generator, height: int, width: int, grain_px: float) -> np.ndarray:
    """Noise of two grains, uint8 (H, W, C)."""
    fine, coarse = (cv2.GaussianBlur(rng.normal(0, 1, (height, width, 3)), (0, 0), grain) for grain in (grain_px / 3, 4 * grain_px))
    mixed = fine / fine.std() + 1.5 * coarse / coarse.std()
    return np.clip(128 + 32 * mixed, 0, 255).astype(np.uint8)
