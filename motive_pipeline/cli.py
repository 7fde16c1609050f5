"""``motive``: the commands that Dagster does not have. The code location ``assets`` is imported only by the commands that need it."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from motive_pipeline.commands import asking, diffing, exporting, planning, ranking, running, sharding, staging, starting, viewing
from motive_pipeline.commands.exporting import note_other_settings
from motive_pipeline.commands.options import positive
from motive_pipeline.config import Config, load_config
from motive_pipeline.errors import MotiveError, error_with_file
from motive_pipeline.stopping import stoppable
from motive_pipeline.storage.disk_errors import storage_trouble
from motive_pipeline.visible_text import LAYOUT, VisibleFormatter, tell, visible_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Errors go to stderr, and the exit code is 0 only on success."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a caption in letters that the terminal does not have is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, handlers=[_handler("%(message)s")])
    _log_progress(quiet=getattr(arguments, "quiet", False))
    with stoppable() as exit_code:
        try:
            return _run_command(arguments)
        except KeyboardInterrupt:
            tell("motive: stopped; committed results are kept, and the next run continues from there", file=sys.stderr)
            return exit_code()


def _run_command(arguments: argparse.Namespace) -> int:
    config = None
    try:
        if arguments.config:
            os.environ["MOTIVE_CONFIG"] = os.path.abspath(arguments.config)
        if not arguments.needs_config:
            return arguments.command(arguments)
        arguments.prepare(arguments)
        config = load_config()
        return arguments.command(config, arguments)
    except MotiveError as error:
        tell(f"motive: {error_with_file(error, config.file) if config else error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        trouble = storage_trouble(error, config.storage.root, config.storage.state or config.storage.root) if config else None
        if trouble is None:
            raise
        tell(f"motive: {trouble}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="motive", description="Which training clips teach a video model how things move.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, help_text: str, *, needs_config: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.add_argument("--config", metavar="FILE", help="the settings (default: $MOTIVE_CONFIG, else motive.yaml)")
        sub.set_defaults(command=function, needs_config=needs_config, prepare=lambda arguments: None)
        return sub

    starting.add_command(command)
    ranking.add_command(command)
    running.add_commands(command)
    sharding.add_command(command)
    planning.add_command(command)
    sql = command("sql", _sql, "Query the scores with SQL. Read-only.")
    sql.add_argument("query", help='for instance "SELECT * FROM ranking WHERE selected ORDER BY rank"')
    sql.add_argument("--format", choices=("table", "csv", "json"), default="table")
    sql.add_argument("--timeout", type=positive, default=600.0, metavar="SECONDS", help="stop a query that takes longer (default: 600)")
    sql.add_argument("--memory-gb", type=positive, default=4.0, metavar="GB", help="stop a query that needs more memory (default: 4)")
    explain = command(
        "explain", _explain, "Show why a clip was or was not chosen, or which clips a query votes for, and write a page with pictures."
    )
    explain.add_argument("name", metavar="CLIP_OR_QUERY", help="an id or its first digits, the path of a video, or a file name")
    explain.add_argument("--out", metavar="FILE", help="the page (default: explain/<id>.html below storage.root)")
    explain.add_argument("--no-maps", action="store_true", help="show only published influence maps; compute none (loads no model)")
    asking.add_command(command)
    viewing.add_command(command)
    exporting.add_command(command)
    diffing.add_command(command)
    staging.add_command(command)
    fetch = command("fetch", _fetch, "Download pinned code and weights and check their hashes.", needs_config=False)
    fetch.add_argument(
        "what",
        choices=("alltracker", "vbench"),
        help="alltracker: code and weights for motion.tracker: alltracker; vbench: a Python environment for evaluate.backend: vbench",
    )
    fetch.add_argument("--weights", action="store_true", help="vbench: also download the weights of evaluate.vbench.dimensions")
    path = command("path", _path, "Print the path of an asset's published data.")
    path.add_argument("asset", metavar="ASSET[/ARM]", help="for instance projected_gradients/motive")
    verify = command(
        "verify",
        _verify,
        "Check all stored rows, publications and score tables against their hashes, or a report against its provenance. "
        "The exit code is 1 if something is wrong.",
        needs_config=False,
    )
    verify.add_argument(
        "report", nargs="?", type=Path, metavar="REPORT", help="the folder of a report; without it all stored results are checked"
    )
    verify.add_argument(
        "--clips",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="with REPORT: a folder of clips or queries; may be given several times",
    )
    verify.add_argument("--model", type=Path, metavar="FOLDER", help="with REPORT: the folder of the base model")
    gc = command("gc", _gc, "List stored results that no current setting uses; with --delete, remove them.")
    gc.add_argument("--delete", action="store_true", help="remove the listed results")
    gc.add_argument("--dry-run", action="store_true", help="only list (the default)")
    command("doctor", _doctor, "Check versions, settings, video codecs, model, memory, GPU and disk. Changes nothing.", needs_config=False)
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    from motive_pipeline.doctor import examine

    failed = False
    for finding in examine():
        tell(finding, flush=True)
        failed = failed or finding.status == "fail"
    return 1 if failed else 0


def _sql(config: Config, arguments: argparse.Namespace) -> int:
    from motive_pipeline.storage.reading import Limits, memory_limited
    from motive_pipeline.storage.workspace import Workspace

    limits = Limits(timeout_s=arguments.timeout, memory_gb=arguments.memory_gb)
    with memory_limited(limits):
        workspace = Workspace(config)
        note_other_settings(workspace)
        workspace.follow_moved_root()
        _print_rows(workspace.scores.read, limits, arguments)
    return 0


def _print_rows(read: Callable[..., Any], limits: Any, arguments: argparse.Namespace) -> None:
    """Print what the query gives, in the form asked for. Nothing is printed when it fails."""
    from motive_pipeline.storage.json_rows import json_rows

    if arguments.format == "table" and (sys.stdout.encoding or "").lower().startswith("utf"):
        with redirect_stdout(io.StringIO()) as shown:
            read(arguments.query, lambda rows: rows.show(max_width=200, max_rows=1000), limits)
        tell(shown.getvalue().removesuffix("\n"))
        return
    if arguments.format == "json":
        print(read(arguments.query, json_rows, limits))
        return
    frame = read(arguments.query, lambda rows: rows.df(), limits)
    if arguments.format == "table":  # DuckDB draws its tables with lines that this terminal does not have
        tell(frame.to_string(max_rows=1000, index=False))
    else:
        text = frame.to_csv(index=False)
        sys.stdout.write(visible_text(text, keep=LAYOUT) if sys.stdout.isatty() else text)


def _explain(config: Config, arguments: argparse.Namespace) -> int:
    from motive_pipeline.report.explain_page import write_explanation
    from motive_pipeline.storage.workspace import Workspace

    workspace = Workspace(config)
    note_other_settings(workspace)
    out = Path(arguments.out) if arguments.out else None
    file, text = write_explanation(workspace, arguments.name, file=out, compute_maps=not arguments.no_maps)
    tell(text)
    tell(f"Page: {file}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    if arguments.what == "vbench":
        from motive_pipeline.evaluation.vbench.fetch import fetch_vbench

        for line in fetch_vbench(load_config(), with_weights=arguments.weights):
            tell(line)
        return 0
    from motive_pipeline.fetch import fetch
    from motive_pipeline.pinned import PINNED

    pinned = PINNED[arguments.what]
    for file in fetch(pinned):
        tell(file)
    tell(f"{pinned.name} {pinned.version} is complete and as pinned ({pinned.terms})")
    return 0


def _path(config: Config, arguments: argparse.Namespace) -> int:
    from motive_pipeline.storage.workspace import Workspace

    published = Workspace(config).published(arguments.asset)
    print(published.data_folder if config.storage.address is None else published.path)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.report is not None:
        from motive_pipeline.report.verify import print_checks, verify

        return print_checks(verify(arguments.report, clips=arguments.clips, model=arguments.model))
    from motive_pipeline.storage.checking import check_store
    from motive_pipeline.storage.workspace import Workspace

    if arguments.clips or arguments.model:
        raise MotiveError("--clips and --model belong to a report: `motive verify REPORT --clips FOLDER --model FOLDER`")
    workspace = Workspace(load_config())
    with workspace.lock.holding(wait_s=1.0, who="motive verify", to_read=True):
        checked = check_store(workspace)
    for problem in checked.problems:
        tell(problem)
    tell(checked.summary())
    return 1 if checked.problems else 0


def _gc(config: Config, arguments: argparse.Namespace) -> int:
    from assets.garbage import collect

    delete = arguments.delete and not arguments.dry_run
    found = collect(config, delete=delete)
    for each in found:
        tell(f"{each.num_bytes / 1e6:10.1f} MB  {each.path}  ({each.why})")
    total = sum(each.num_bytes for each in found) / 1e6
    tell(f"{total:10.1f} MB in total, {'removed' if delete else 'not removed: --delete removes it' if found else 'nothing is unused'}")
    return 0


def _log_progress(*, quiet: bool) -> None:
    logger = logging.getLogger("motive_pipeline")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    logger.addHandler(_handler("%(asctime)s %(message)s"))


def _handler(pattern: str) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter(pattern, "%H:%M:%S"))
    handler.addFilter(lambda record: not _is_of_a_stop(record))
    return handler


def _is_of_a_stop(record: logging.LogRecord) -> bool:
    """Whether the line is about a signal that a library met on its way (SQLAlchemy, while it closes a connection): it passes the signal on, and
    :func:`main` says what there is to say."""
    return bool(record.exc_info) and record.exc_info[1] is not None and not isinstance(record.exc_info[1], Exception)


if __name__ == "__main__":
    sys.exit(main())
