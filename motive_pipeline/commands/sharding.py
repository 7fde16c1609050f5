"""``motive run --shard i/n`` and ``motive merge``: the rows of one share of the clips, and all shares taken into the main root."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from motive_pipeline.commands.options import count
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.shards.share import Share, shards_folder
from motive_pipeline.storage.shard_folders import shown
from motive_pipeline.visible_text import tell

if TYPE_CHECKING:  # they import torch
    from motive_pipeline.shards.merge import Merged
    from motive_pipeline.shards.record import ShardRecord


def add_folder_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--shards-folder``."""
    parser.add_argument(
        "--shards-folder", type=Path, metavar="FOLDER", help="where the shards lie (default: shards/ below storage.root); the same for all"
    )


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``merge`` to the command line."""
    parser = command(
        "merge", merge, "Take the rows of all shards (`motive run --shard i/n`) into the main root. Then `motive run` publishes."
    )
    parser.add_argument(
        "--shards", type=count, metavar="N", help="into how many shards the work was split (default: the one set that is there)"
    )
    add_folder_option(parser)
    parser.add_argument("--json", action="store_true", help="print what was taken over as one line of JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")


def share(text: str) -> Share:
    """``text`` as a shard."""
    try:
        return Share.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(config: Config, arguments: argparse.Namespace) -> int:
    """Run one shard, and say what it has made."""
    from motive_pipeline.shards.run import run_shard

    if arguments.summary:
        raise MotiveError("--summary is about the report, which a shard does not make. Leave it out.")
    folder = arguments.shard.folder(shards_folder(config, arguments.shards_folder))
    record = run_shard(config, arguments.shard, folder)
    if arguments.json:
        print(json.dumps(asdict(record)))
        return 0
    for line in shard_lines(record, folder):
        tell(line)
    return 0


def shard_lines(record: ShardRecord, folder: Path) -> list[str]:
    """What a shard has made, one line for each asset."""
    width = max(map(len, record.assets), default=0)
    lines = [
        f"{name:{width}}  {made.computed:8d} computed {made.reused:8d} reused {made.rejected:6d} rejected  {made.seconds:9.1f} s"
        for name, made in record.assets.items()
    ]
    left_out = [f"left out: {name}; {why}" for name, why in record.waiting.items()]
    complete = f"shard {record.number}/{record.count} is complete ({record.num_clips} clips, {record.num_queries} queries): {shown(folder)}"
    return [*lines, *left_out, complete]


def merge(config: Config, arguments: argparse.Namespace) -> int:
    """Merge all shards, and say what was taken over."""
    from motive_pipeline.shards.merge import merge_shards

    merged = merge_shards(config, shards_folder(config, arguments.shards_folder), arguments.shards)
    if arguments.json:
        print(json.dumps({"shards": len(merged.records), "taken": {name: vars(taken) for name, taken in merged.taken.items()}}))
        return 0
    for line in merge_lines(merged):
        tell(line)
    return 0


def merge_lines(merged: Merged) -> list[str]:
    """What was taken over, one line for each row store, and what to do next."""
    lines = [f"{taken.rows:8d} rows {taken.rejects:6d} rejections  {name}" for name, taken in merged.taken.items()]
    left_out = [f"left out by shards: {name}; {why}" for name, why in merged.waiting.items()]
    return [*lines, *left_out, f"{len(merged.records)} shards are merged. `motive run` publishes."]
