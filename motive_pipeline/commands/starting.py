"""``motive init``: a first config for one's own clips."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from motive_pipeline.errors import MotiveError
from motive_pipeline.visible_text import tell

if TYPE_CHECKING:  # every command would wait for these imports
    from motive_pipeline.starter.project import Started

DEFAULT_FILE = "my.yaml"


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``init`` to the command line."""
    parser = command(
        "init",
        init,
        "Write commented settings for your own clips, and check the folders. Asks nothing, overwrites nothing, computes nothing.",
        needs_config=False,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="your training clips, in any layout of docs/data.md")
    parser.add_argument("--queries", metavar="FOLDER", type=Path, required=True, help="a handful of clips that show the motion you want")
    parser.add_argument("--held-out", metavar="FOLDER", type=Path, help="more such clips, which only the evaluation uses")
    parser.add_argument(
        "--model",
        default="tiny",
        metavar="MODEL",
        help="a hub id, for instance Wan-AI/Wan2.1-T2V-1.3B-Diffusers, a folder in diffusers' format, or tiny (default): plumbing only, no GPU needed",
    )
    parser.add_argument("--write", metavar="FILE", type=Path, default=Path(DEFAULT_FILE), help=f"the new file (default: {DEFAULT_FILE})")


def init(arguments: argparse.Namespace) -> int:
    """Write the settings, print what was found, and what to run next. The exit code is 1 if something found would stop a run."""
    from motive_pipeline.starter.project import Wish, start

    if arguments.config:
        raise MotiveError(f"motive init writes new settings and reads none: name the new file with --write {arguments.config}")
    wish = Wish(clips=arguments.folder, queries=arguments.queries, held_out=arguments.held_out, model=arguments.model, file=arguments.write)
    started = start(wish)
    for finding in started.findings:
        tell(finding)
    tell(f"\nSettings: {started.config.file}")
    failed = any(finding.status == "fail" for finding in started.findings)
    tell("Mend what fails. Then:" if failed else "Next:")
    for line in next_commands(started, str(arguments.write)):
        tell(f"  {line}")
    return 1 if failed else 0


def next_commands(started: Started, file: str) -> Iterator[str]:
    """The commands that lead from the settings to a ranking in the browser, as this user can type them."""
    program = "motive" if shutil.which("motive") else shlex.quote(sys.argv[0])
    named = f"--config {shlex.quote(file)}"
    if not started.preset.is_plumbing:
        yield f"{program} doctor {named}      # model, memory, GPU and disk"
    if started.has_forecast:
        yield f"{program} plan {named} --clips {started.num_clips} --gpu H100      # what it would cost"
    yield f"{program} rank {named}      # the ranking and the chosen clips; no training"
    yield f"{program} view {named}      # look through them in a browser"
