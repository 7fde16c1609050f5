"""How a stored frame is meant to be shown: which part of it, turned or mirrored, and with square pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from motive_pipeline.video.container_crop import WHOLE, Margins, StatedCrop
from motive_pipeline.video.flags import FLAGS
from motive_pipeline.video.tone_map import HLG, PQ


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How stored pixels become the picture as shown. ``margins`` are cut off. Each pixel is ``pixel_aspect`` times as wide as high. Then the
    picture is transposed (rows become columns), flipped left to right, and flipped top to bottom, where these are set.

    ``states_crop``: the container states another crop than the whole picture. One that makes no sense leaves the margins at 0."""

    pixel_aspect: Fraction
    margins: Margins = WHOLE
    states_crop: bool = False
    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def is_turned(self) -> bool:
        """Whether the stored picture is not shown as it is stored."""
        return self.transpose or self.flip_x or self.flip_y

    def shown_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) as shown, of a stored picture of this size. Pixels are made square by stretching, never by shrinking."""
        width -= self.margins.left + self.margins.right
        height -= self.margins.top + self.margins.bottom
        aspect = self.pixel_aspect
        if aspect >= 1:
            width = round(width * aspect)
        else:
            height = round(height / aspect)
        return (height, width) if self.transpose else (width, height)

    def oriented(self, picture_HWC: np.ndarray) -> np.ndarray:
        """A view of the stored ``picture_HWC`` as shown."""
        height, width, _ = picture_HWC.shape
        top, bottom, left, right = self.margins
        picture_HWC = picture_HWC[top : height - bottom, left : width - right]
        if self.transpose:
            picture_HWC = picture_HWC.swapaxes(0, 1)
        if self.flip_x:
            picture_HWC = picture_HWC[:, ::-1]
        return picture_HWC[::-1] if self.flip_y else picture_HWC


def geometry(frame: VideoFrame, stream: VideoStream, crop: StatedCrop | None) -> Geometry:
    """The geometry of ``frame``: the container's crop, the stream's pixel aspect, and the frame's display matrix to the nearest of the eight
    orientations."""
    aspect = stream.sample_aspect_ratio
    if aspect is None or not Fraction(1, 20) < aspect < 20:
        aspect = Fraction(1)
    margins = crop.margins(frame.width, frame.height) if crop is not None else WHOLE
    upright = Geometry(pixel_aspect=aspect, margins=margins or WHOLE, states_crop=margins != WHOLE)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return upright
    # A stored point (x, y) is shown at (a x + c y, b x + d y). The picture has a place for it wherever it lies, so the offsets do not count.
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return replace(upright, transpose=True, flip_x=c < 0, flip_y=b < 0)
    return replace(upright, flip_x=a < 0, flip_y=d < 0)


def frame_flags(frame: VideoFrame, shape: Geometry) -> tuple[str, ...]:
    """Which of alpha, cropped_by_file, hdr, interlaced, non_square_pixels and rotated hold for ``frame``, in the order of :data:`~.flags.FLAGS`."""
    holds = {
        "alpha": any(component.is_alpha for component in frame.format.components),
        "cropped_by_file": shape.states_crop,
        "hdr": int(frame.color_trc) in (PQ, HLG),
        "interlaced": bool(frame.interlaced_frame),
        "non_square_pixels": shape.pixel_aspect != 1,
        "rotated": shape.is_turned,
    }
    return tuple(flag for flag in FLAGS if holds.get(flag))
