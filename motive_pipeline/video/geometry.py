"""How a stored frame is meant to be shown: turned, and with square pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from motive_pipeline.video.flags import FLAGS
from motive_pipeline.video.tone_map import HLG, PQ


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How stored pixels become the picture as shown: each pixel is ``pixel_aspect`` times as wide as high; then the picture is turned by
    ``quarter_turns``, counter-clockwise."""

    pixel_aspect: Fraction
    quarter_turns: int

    def shown_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) as shown, of a stored picture of this size. Pixels are made square by stretching, never by shrinking."""
        aspect = self.pixel_aspect
        if aspect >= 1:
            width = round(width * aspect)
        else:
            height = round(height / aspect)
        return (height, width) if self.quarter_turns % 2 else (width, height)


def geometry(frame: VideoFrame, stream: VideoStream) -> Geometry:
    """The geometry of ``frame``: the stream's pixel aspect, and the frame's display matrix to the nearest quarter turn."""
    aspect = stream.sample_aspect_ratio
    if aspect is None or not Fraction(1, 20) < aspect < 20:
        aspect = Fraction(1)
    return Geometry(pixel_aspect=aspect, quarter_turns=round(frame.rotation / 90) % 4)


def frame_flags(frame: VideoFrame, shape: Geometry) -> tuple[str, ...]:
    """Which of alpha, hdr, interlaced, non_square_pixels and rotated hold for ``frame``, in the order of :data:`~.flags.FLAGS`."""
    holds = {
        "alpha": any(component.is_alpha for component in frame.format.components),
        "hdr": int(frame.color_trc) in (PQ, HLG),
        "interlaced": bool(frame.interlaced_frame),
        "non_square_pixels": shape.pixel_aspect != 1,
        "rotated": shape.quarter_turns != 0,
    }
    return tuple(flag for flag in FLAGS if holds.get(flag))
