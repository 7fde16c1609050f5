"""``motive ask``: which training clips drive the motion in a video that is not in the config."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from motive_pipeline.commands.options import count, require_variant
from motive_pipeline.config import Config
from motive_pipeline.visible_text import tell

if TYPE_CHECKING:  # every command would wait for these imports
    from motive_pipeline.report.ask import Answer, ClipPlace

DEFAULT_TOP = 10


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``ask`` to the command line."""
    parser = command(
        "ask",
        ask,
        "Show which training clips drive the motion in a video: a file of yours, or a sample that the model generated. Publishes nothing.",
    )
    parser.add_argument("video", metavar="VIDEO", help="a path, or generated_videos/<arm>/<prompt>-<number>.mp4")
    parser.add_argument(
        "--caption",
        metavar="TEXT",
        help="what the video shows (default: the prompt of a generated sample, else the caption file beside the video)",
    )
    parser.add_argument("--variant", metavar="NAME", help="the gradient variant (default: that of lead_arm)")
    parser.add_argument("--top", type=count, default=DEFAULT_TOP, metavar="K", help=f"clips at each end (default: {DEFAULT_TOP})")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--out", metavar="FILE", help="the page (default: ask/<id>-<variant>.html below storage.root)")
    parser.add_argument("--keep", action="store_true", help="copy the video and its caption into the folder of the queries")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")


def ask(config: Config, arguments: argparse.Namespace) -> int:
    """Compute the influence of all clips on the video, print both ends, and write the page."""
    variant = require_variant(config, arguments.variant or config.lead_variant)
    from motive_pipeline.report.ask import answer
    from motive_pipeline.report.ask_page import write_answer
    from motive_pipeline.report.keep_query import keep_query, kept_at
    from motive_pipeline.report.named_video import find_video
    from motive_pipeline.storage.workspace import Workspace

    workspace = Workspace(config)
    video = find_video(workspace, arguments.video, caption=arguments.caption)
    target = kept_at(workspace, video) if arguments.keep else None
    found = answer(workspace, video, variant, top=arguments.top)
    page = write_answer(workspace, found, file=Path(arguments.out) if arguments.out else None)
    if target is not None:
        keep_query(video, target)
    if arguments.json:
        print(json.dumps(found.as_json() | {"page": str(page), "kept": None if target is None else str(target)}))
        return 0
    for line in answer_lines(found):
        tell(line)
    if target is not None:
        tell(f"Kept as a query: {target}. `motive run` takes it in.")
    tell(f"Page: {page}")
    return 0


def answer_lines(found: Answer) -> list[str]:
    """The answer for the terminal."""
    video, queries = found.video, found.influence.num_queries
    caption = f"caption ({video.caption_from}): {video.caption}" if video.caption else "no caption"
    among = f"; percentile: among its influences on the {queries} queries" if queries else ""
    return [
        f"{video.clip.clip_id}  {video.clip.location}",
        caption,
        f"{int(found.influence.row['num_frames'])} frames, mean motion {found.magnitude_px:.2f} px",
        *found.notes,
        f"The clips that drive its motion most, of {found.num_clips}, by the variant {found.variant}{among}:",
        *_table(found.best),
        "The clips of lowest influence, the lowest first:",
        *_table(found.worst),
    ]


def _table(places: Sequence[ClipPlace]) -> list[str]:
    from motive_pipeline.report.ask_page import shown_percentile

    rows = (f"{place.place:6d}  {place.influence:+9.4f}  {shown_percentile(place):>10}  {place.path or place.clip_id}" for place in places)
    return [f"{'place':>6}  {'influence':>9}  {'percentile':>10}  path", *rows]
