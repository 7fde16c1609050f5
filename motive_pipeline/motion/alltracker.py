"""AllTracker (Harley et al., ICCV 2025): a network that tracks every pixel of a frame through the clip and predicts its visibility.

Its code is not packaged, so it is imported from a checkout: the one that ``motive fetch alltracker`` brings, or one of the user's. Its conventions
stay in this file: top-level packages named ``nets`` and ``utils``, RGB from 0 to 255, channel-first tensors, calls to ``.cuda()``.

Axes: T decoded frames, H W pixels, 2 = (dx, dy) or (visibility, confidence).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - what torch raises when a file holds more than plain weights
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from motive_pipeline.config import AllTracker, Motion
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.fetch import require_fetched, require_sha256
from motive_pipeline.models.load import fixed_device
from motive_pipeline.motion.trackers import Reference, Tracks, frame_pairs, rescaled_flow
from motive_pipeline.pinned import ALLTRACKER

WINDOW_FRAMES = 16
"""Window length of the published weights; longer clips are tracked in overlapping windows."""

LEAST_SIDE_PX = 128
"""Below this size, the coarsest correlation level has no pixel."""

_OPTIONS: dict[str, dict[str, Any]] = {"full": {}, "tiny": {"use_basicencoder": True, "no_split": True}}


@dataclass(frozen=True, kw_only=True)
class AllTrackerTracker:
    """The network as a :class:`Tracker`. Frames whose smaller side is below ``min_side_px`` are enlarged to it."""

    net: torch.nn.Module
    reference: Reference = "first"
    min_side_px: int = LEAST_SIDE_PX
    iters: int = 4

    def track(self, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Tracks:
        """See :meth:`~.trackers.Tracker.track`. In a frame that is its own reference, visibility and confidence are 1."""
        num_frames, height, width = frames_THWC.shape[:3]
        pictures_T3hw = self._pictures(frames_THWC)
        displacement_THW2 = np.zeros((num_frames, height, width, 2), dtype=np.float32)
        seen_THW2 = np.ones((num_frames, height, width, 2), dtype=np.float32)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for frame, flow_hw2, visconf_hw2 in self._flows(pictures_T3hw):
                displacement_THW2[frame] = rescaled_flow(flow_hw2, height, width)
                seen_THW2[frame] = _resized(visconf_hw2, height, width).clip(0, 1)
        return Tracks(
            displacement_THW2=displacement_THW2,
            visibility_THW=np.ascontiguousarray(seen_THW2[..., 0]),
            confidence_THW=np.ascontiguousarray(seen_THW2[..., 1]),
        )

    def _flows(self, pictures_T3hw: Float32[torch.Tensor, "T 3 h w"]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(frame, displacement, visibility and confidence) of every frame that is not its own reference."""
        num_frames = len(pictures_T3hw)
        if self.reference == "first" and num_frames > 2:
            flows_T2hw, visconfs_T2hw = self._forward(pictures_T3hw)
            for frame in range(1, num_frames):
                yield frame, _channels_last(flows_T2hw[frame]), _channels_last(visconfs_T2hw[frame])
            return
        for frame, (source, target) in enumerate(frame_pairs(num_frames, self.reference)):
            if source != target:
                flow_2hw, visconf_2hw = self._forward(pictures_T3hw[[source, target]])
                yield frame, _channels_last(flow_2hw), _channels_last(visconf_2hw)

    def _forward(self, pictures_T3hw: Float32[torch.Tensor, "T 3 h w"]) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's two outputs without the batch axis: from the first picture to each; of two pictures, from the first to the second."""
        try:
            flows, visconfs, *_ = self.net.forward_sliding(pictures_T3hw[None], iters=self.iters, sw=None, is_training=False)  # type: ignore[operator]
        except torch.OutOfMemoryError as error:
            shape = " x ".join(str(size) for size in pictures_T3hw.shape)
            raise RejectRow(
                "out_of_memory", f"tracking frames of shape {shape} needs more memory than the device has", transient=True
            ) from error
        return flows[0].float().cpu(), visconfs[0].float().cpu()

    def _pictures(self, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Float32[torch.Tensor, "T 3 h w"]:
        height, width = frames_THWC.shape[1:3]
        scale = max(self.min_side_px, LEAST_SIDE_PX) / min(height, width)
        if scale > 1:
            size = (round(width * scale), round(height * scale))
            frames_THWC = np.stack([cv2.resize(frame_HWC, size, interpolation=cv2.INTER_CUBIC) for frame_HWC in frames_THWC])
        return torch.from_numpy(np.ascontiguousarray(frames_THWC.transpose(0, 3, 1, 2))).float()


def load_alltracker(motion: Motion, *, device: str, threads: int) -> AllTrackerTracker:
    """The tracker of the section ``motion``, on ``device``. Code and weights are checked against their hashes before use.

    Raises:
        MotiveError: see :func:`checkout`, :func:`checkpoint`; a library it needs is missing; or the weights are not this network's.
    """
    settings = motion.alltracker
    code, weights = checkout(settings), checkpoint(settings)
    target = fixed_device(device, threads)
    net = _Imported(code).net(settings.variant, target)
    try:
        net.load_state_dict(_state(weights), strict=True)
    except RuntimeError as error:
        raise MotiveError(
            f"{weights}: not the weights of AllTracker's {settings.variant} network ({str(error).splitlines()[0]}). "
            "See motion.alltracker.variant and motion.alltracker.checkpoint."
        ) from error
    return AllTrackerTracker(
        net=net.to(target).eval().requires_grad_(False),
        reference="first" if motion.reference == "auto" else motion.reference,
        min_side_px=motion.min_side_px,
        iters=settings.iters,
    )


def checkout(settings: AllTracker) -> Path:
    """The folder that holds ``nets/alltracker.py``.

    Raises:
        MotiveError: there is none, or the fetched one is not as pinned.
    """
    if settings.repo is None:
        require_fetched(ALLTRACKER)
        return ALLTRACKER.code_folder
    if not (settings.repo / "nets" / "alltracker.py").is_file():
        raise MotiveError(
            f"motion.alltracker.repo = {str(settings.repo)!r}: there is no nets/alltracker.py in it. Name the root of a checkout of "
            "github.com/aharley/alltracker, or leave it out and run `motive fetch alltracker`."
        )
    return settings.repo


def checkpoint(settings: AllTracker) -> Path:
    """The file of weights, checked against its hash: the pinned one, or ``motion.alltracker.sha256`` where the user names file and hash.

    Raises:
        MotiveError: there is no such file, or it has another hash.
    """
    if settings.checkpoint is None:
        name, pinned = next(iter(ALLTRACKER.files.items()))
        file = ALLTRACKER.folder / name
        if not file.is_file():
            raise MotiveError(
                f"{name} is not in {ALLTRACKER.folder}. Run `motive fetch alltracker` (it needs a network), or point "
                "motion.alltracker.checkpoint to a file of yours."
            )
        require_sha256(file, settings.sha256 or pinned.sha256, "motion.tracker: alltracker")
        return file
    if not settings.checkpoint.is_file():
        raise MotiveError(f"motion.alltracker.checkpoint = {str(settings.checkpoint)!r}: there is no such file.")
    if settings.sha256 is not None:
        require_sha256(settings.checkpoint, settings.sha256, "motion.alltracker.sha256")
    return settings.checkpoint


def _state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors by name. No code in the file is run.

    Raises:
        MotiveError: the file holds something else.
    """
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        why = (str(error).splitlines() or ["the file is empty"])[0]
        raise MotiveError(f"{file}: cannot be read as plain weights ({why}). Nothing in it was run.") from error
    state = saved.get("model", saved) if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise MotiveError(f"{file}: holds no weights by name, alone or below the key 'model'.")
    return state


@dataclass(frozen=True)
class _Imported:
    """A checkout from which the network can be built."""

    folder: Path

    def net(self, variant: str, device: torch.device) -> torch.nn.Module:
        """The network with random weights, to run on any ``device``.

        Raises:
            MotiveError: the code does not import.
        """
        try:
            with _importable(self.folder):
                base = importlib.import_module("nets.alltracker").Net
        except ImportError as error:
            raise MotiveError(
                f"AllTracker's code in {self.folder} does not import: {error}. It needs einops and torchvision: "
                "pip install 'motive-pipeline[alltracker]'."
            ) from error

        class NetOnDevice(base):
            """AllTracker's network without its one call to ``.cuda()``, which it makes here and only when not training."""

            def get_fmaps(self, images_: Any, B: Any, T: Any, sw: Any, is_training: Any) -> Any:
                return super().get_fmaps(images_.to(device), B, T, sw, True)

        return NetOnDevice(WINDOW_FRAMES, init_weights=False, **_OPTIONS[variant])


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """A context in which ``nets`` and ``utils`` are the checkout's packages; afterwards they are what they were before."""

    def named() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in ("nets", "utils")]

    before = {name: sys.modules.pop(name) for name in named()}
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the user's checkout stays unchanged
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes_bytecode
        for name in named():
            del sys.modules[name]
        sys.modules.update(before)


def _channels_last(field_2hw: torch.Tensor) -> Float32[np.ndarray, "h w 2"]:
    return np.ascontiguousarray(field_2hw.numpy().transpose(1, 2, 0))


def _resized(field_hw2: Float32[np.ndarray, "h w 2"], height: int, width: int) -> Float32[np.ndarray, "H W 2"]:
    if field_hw2.shape[:2] == (height, width):
        return field_hw2
    return np.asarray(cv2.resize(field_hw2, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32)
