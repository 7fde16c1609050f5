"""The layouts in which data sets and trainers keep clips: where the table is, which of its columns count, and how a row finds its file.

There is one entry for each layout; table_source.py reads them. docs/data.md shows them to users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motive_pipeline.sources.captions import CAPTION_COLUMNS
from motive_pipeline.sources.window_columns import ALL_WINDOWS, OPEN_SORA_PLAN_WINDOWS, WindowColumns

PATH_COLUMNS = ("video", "file_name", "path", "file_path", "video_path", "media_path", "filename", "file", "clip_location", "vid")
"""Names of columns that hold the path of the video. The first one that a row has counts."""

BYTES_COLUMNS = ("mp4", "video_bytes", "bytes")
"""Names of columns that hold whole videos as bytes. They are tried after :data:`PATH_COLUMNS`."""

Join = Literal["path", "name", "stem", "number"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one kind of data set is stored.

    ``tables`` are glob patterns below ``clips.path``; the first one that finds something counts. ``join`` is how a row finds its file: by
    the ``path`` in the row, by file ``name`` or ``stem`` anywhere below the folder, or by ``number`` (4DNeX). ``below`` is the sub-folder
    that relative paths start from, if that is not the folder of the table. ``sidecars`` are the endings of the text files beside the videos
    that are read if there is no table; when empty, a table is required. ``windows`` are the columns that name a window of the file.
    """

    tables: tuple[str, ...] = ()
    path_columns: tuple[str, ...] = PATH_COLUMNS
    caption_columns: tuple[str, ...] = CAPTION_COLUMNS
    join: Join = "path"
    below: str = ""
    sidecars: tuple[str, ...] = ()
    windows: tuple[WindowColumns, ...] = ()


_TXT = (".txt", ".caption")

LAYOUTS: dict[str, Layout] = {
    "csv": Layout(tables=("*.csv", "*.tsv"), windows=ALL_WINDOWS),
    "json": Layout(tables=("*.json",), windows=ALL_WINDOWS),
    "jsonl": Layout(tables=("*.jsonl", "*.ndjson"), windows=ALL_WINDOWS),
    "parquet": Layout(tables=("*.parquet", "data/*.parquet"), windows=ALL_WINDOWS),
    "videofolder": Layout(
        tables=("**/metadata.csv", "**/metadata.jsonl", "**/metadata.parquet"), path_columns=("file_name",), windows=ALL_WINDOWS
    ),
    "openvid": Layout(tables=("**/OpenVid-1M.csv", "**/OpenVidHD.csv", "**/OpenVid*.csv"), path_columns=("video",), join="name"),
    "vidgen": Layout(tables=("**/VidGen_1M_video_caption.json", "**/*caption*.json"), path_columns=("vid",), join="stem"),
    "4dnex": Layout(tables=("**/*_with_caption_upload.csv",), path_columns=("number",), join="number"),
    "diffsynth": Layout(tables=("metadata.csv", "metadata.jsonl", "metadata.json"), path_columns=("video",), caption_columns=("prompt",)),
    "diffusion_pipe": Layout(tables=("**/captions.json",), sidecars=_TXT),
    "musubi": Layout(tables=("*.jsonl",), path_columns=("video_path",), sidecars=_TXT),
    "finetrainers": Layout(tables=("videos.txt",), sidecars=_TXT),
    "ai_toolkit": Layout(sidecars=_TXT),
    "simpletuner": Layout(tables=("*.parquet", "*.jsonl"), path_columns=(*PATH_COLUMNS, "id"), sidecars=_TXT),
    "videox_fun": Layout(
        tables=("metadata.json", "metadata.csv", "videox_fun.json"), path_columns=("file_path",), caption_columns=("text",)
    ),
    "fastvideo": Layout(tables=("videos2caption.json",), path_columns=("path",), caption_columns=("cap",), below="videos"),
    "nemo": Layout(tables=("meta.json", "meta.jsonl", "*.jsonl"), sidecars=(".json", ".txt")),
    "videotuna": Layout(tables=("*.csv",), path_columns=("path",)),
    "open_sora": Layout(tables=("*.csv", "*.parquet"), path_columns=("path",), caption_columns=("text",)),
    "open_sora_plan": Layout(tables=("*.json",), path_columns=("path",), caption_columns=("cap",), windows=OPEN_SORA_PLAN_WINDOWS),
    "ltx": Layout(tables=("*.csv", "*.json", "*.jsonl"), path_columns=("video", "media_path")),
    "cosmos": Layout(tables=("metas/v0/*.json",), path_columns=("clip_location", "span_uuid"), join="stem"),
    "video2dataset": Layout(sidecars=(".json", ".txt")),
    "webdataset": Layout(sidecars=(".txt", ".caption", ".json")),
    "zip": Layout(sidecars=(".txt", ".caption", ".json")),
}
