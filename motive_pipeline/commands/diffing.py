"""``motive diff``: which clips entered and left between two curations, and why."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from motive_pipeline.config import Config
from motive_pipeline.visible_text import tell

if TYPE_CHECKING:  # every command would wait for this import
    from motive_pipeline.curation.compare import ArmChange, Comparison

MAX_LISTED = 10


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``diff`` to the command line."""
    parser = command("diff", diff, "Say which clips entered and left between two curations, for each arm, and why.")
    which = "a curation: its number, latest, previous, -1 (one before the latest), a date, or the first digits of a run's id"
    parser.add_argument("before", nargs="?", default="previous", metavar="A", help=f"{which} (default: previous)")
    parser.add_argument("after", nargs="?", default="latest", metavar="B", help="the same (default: latest)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every clip")


def diff(config: Config, arguments: argparse.Namespace) -> int:
    """Print the comparison."""
    from motive_pipeline.curation.compare import compare, find_curation
    from motive_pipeline.storage.workspace import Workspace

    history = Workspace(config).history
    found = compare(history, find_curation(history, arguments.before), find_curation(history, arguments.after))
    if arguments.json:
        print(json.dumps(_plain(found)))
    else:
        for line in _lines(found):
            tell(line)
    return 0


def _plain(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON has it."""
    names = {"from": found.before, "to": found.after}
    return {
        **{key: dataclasses.asdict(name) | {"published_at": name.published_at.isoformat()} for key, name in names.items()},
        "settings": [dataclasses.asdict(change) for change in found.settings],
        "clips": {"added": dict(found.clips_added), "gone": dict(found.clips_gone)},
        "queries": {"added": dict(found.queries_added), "gone": dict(found.queries_gone)},
        "arms": [dataclasses.asdict(arm) for arm in found.arms],
    }


def _lines(found: Comparison) -> list[str]:
    """The comparison in words and tables."""
    lines = [f"from {found.before}", f"to   {found.after}", ""]
    lines += [f"setting: {change}" for change in found.settings]
    kinds = (("clips", found.clips_added, found.clips_gone), ("queries", found.queries_added, found.queries_gone))
    for kind, added, gone in kinds:
        lines += [f"{kind} {word}: {len(ids)} ({_listed(ids)})" for word, ids in (("added", added), ("gone", gone)) if ids]
    if len(lines) == 3:
        lines.append("Settings, clips, queries and model are the same.")
    for arm in found.arms:
        lines += ["", arm.sentence(), *_table(arm)]
    return lines


def _listed(paths: Mapping[str, str]) -> str:
    named = [path or clip_id for clip_id, path in paths.items()]
    return ", ".join(named[:MAX_LISTED]) + (f" and {len(named) - MAX_LISTED} more" if len(named) > MAX_LISTED else "")


def _table(arm: ArmChange) -> list[str]:
    """A line for each clip that moved, under a heading."""
    rows = [
        (
            clip.change,
            clip.clip_id,
            *("-" if rank is None else str(rank) for rank in (clip.rank_before, clip.rank_after)),
            clip.why,
            clip.path or "",
        )
        for clip in arm.clips
    ]
    if not rows:
        return []
    heading = ("", "clip", "old rank", "new rank", "why", "path")
    widths = [max(len(row[place]) for row in (heading, *rows)) for place in range(len(heading) - 1)]
    return [
        "  " + "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in (heading, *rows)
    ]
