"""One decoded frame -> an RGB picture of the wanted size.

The frame is converted to RGB, cropped as its container says, turned and mirrored by its display matrix, its pixels are made square, and it is
scaled until it covers the wanted size and centre-cropped. Last, HDR is mapped to SDR if the caller asks for it (tone_map.py). Shrinking averages over areas, which avoids aliasing;
enlarging is bilinear; a picture that has the wanted size is not resampled.
"""

from __future__ import annotations

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from jaxtyping import UInt8, UInt16

from motive_pipeline.errors import RejectRow
from motive_pipeline.video.geometry import Geometry
from motive_pipeline.video.tone_map import HLG, PQ, sdr

Stored = UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]
Resized = UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"]

_CHROMA = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_UNSPECIFIED_COLOURS = 2  # AVCOL_SPC_UNSPECIFIED
_BT601, _BT709 = 5, 1  # SWS_CS_ITU601, SWS_CS_ITU709
_HD_LINES = 720


def picture(frame: VideoFrame, shape: Geometry, *, width: int, height: int, tone_map: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """``frame`` as shown, scaled to cover ``width`` x ``height`` and centre-cropped.

    With ``tone_map``, a PQ or HLG frame is mapped to SDR. Without, its coded values are taken as they are, in 8 bits.
    """
    is_mapped = tone_map and int(frame.color_trc) in (PQ, HLG)
    stored_HWC = rgb(frame, "rgb48le" if is_mapped else "rgb24")
    shown_HWC = shape.oriented(stored_HWC)
    shown_width, shown_height = shape.shown_size(frame.width, frame.height)
    scale = cover_scale(shown_width, shown_height, width=width, height=height)
    scaled_HWC = _resized(shown_HWC, max(width, round(shown_width * scale)), max(height, round(shown_height * scale)))
    top, left = (scaled_HWC.shape[0] - height) // 2, (scaled_HWC.shape[1] - width) // 2
    shown_HWC = np.ascontiguousarray(scaled_HWC[top : top + height, left : left + width])
    return sdr(shown_HWC, int(frame.color_trc)) if is_mapped else shown_HWC


def cover_scale(shown_width: int, shown_height: int, *, width: int, height: int) -> float:
    """The factor that makes a picture just cover ``width`` x ``height``."""
    return max(width / shown_width, height / shown_height)


def rgb(frame: VideoFrame, pixels: str = "rgb24") -> Stored:
    """The stored pixels as RGB, without alpha. Colours that the file does not name are BT.709 from 720 lines on, else BT.601, as in players.

    Raises:
        RejectRow: ``unsupported_colours``.
    """
    colours = int(frame.colorspace)
    source = {"src_colorspace": _BT709 if frame.height >= _HD_LINES else _BT601} if colours == _UNSPECIFIED_COLOURS else {}
    try:
        return frame.reformat(format=pixels, interpolation=_CHROMA, threads=1, **source).to_ndarray()
    except (OSError, ValueError) as error:
        what = f"matrix {colours} of ITU-T H.273, pixel format {frame.format.name}"
        raise RejectRow(
            "unsupported_colours", f"FFmpeg cannot convert its colours to RGB ({what}): {error}. Encode it anew with BT.709 colours"
        ) from error


def _resized(picture_HWC: Stored, width: int, height: int) -> Resized:
    """Resize by area average along an axis that shrinks, bilinearly along an axis that grows."""
    old_height, old_width = picture_HWC.shape[:2]
    if (old_height, old_width) == (height, width):
        return picture_HWC
    picture_HWC = np.ascontiguousarray(picture_HWC)
    if width <= old_width and height <= old_height:
        return _scaled(picture_HWC, width, height, cv2.INTER_AREA)
    if width >= old_width and height >= old_height:
        return _scaled(picture_HWC, width, height, cv2.INTER_LINEAR)
    shrunk_HWC = _scaled(picture_HWC, min(width, old_width), min(height, old_height), cv2.INTER_AREA)
    return _scaled(shrunk_HWC, width, height, cv2.INTER_LINEAR)


def _scaled(picture_HWC: Stored, width: int, height: int, interpolation: int) -> Resized:
    return np.asarray(cv2.resize(picture_HWC, (width, height), interpolation=interpolation), dtype=picture_HWC.dtype)
