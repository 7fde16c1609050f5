"""The layout of each trainer: the files around an export's videos. ``contents.py`` calls these functions.

To add a trainer, write its function and its entry in :data:`TRAINERS`. Its name is that of a source (``sources/layouts.py``), so an
export for a trainer can be read again as that source; the lists of ``lists.py`` are no sources. The layouts follow the trainers' own code. Unexpected things that a trainer does to
captions and frames are stated in its entry.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from motive_pipeline.export.lists import atlas_warnings, write_atlas, write_fiftyone
from motive_pipeline.export.trainer import VIDEOS, Export, ExportedClip, Trainer

SHARD_BYTES = 10**9


def _quoted(text: str) -> str:
    """``text`` as a string of TOML or YAML."""
    return json.dumps(text, ensure_ascii=False)


def _diffsynth(export: Export) -> None:
    export.write_lines("metadata.jsonl", [{"video": clip.path, "prompt": clip.caption} for clip in export.clips])


def _diffusion_pipe(export: Export) -> None:
    """Its buckets count frames after resampling to 16 a second."""
    export.write_json(f"{VIDEOS}/captions.json", {clip.file: [clip.caption] for clip in export.clips})
    buckets = sorted({int(clip.num_frames * 16 / clip.fps) if clip.fps != 24 else clip.num_frames for clip in export.clips})
    export.write(
        "dataset.toml",
        f"resolutions = [[{export.width}, {export.height}]]\nframe_buckets = {buckets}\n\n"
        f"[[directory]]\npath = {_quoted(export.videos)}\nnum_repeats = 1\n",
    )


def _musubi(export: Export) -> None:
    """One data set for each length: with several ``target_frames`` it would use every length that fits into a clip, so long clips several times."""

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
        # models that can do without sound read it only where this block is
        **({"audio": {"auto_split": True, "allow_zero_audio": False}} if export.audio == "keep" else {}),
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


LTX_FRAMES, LTX_SIDE = 8, 32
"""A bucket of LTX-2 has 8n+1 frames, and sides that are multiples of 32 pixels."""


def _ltx(export: Export) -> None:
    """Its buckets are written ``width x height x frames``; each clip goes to the longest that it fills."""
    export.write_json("dataset.json", [{"video": clip.path, "caption": clip.caption} for clip in export.clips])
    width, height = (max(LTX_SIDE, side - side % LTX_SIDE) for side in (export.width, export.height))
    lengths = sorted({_ltx_frames(length) for length in export.lengths} - {1}) or [LTX_FRAMES + 1]
    export.write("buckets.txt", ";".join(f"{width}x{height}x{length}" for length in reversed(lengths)) + "\n")


def _ltx_frames(num_frames: int) -> int:
    """The most frames of a clip that fill a bucket."""
    return num_frames - (num_frames - 1) % LTX_FRAMES


def _ltx_warnings(export: Export) -> Iterator[str]:
    if too_short := sum(clip.num_frames <= LTX_FRAMES for clip in export.clips):
        yield f"{too_short} of {len(export.clips)} clips have fewer than {LTX_FRAMES + 1} frames: it leaves them out."
    if cut := sum(clip.num_frames > LTX_FRAMES and _ltx_frames(clip.num_frames) < clip.num_frames for clip in export.clips):
        yield f"{cut} of {len(export.clips)} clips do not have 8n+1 frames, and it leaves out up to 7 at their end."
    if export.width % LTX_SIDE or export.height % LTX_SIDE:
        yield f"clips.width x clips.height is {export.width} x {export.height}, and it resizes and crops to multiples of {LTX_SIDE}."
    if export.audio == "strip" and export.videos_are == "window":
        yield "the videos have no sound (--audio strip): train on video alone and pass --skip-audio, or export with --audio keep."


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
    """``shard-000000.tar``, ...: under one key a video, its caption as ``.txt`` and its numbers as ``.json``."""
    for number, clips in enumerate(_shards(export)):
        with tarfile.open(export.folder / f"shard-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for clip in clips:
                facts = {name: value for name, value in asdict(clip).items() if name not in ("file", "caption")}
                _add(shard, clip.file, (export.folder / clip.path).read_bytes())
                _add(shard, f"{Path(clip.file).stem}.txt", clip.caption.encode())
                _add(shard, f"{Path(clip.file).stem}.json", json.dumps(facts).encode())


def _shards(export: Export) -> Iterator[list[ExportedClip]]:
    """The clips in order, in groups of about :data:`SHARD_BYTES` of video."""
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
    member.size = len(data)  # without time stamp and owner, so that equal content gives equal bytes
    shard.addfile(member, io.BytesIO(data))


_EMPTY_PROMPT = "they are trained with an empty prompt"
_SHORTEST = "it uses one number of frames for all, and these files set it to the smallest, so longer clips are cut"

TRAINERS: dict[str, Trainer] = {
    "diffsynth": Trainer(
        title="DiffSynth-Studio",
        write=_diffsynth,
        use="--dataset_base_path {home} --dataset_metadata_path {home}/metadata.jsonl --data_file_keys video, and --num_frames, --height, --width as scored",
        without_caption=_EMPTY_PROMPT,
        several_lengths="it cuts longer ones to --num_frames and uses shorter ones as they are",
    ),
    "diffusion_pipe": Trainer(
        title="diffusion-pipe",
        write=_diffusion_pipe,
        use="dataset = '{home}/dataset.toml' in the training's TOML",
        without_caption="it leaves them out, unless skip_empty_caption is false",
        several_lengths="it leaves out a length with fewer clips than a batch",
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
        without_sound="with a model of sound it fails on them, unless audio.allow_zero_audio is true in multidatabackend.json (silence)",
    ),
    "videox_fun": Trainer(
        title="VideoX-Fun",
        write=_videox_fun,
        use='DATASET_NAME="{home}" DATASET_META_NAME="{home}/metadata.json", with --video_sample_stride=1 (its default uses every other frame)',
        without_caption=_EMPTY_PROMPT,
    ),
    "fastvideo": Trainer(
        title="FastVideo", write=_fastvideo, use="its preprocessing over {home} (videos/ and videos2caption.json); versions that read a merged data set need {home}/merge.txt", without_caption=_EMPTY_PROMPT, commas=False
    ),
    "nemo": Trainer(
        title="NeMo Automodel",
        write=_nemo,
        use="its preprocessing over {home}/videos, --caption_field caption",
        without_caption="it uses the file's name as prompt",
    ),
    "open_sora": Trainer(
        title="Open-Sora", write=_open_sora, use='dataset = dict(data_path="{home}/dataset.csv")', without_caption="pandas reads them as nan", reads_csv=True
    ),
    "open_sora_plan": Trainer(
        title="Open-Sora-Plan", write=_open_sora_plan, use="--data {home}/merge_data.txt", without_caption=_EMPTY_PROMPT, commas=False
    ),
    "videotuna": Trainer(
        title="VideoTuna", write=_videotuna, use="csv_path: {home}/metadata.csv, data_root: {home}", without_caption="pandas reads them as nan", reads_csv=True
    ),
    "ltx": Trainer(
        title="LTX-2's ltx-trainer",
        write=_ltx,
        use='scripts/process_dataset.py "{home}/dataset.json" --video-column video --resolution-buckets "$(cat "{home}/buckets.txt")", and --model-path, --text-encoder-path',
        without_caption=_EMPTY_PROMPT,
        several_lengths="its optimization.batch_size must be 1",
        needs_window=True,
        without_sound="it gives them no audio latents, and skips them when it trains on sound",
        own_warnings=_ltx_warnings,
        version=2,
    ),
    "videofolder": Trainer(
        title="Hugging Face videofolder (also finetrainers, FastVideo)",
        write=_videofolder,
        use='datasets.load_dataset("videofolder", data_dir="{home}")',
    ),
    "fiftyone": Trainer(
        title="FiftyOne", write=write_fiftyone, use='fiftyone.Dataset.from_dir(dataset_dir="{home}", dataset_type=fiftyone.types.FiftyOneDataset)'
    ),
    "embedding_atlas": Trainer(
        title="Embedding Atlas", write=write_atlas, use='embedding-atlas "{home}/clips.parquet" --vector gradient', reads_gradients=True, own_warnings=atlas_warnings
    ),
    "webdataset": Trainer(
        title="WebDataset", write=_webdataset, use='webdataset.WebDataset("{home}/shard-{{000000..NNNNNN}}.tar")', keeps_videos=False
    ),
}  # fmt: skip
