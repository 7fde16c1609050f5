"""``motive export``: the chosen clips of an arm in a trainer's layout, or the list of harmful clips."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.export.trainer import Audio, Videos
from motive_pipeline.export.trainers import TRAINERS
from motive_pipeline.visible_text import tell

if TYPE_CHECKING:  # every command would wait for this import
    from motive_pipeline.storage.workspace import Workspace


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``export`` to the command line."""
    parser = command(
        "export", export, "Write the chosen clips of an arm to a folder in a trainer's layout, or the list of harmful clips to a file."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--arm")
    what.add_argument("--harmful", action="store_true", help="the clips of the view `harmful`, as a list of paths (.txt) or a table (.csv)")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new or empty folder; with --harmful a new file")
    add_layout_options(parser)
    parser.add_argument(
        "--variant", metavar="NAME", help="with --harmful: the gradient variant that ranked the clips (default: that of lead_arm)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress lines")


def add_layout_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how clips are written: ``--for``, ``--videos`` and ``--audio``."""
    parser.add_argument("--for", dest="trainer", choices=tuple(TRAINERS), help="the trainer or format of the export")
    parser.add_argument(
        "--videos",
        choices=get_args(Videos),
        default="window",
        help="window (default): the scored frames as H.264; original: copies of the clips' own files",
    )
    parser.add_argument(
        "--audio",
        choices=get_args(Audio),
        default="strip",
        help="strip (default): no sound; keep: the sound of the scored frames as AAC. Copies of the clips' own files keep theirs",
    )


def export(config: Config, arguments: argparse.Namespace) -> int:
    """Write the export, and print how to use it."""
    from motive_pipeline.storage.workspace import Workspace

    if arguments.harmful:
        return _export_harmful(config, arguments)
    if arguments.trainer is None or arguments.variant is not None:
        raise MotiveError("--arm needs --for, the trainer or format of the export, and takes no --variant: the arm names its own")
    _note_if_stale(config, arguments.arm)
    print_export(Workspace(config), arguments.arm, arguments.to, arguments)
    return 0


def print_export(workspace: Workspace, arm: str, folder: str, arguments: argparse.Namespace) -> None:
    """Write ``arm``'s clips to ``folder`` as ``arguments`` say, and print the warnings, the place and how to use it."""
    from motive_pipeline.export.subset import export_subset

    found = export_subset(workspace, arm, Path(folder), arguments.trainer, videos=arguments.videos, audio=arguments.audio)
    for warning in found.warnings:
        tell(f"motive: note: {warning}", file=sys.stderr)
    tell(f"{found.num_clips} clips in {found.folder}" + ("" if found.num_written else " (nothing new to write)"))
    tell(f"Use: {found.use}")


def note_other_settings(workspace: Workspace) -> None:
    """Say on stderr if what is published was made with other settings than the config's."""
    from motive_pipeline.storage.published_settings import note_on_other_settings

    if note := note_on_other_settings(workspace):
        tell(f"motive: note: {note}", file=sys.stderr)


def _note_if_stale(config: Config, arm: str) -> None:
    from assets.plan import plan

    try:
        stale = next((asset for asset in plan(config) if asset.asset == f"curated_subset/{arm}"), None)
    except MotiveError as error:  # the export is possible all the same
        tell(f"motive: note: cannot check whether the subset is up to date: {error}", file=sys.stderr)
        return
    if stale is not None:
        tell(
            f"motive: note: {stale.asset} {'is' if stale.certain else 'may be'} out of date ({'; '.join(stale.reasons)}). The last published "
            "subset is exported; `motive run` brings it up to date",
            file=sys.stderr,
        )


def _export_harmful(config: Config, arguments: argparse.Namespace) -> int:
    from motive_pipeline.export.harmful_list import export_harmful
    from motive_pipeline.storage.workspace import Workspace

    if arguments.trainer is not None:
        raise MotiveError("--for belongs to --arm: the list of harmful clips is a plain file (.txt or .csv)")
    workspace = Workspace(config)
    note_other_settings(workspace)
    workspace.follow_moved_root()
    written = export_harmful(workspace, arguments.variant or config.lead_variant, Path(arguments.to))
    tell(f"{written.num_clips} harmful clips of {written.num_ranked} in {written.file}")
    return 0
