"""One side of benchmarks/readers.py: the frames of the window of each film by one library, in a process of its own.

    python -m benchmarks.reader_sides SIDE --films DIR        prints one line of JSON

Every side opens the film, finds the frames nearest to 0, 1/16, ... 80/16 s after its first one, and gives them as RGB in memory; that is what
the clock sees, not the import. Each uses one thread. A library is asked in two ways: by frame number, from the average rate that it states, as
loaders mostly do; and by time, with the best that it offers for that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

FPS = 16
NUM_FRAMES = 81
WIDTH, HEIGHT = 832, 480
NUM_BITS = 10
CELL_PX = 32

WANTED_S = np.arange(NUM_FRAMES) / FPS

Read = Callable[[str], np.ndarray]


def ours() -> Read:
    """The pipeline's reader."""
    from motive_pipeline.video.decode import FrameRule, read_clip

    rule = FrameRule(num_frames=NUM_FRAMES, min_frames=NUM_FRAMES, fps=FPS, width=WIDTH, height=HEIGHT)
    return lambda film: read_clip(Path(film), rule).frames_THWC


def decord_by_rate() -> Read:
    """decord: ``get_batch`` of frame numbers."""
    import decord

    def read(film: str) -> np.ndarray:
        reader = decord.VideoReader(film, num_threads=1)
        return reader.get_batch(_numbers(reader.get_avg_fps(), len(reader))).asnumpy()

    return read


def decord_by_time() -> Read:
    """decord: the same, with the numbers that its own table of time stamps gives."""
    import decord

    def read(film: str) -> np.ndarray:
        reader = decord.VideoReader(film, num_threads=1)
        starts_s = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        return reader.get_batch(_nearest(starts_s - starts_s[0])).asnumpy()

    return read


def torchcodec_by_rate() -> Read:
    """torchcodec: ``get_frames_at``, in its default mode, which looks at every packet first."""
    from torchcodec.decoders import VideoDecoder

    def read(film: str) -> np.ndarray:
        decoder = VideoDecoder(film, dimension_order="NHWC", num_ffmpeg_threads=1)
        numbers = _numbers(decoder.metadata.average_fps, decoder.metadata.num_frames)
        return decoder.get_frames_at(numbers.tolist()).data.numpy()

    return read


def torchcodec_by_time() -> Read:
    """torchcodec: ``get_frames_played_at``, half an average frame later, since it gives the frame on display and not the nearest one."""
    from torchcodec.decoders import VideoDecoder

    def read(film: str) -> np.ndarray:
        decoder = VideoDecoder(film, dimension_order="NHWC", num_ffmpeg_threads=1)
        start_s, half_s = decoder.metadata.begin_stream_seconds, 0.5 / decoder.metadata.average_fps
        return decoder.get_frames_played_at((start_s + half_s + WANTED_S).tolist()).data.numpy()

    return read


def opencv_by_rate() -> Read:
    """OpenCV: forwards through the film, converting the frames whose number is wanted."""
    import cv2

    def read(film: str) -> np.ndarray:
        capture = _capture(film)
        numbers = _numbers(capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        pictures: dict[int, np.ndarray] = {}
        for number in range(numbers[-1] + 1):
            if not capture.grab():
                break
            if number in numbers:
                pictures[number] = _rgb(capture)
        return np.stack([pictures[number] for number in numbers])

    return read


def opencv_by_time() -> Read:
    """OpenCV: forwards through the film, with the time that it states after each frame; all are converted, for the nearest is known one later."""
    import cv2

    def read(film: str) -> np.ndarray:
        capture = _capture(film)
        pictures: list[np.ndarray] = []
        before: tuple[float, np.ndarray] | None = None
        start_s: float | None = None
        while len(pictures) < NUM_FRAMES and capture.grab():
            stated_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            start_s = stated_s if start_s is None else start_s
            now = stated_s - start_s, _rgb(capture)
            while len(pictures) < NUM_FRAMES and WANTED_S[len(pictures)] <= now[0]:
                wanted_s = WANTED_S[len(pictures)]
                is_nearer = before is not None and wanted_s - before[0] <= now[0] - wanted_s
                pictures.append(before[1] if is_nearer else now[1])  # type: ignore[index]
            before = now
        return np.stack(pictures)

    return read


SIDES: dict[str, Callable[[], Read]] = {
    "ours": ours,
    "decord-by-rate": decord_by_rate,
    "decord-by-time": decord_by_time,
    "torchcodec-by-rate": torchcodec_by_rate,
    "torchcodec-by-time": torchcodec_by_time,
    "opencv-by-rate": opencv_by_rate,
    "opencv-by-time": opencv_by_time,
}


def _numbers(fps: float, num_frames: int) -> np.ndarray:
    return np.minimum(np.rint(WANTED_S * fps).astype(int), num_frames - 1)


def _nearest(times_s: np.ndarray) -> np.ndarray:
    return np.abs(times_s[None, :] - WANTED_S[:, None]).argmin(axis=1)


def _capture(film: str) -> Any:
    import cv2

    return cv2.VideoCapture(film, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])


def _rgb(capture: Any) -> np.ndarray:
    import cv2

    return cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)


def number_shown(picture_HWC: np.ndarray) -> int:
    """The number that a frame carries as black and white cells, below them the same with black and white swapped; -1 where they do not fit."""
    if picture_HWC.shape != (HEIGHT, WIDTH, 3):
        return -1
    grey = picture_HWC[: 2 * CELL_PX, : NUM_BITS * CELL_PX].mean(axis=2)
    bits = grey.reshape(2, CELL_PX, NUM_BITS, CELL_PX).mean(axis=(1, 3)) > 127
    return -1 if (bits[0] == bits[1]).any() else int(bits[0] @ (1 << np.arange(NUM_BITS)))


def main() -> None:
    """Read every film once, after one for practice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--films", type=Path, required=True)
    arguments = parser.parse_args()
    read = SIDES[arguments.side]()
    films = sorted(arguments.films.glob("*.m*"))
    read(str(films[0]))
    found = {}
    for film in films:
        frames: list[np.ndarray] = []
        try:
            cost = common.measured(lambda film=film, frames=frames: frames.extend(read(str(film))))
        except Exception as error:  # noqa: BLE001  whatever a library does with a film is what is measured
            found[film.stem] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            continue
        found[film.stem] = {"seconds": cost.seconds, "cpu_s": cost.cpu_s, "numbers": [number_shown(frame) for frame in frames]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
