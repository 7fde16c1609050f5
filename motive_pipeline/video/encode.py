"""Writes frames as an H.264 file, with sound as AAC where there is some. Its bytes depend only on frames, sound and settings."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer

from motive_pipeline.video.audio import Sound

CRF = 12
AAC_BITS_PER_CHANNEL = 96_000
"""Bits a second."""
_AAC_FRAME = 1024
_BT709 = 1  # AVCOL_SPC_BT709, AVCOL_PRI_BT709 and AVCOL_TRC_BT709 share this value
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG
# With B-frames, x264 gives different bytes for equal small pictures from one call to the next.
_DETERMINISTIC = {"preset": "medium", "threads": "1", "bf": "0", "rc-lookahead": "0"}


def write_mp4(path: str | Path, frames_FHWC: np.ndarray, fps: float | int, *, crf: int = CRF, sound: Sound | None = None) -> None:
    """Encode RGB frames as yuv420p H.264 in an MP4 with its index in front, with ``sound`` from the first frame to the end of the last.

    Equal frames, sound and settings give equal bytes on one machine: there is one encoder thread, and no date in the file. The file appears whole
    or not at all: it is written under another name in the same folder and then moved.

    Raises:
        ValueError: ``frames_FHWC`` is not uint8 (F >= 1, even H, even W, 3).
    """
    frames_FHWC = np.ascontiguousarray(frames_FHWC)
    _require_frames(frames_FHWC)
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        rate = Fraction(fps).limit_denominator(1001)
        _encode(unfinished, frames_FHWC, rate, crf, None if sound is None else sound.first(len(frames_FHWC) / rate))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _require_frames(frames_FHWC: np.ndarray) -> None:
    shape = frames_FHWC.shape
    if frames_FHWC.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise ValueError(f"frames must be uint8 (F, H, W, 3) with F >= 1, not {frames_FHWC.dtype} {shape}")
    if shape[1] % 2 or shape[2] % 2:
        raise ValueError(f"yuv420p needs an even height and width, not {shape[1]}x{shape[2]}")


def _encode(path: Path, frames_FHWC: np.ndarray, fps: Fraction, crf: int, sound: Sound | None) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=_DETERMINISTIC | {"crf": str(crf)})
        stream.height, stream.width = frames_FHWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        if sound is not None:
            _encode_sound(container, sound)
        for frame_HWC in frames_FHWC:
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _encode_sound(container: OutputContainer, sound: Sound) -> None:
    """Add the sound as AAC. The muxer holds its packets back until the pictures of their time have come."""
    layout = "mono" if len(sound.samples_CS) == 1 else "stereo"
    stream = container.add_stream("aac", rate=sound.rate, layout=layout)
    stream.bit_rate = AAC_BITS_PER_CHANNEL * len(sound.samples_CS)
    for start in range(0, sound.samples_CS.shape[1], _AAC_FRAME):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound.samples_CS[:, start : start + _AAC_FRAME]), format="fltp", layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = sound.rate, start, Fraction(1, sound.rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
