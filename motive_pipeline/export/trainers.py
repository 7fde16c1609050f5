"""What each trainer reads: the files around an export's videos. One entry each; subset.py writes the videos and calls these.

The names are those of the sources (sources/layouts.py), so what is exported for a trainer can be read in again as that source. The layouts are
the trainers' own, read from their code; what they do to captions and frames that a user would not expect stands beside them.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

VIDEOS = "videos"

Videos = Literal["window", "original"]
"""What the videos of an export are: the frames that were scored, or the clips' own files."""

PANDAS_NOTHING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}  # fmt: skip
"""Captions that ``pandas.read_csv`` takes for no value; trainers that read CSV crash on them or train on the word "nan"."""

SHARD_BYTES = 10**9


@dataclass(frozen=True, kw_only=True)
class ExportedClip:
    """A video of an export: ``file`` is its name below ``videos/``; the numbers are those of the file as it lies there."""

    clip_id: str
    file: str
    caption: str
    num_frames: int
    fps: float
    width: int
    height: int

    @property
    def path(self) -> str:
        """Relative to the export."""
        return f"{VIDEOS}/{self.file}"


@dataclass(frozen=True, kw_only=True)
class Export:
    """``folder`` is where the files are written; ``home`` is where they will lie, for those that must name absolute paths. ``clips`` are in the
    order of the subset, best first. ``fps``, ``width`` and ``height`` are those at which the clips were scored."""

    folder: Path
    home: Path
    clips: Sequence[ExportedClip]
    fps: float
    width: int
    height: int

    @property
    def lengths(self) -> list[int]:
        """The different numbers of frames, ascending."""
        return sorted({clip.num_frames for clip in self.clips})

    @property
    def videos(self) -> str:
        """Where the videos will lie."""
        return str(self.home / VIDEOS)

    def write(self, name: str, text: str) -> None:
        """A text file, UTF-8, lines ending in a line feed."""
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")

    def write_json(self, name: str, value: Any) -> None:
        """JSON with every character beyond ASCII escaped: trainers open files in the encoding of their machine."""
        self.write(name, json.dumps(value, indent=1) + "\n")

    def write_lines(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """JSON lines, ASCII as in :meth:`write_json`."""
        self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def write_csv(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """CSV with a header, every text quoted."""
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(rows[0]), quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        self.write(name, text.getvalue())

    def write_sidecars(self) -> None:
        """A ``.txt`` beside each video: its caption in one line."""
        for clip in self.clips:
            self.write(f"{VIDEOS}/{Path(clip.file).stem}.txt", clip.caption + "\n")


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A trainer, or a format that several read. ``use`` tells a person how to point it at the export, whose folder stands for ``{home}``.

    ``without_caption`` says what it makes of a clip without a caption, ``several_lengths`` what of clips of different lengths, where that is
    not what one would expect.
    """

    title: str
    write: Callable[[Export], None]
    use: str
    without_caption: str = ""
    several_lengths: str = ""
    reads_csv: bool = False
    needs_window: bool = False
    """Its settings name the rate and the numbers of frames, which the clips' own files need not have."""

    own_fps: tuple[float, ...] = ()
    """The rates that it resamples to, whatever the file's."""

    commas: bool = True
    """Whether a comma may stand in the export's path."""

    keeps_videos: bool = True
    """False: ``write`` packs the videos, and the folder ``videos`` is not part of the export."""

    def warnings(self, export: Export) -> Iterator[str]:
        """What a person should know before training on this export."""
        blank = sum(not clip.caption for clip in export.clips)
        if blank and self.without_caption:
            yield f"{blank} of {len(export.clips)} clips have no caption: {self.without_caption}."
        lost = [clip.caption for clip in export.clips if clip.caption and clip.caption in PANDAS_NOTHING] if self.reads_csv else []
        if lost:
            yield f"{len(lost)} captions are words that pandas takes for no value ({', '.join(sorted(set(lost)))}): give these clips real ones."
        if self.own_fps and export.fps not in self.own_fps:
            rates = " or ".join(f"{fps:g}" for fps in self.own_fps)
            yield f"clips.fps is {export.fps:g}, and it resamples to {rates} frames a second: other frames than were scored."
        if not self.commas and "," in str(export.home):
            yield f"it splits {export.home} at the comma: export to a folder without one."
        if export.lengths[0] == 1:
            yield "clips of one frame are pictures to most trainers."
        if len(export.lengths) > 1 and self.several_lengths:
            listed = ", ".join(map(str, export.lengths[:6]))
            yield f"the clips have {len(export.lengths)} different numbers of frames ({listed}{', ...' if len(export.lengths) > 6 else ''}): {self.several_lengths}."


def _quoted(text: str) -> str:
    """A string of TOML or YAML."""
    return json.dumps(text, ensure_ascii=False)


def _diffsynth(export: Export) -> None:
    export.write_lines("metadata.jsonl", [{"video": clip.path, "prompt": clip.caption} for clip in export.clips])


def _diffusion_pipe(export: Export) -> None:
    """Its buckets count frames at the 16 a second that it resamples to."""
    export.write_json(f"{VIDEOS}/captions.json", {clip.file: [clip.caption] for clip in export.clips})
    buckets = sorted({int(clip.num_frames * 16 / clip.fps) if clip.fps != 24 else clip.num_frames for clip in export.clips})
    export.write(
        "dataset.toml",
        f"resolutions = [[{export.width}, {export.height}]]\nframe_buckets = {buckets}\n\n"
        f"[[directory]]\npath = {_quoted(export.videos)}\nnum_repeats = 1\n",
    )


def _musubi(export: Export) -> None:
    """A data set for each length: of several ``target_frames`` it takes every one that a clip has room for, and so long clips several times."""

    def table(name: str, clips: Sequence[ExportedClip]) -> str:
        export.write_lines(name, [{"video_path": f"{export.videos}/{clip.file}", "caption": clip.caption} for clip in clips])
        return str(export.home / name)

    everything = table("musubi.jsonl", export.clips)
    lines = [f"[general]\nresolution = [{export.width}, {export.height}]\nbatch_size = 1\nenable_bucket = true\n"]
    for length in export.lengths:
        own = [clip for clip in export.clips if clip.num_frames == length]
        lines.append(
            f"[[datasets]]\nvideo_jsonl_file = {_quoted(everything if len(export.lengths) == 1 else table(f'lengths/{length}.jsonl', own))}\n"
            f"cache_directory = {_quoted(str(export.home / 'cache' / str(length)))}\n"
            f'target_frames = [{length}]\nframe_extraction = "head"\nsource_fps = {float(export.fps)}\n'
        )
    export.write("dataset.toml", "\n".join(lines))


def _finetrainers(export: Export) -> None:
    export.write_sidecars()
    buckets = [[length, export.height, export.width] for length in export.lengths]
    export.write_json(
        "training.json",
        {
            "datasets": [
                {"data_root": export.videos, "dataset_type": "video", "video_resolution_buckets": buckets, "reshape_mode": "bicubic"}
            ]
        },
    )


def _ai_toolkit(export: Export) -> None:
    export.write_sidecars()
    export.write(
        "datasets.yaml",
        f'datasets:\n  - folder_path: {_quoted(export.videos)}\n    caption_ext: "txt"\n    num_frames: {export.lengths[0]}\n'
        f"    fps: {export.fps:g}\n    shrink_video_to_frames: false\n    resolution: [{min(export.width, export.height)}]\n",
    )


def _simpletuner(export: Export) -> None:
    export.write_sidecars()
    shortest = export.lengths[0]
    videos = {
        "id": "motive",
        "type": "local",
        "dataset_type": "video",
        "instance_data_dir": export.videos,
        "cache_dir_vae": str(export.home / "cache" / "vae"),
        "caption_strategy": "textfile",
        "metadata_backend": "discovery",
        "resolution": min(export.width, export.height),
        "resolution_type": "pixel",
        "minimum_image_size": 0,
        "repeats": 0,
        "delete_problematic_images": False,
        "video": {"num_frames": shortest, "min_frames": shortest},
    }
    texts = {
        "id": "text-embeds",
        "type": "local",
        "dataset_type": "text_embeds",
        "default": True,
        "cache_dir": str(export.home / "cache" / "text"),
    }
    export.write_json("multidatabackend.json", [videos, texts])


def _videox_fun(export: Export) -> None:
    rows = [
        {"file_path": clip.path, "text": clip.caption, "type": "video", "width": clip.width, "height": clip.height} for clip in export.clips
    ]
    export.write_json("metadata.json", rows)


def _fastvideo(export: Export) -> None:
    rows = [
        {
            "path": clip.file,
            "cap": [clip.caption],
            "fps": clip.fps,
            "duration": clip.num_frames / clip.fps,
            "num_frames": clip.num_frames,
            "resolution": {"width": clip.width, "height": clip.height},
        }
        for clip in export.clips
    ]
    export.write_json("videos2caption.json", rows)
    export.write("merge.txt", f"{export.videos},{export.home / 'videos2caption.json'}\n")


def _nemo(export: Export) -> None:
    for clip in export.clips:
        export.write_json(f"{VIDEOS}/{Path(clip.file).stem}.json", {"caption": clip.caption})


def _videofolder(export: Export) -> None:
    export.write_lines("metadata.jsonl", [{"file_name": clip.path, "caption": clip.caption} for clip in export.clips])


def _ltx(export: Export) -> None:
    export.write_json("dataset.json", [{"media_path": clip.path, "caption": clip.caption} for clip in export.clips])


def _videotuna(export: Export) -> None:
    export.write_csv("metadata.csv", [{"path": clip.path, "caption": clip.caption} for clip in export.clips])


def _open_sora(export: Export) -> None:
    rows = [
        {
            "path": f"{export.home}/{clip.path}",
            "text": clip.caption,
            "num_frames": clip.num_frames,
            "height": clip.height,
            "width": clip.width,
            "aspect_ratio": clip.height / clip.width,
            "resolution": clip.height * clip.width,
            "fps": clip.fps,
        }
        for clip in export.clips
    ]
    export.write_csv("dataset.csv", rows)


def _open_sora_plan(export: Export) -> None:
    rows = [
        {
            "path": clip.path,
            "cap": [clip.caption],
            "num_frames": clip.num_frames,
            "fps": clip.fps,
            "resolution": {"height": clip.height, "width": clip.width},
        }
        for clip in export.clips
    ]
    export.write_json("dataset.json", rows)
    export.write("merge_data.txt", f"{export.home},{export.home / 'dataset.json'}\n")


def _webdataset(export: Export) -> None:
    """``shard-000000.tar``, ...: a video, its caption as ``.txt`` and its numbers as ``.json`` under one key."""
    for number, clips in enumerate(_shards(export)):
        with tarfile.open(export.folder / f"shard-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for clip in clips:
                facts = {name: value for name, value in asdict(clip).items() if name not in ("file", "caption")}
                _add(shard, clip.file, (export.folder / clip.path).read_bytes())
                _add(shard, f"{Path(clip.file).stem}.txt", clip.caption.encode())
                _add(shard, f"{Path(clip.file).stem}.json", json.dumps(facts).encode())


def _shards(export: Export) -> Iterator[list[ExportedClip]]:
    """The clips in order, so many together that their videos have about :data:`SHARD_BYTES`."""
    shard, num_bytes = [], 0
    for clip in export.clips:
        shard.append(clip)
        num_bytes += (export.folder / clip.path).stat().st_size
        if num_bytes >= SHARD_BYTES:
            yield shard
            shard, num_bytes = [], 0
    if shard:
        yield shard


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)  # no time stamp, no owner: equal content gives equal bytes
    shard.addfile(member, io.BytesIO(data))


_EMPTY_PROMPT = "they are trained with an empty prompt"
_SHORTEST = "it takes one number for all, and the files here give it the smallest, so longer clips are cut"

TRAINERS: dict[str, Trainer] = {
    "diffsynth": Trainer(
        title="DiffSynth-Studio",
        write=_diffsynth,
        use="--dataset_base_path {home} --dataset_metadata_path {home}/metadata.jsonl --data_file_keys video, and --num_frames, --height, --width as scored",
        without_caption=_EMPTY_PROMPT,
        several_lengths="it cuts longer ones to --num_frames and takes shorter ones as they are",
    ),
    "diffusion_pipe": Trainer(
        title="diffusion-pipe",
        write=_diffusion_pipe,
        use="dataset = '{home}/dataset.toml' in the training's TOML",
        without_caption="it leaves them out, unless skip_empty_caption is false",
        several_lengths="a length that fewer clips have than fill a batch is left out",
        needs_window=True,
        own_fps=(16.0, 24.0),
    ),
    "musubi": Trainer(
        title="musubi-tuner", write=_musubi, use="--dataset_config {home}/dataset.toml", without_caption=_EMPTY_PROMPT, needs_window=True
    ),
    "finetrainers": Trainer(
        title="finetrainers", write=_finetrainers, use="--dataset_config {home}/training.json", without_caption=_EMPTY_PROMPT, needs_window=True
    ),
    "ai_toolkit": Trainer(
        title="ai-toolkit",
        write=_ai_toolkit,
        use="put the lines of {home}/datasets.yaml into the training's YAML",
        without_caption=_EMPTY_PROMPT,
        several_lengths=_SHORTEST,
        needs_window=True,
    ),
    "simpletuner": Trainer(
        title="SimpleTuner",
        write=_simpletuner,
        use='"data_backend_config": "{home}/multidatabackend.json"',
        without_caption=_EMPTY_PROMPT,
        several_lengths=_SHORTEST,
        needs_window=True,
    ),
    "videox_fun": Trainer(
        title="VideoX-Fun",
        write=_videox_fun,
        use='DATASET_NAME="{home}" DATASET_META_NAME="{home}/metadata.json", with --video_sample_stride=1 (its default takes every other frame)',
        without_caption=_EMPTY_PROMPT,
    ),
    "fastvideo": Trainer(
        title="FastVideo", write=_fastvideo, use="its preprocessing over {home} (videos/ and videos2caption.json); versions that take a merged data set want {home}/merge.txt", without_caption=_EMPTY_PROMPT, commas=False
    ),
    "nemo": Trainer(
        title="NeMo Automodel",
        write=_nemo,
        use="its preprocessing over {home}/videos, --caption_field caption",
        without_caption="it takes the file's name for a prompt",
    ),
    "open_sora": Trainer(
        title="Open-Sora", write=_open_sora, use='dataset = dict(data_path="{home}/dataset.csv")', without_caption="pandas makes them nan", reads_csv=True
    ),
    "open_sora_plan": Trainer(
        title="Open-Sora-Plan", write=_open_sora_plan, use="--data {home}/merge_data.txt", without_caption=_EMPTY_PROMPT, commas=False
    ),
    "videotuna": Trainer(
        title="VideoTuna", write=_videotuna, use="csv_path: {home}/metadata.csv, data_root: {home}", without_caption="pandas makes them nan", reads_csv=True
    ),
    "ltx": Trainer(
        title="LTX-Video-Trainer", write=_ltx, use="preprocess_dataset.py {home}/dataset.json --caption-column caption --video-column media_path", without_caption=_EMPTY_PROMPT
    ),
    "videofolder": Trainer(
        title="Hugging Face videofolder (also finetrainers, FastVideo)",
        write=_videofolder,
        use='datasets.load_dataset("videofolder", data_dir="{home}")',
    ),
    "webdataset": Trainer(
        title="WebDataset", write=_webdataset, use='webdataset.WebDataset("{home}/shard-{{000000..NNNNNN}}.tar")', keeps_videos=False
    ),
}  # fmt: skip
