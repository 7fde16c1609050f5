"""The part of the stored picture that a container says is to be shown: ``clap`` in MP4 and MOV, ``PixelCrop`` in Matroska.

Both stand for the picture as it is stored, before it is turned and before its pixels are made square. FFmpeg's command line cuts it out (from 7.1 on); its
libraries, from which frames are read here, leave that to their user.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedReader
from typing import NamedTuple

from motive_pipeline.video.matroska_elements import pixel_crop
from motive_pipeline.video.mp4_boxes import clean_aperture

MP4, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
"""FFmpeg's names of the containers that can state a crop."""


class Margins(NamedTuple):
    """How many pixels are not shown at each side of the stored picture."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


WHOLE = Margins()
"""Nothing is cut off."""


@dataclass(frozen=True)
class StatedCrop:
    """A crop that a container states: the margins of a stored picture of a given (width, height), before they are checked."""

    of_size: Callable[[int, int], Margins | None]

    def margins(self, width: int, height: int) -> Margins | None:
        """The margins of a stored picture of this size; None if the crop makes no sense for it: nothing is left, or it lies outside of the picture."""
        found = self.of_size(width, height)
        if found is None or min(found) < 0 or found.left + found.right >= width or found.top + found.bottom >= height:
            return None
        return found


def stated_crop(stream: BufferedReader, container: str, track: int, position: int) -> StatedCrop | None:
    """The crop that a file states for one of its tracks, or None. The stream's position stays where it is.

    ``container`` is FFmpeg's name of the format; ``track`` the track's number in MP4; ``position`` its place among the video tracks.
    """
    if container not in (MP4, MATROSKA):
        return None
    at = stream.tell()
    num_bytes = stream.seek(0, io.SEEK_END)
    try:
        if container == MP4:
            clap = clean_aperture(stream, num_bytes, track)
            return None if clap is None else StatedCrop(lambda width, height: _around(clap, width, height))
        sides = pixel_crop(stream, num_bytes, position)
        return None if sides is None else StatedCrop(lambda width, height: Margins(**sides))
    finally:
        stream.seek(at)


def _around(clap: tuple[int, ...], width: int, height: int) -> Margins | None:
    """The margins around a clean aperture (ISO/IEC 14496-12, 12.1.4.1). Fractions of a pixel are rounded to the top left, as in FFmpeg."""
    if min(clap[:4]) < 0 or min(clap[1::2]) <= 0:
        return None
    aperture_width, aperture_height, x, y = (Fraction(*clap[at : at + 2]) for at in (0, 2, 4, 6))
    if aperture_width > width or aperture_height > height:
        return None
    left, top = (width - aperture_width) / 2 + x, (height - aperture_height) / 2 + y
    return Margins(top=int(top), bottom=height - int(top + aperture_height), left=int(left), right=width - int(left + aperture_width))
