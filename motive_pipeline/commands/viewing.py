"""``motive view``: look through the clips in a browser."""

from __future__ import annotations

import argparse
import html
import os
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from motive_pipeline.commands.exporting import note_other_settings
from motive_pipeline.config import Config
from motive_pipeline.storage import atomic
from motive_pipeline.visible_text import tell


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``view`` to the command line."""
    parser = command(
        "view", view, "Look through clips, scores and videos in a browser, on this machine only. Changes nothing but your own edits file."
    )
    parser.add_argument("--port", type=_port, metavar="N", help="the port on 127.0.0.1 (default: the first free one from 8700 on)")
    parser.add_argument("--no-open", action="store_true", help="print the address, and do not open a browser")


def view(config: Config, arguments: argparse.Namespace) -> int:
    """Serve the explorer until it is stopped."""
    from motive_pipeline.storage.workspace import Workspace
    from motive_pipeline.view.serve import serve
    from motive_pipeline.view.viewer import Viewer

    workspace = Workspace(config)
    note_other_settings(workspace)

    def opened(address: str) -> None:
        tell(f"{address}\nOpen this address; its token is for you alone. Ctrl-C stops the viewer.", flush=True)
        if not arguments.no_open:
            page = _page_that_leads_to(address, workspace.state / "view")
            threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()

    serve(Viewer(workspace), port=arguments.port, opened=opened)
    return 0


def _page_that_leads_to(address: str, folder: Path) -> Path:
    """A file of this user's that sends a browser to ``address``: other users see the arguments of the browser's process, and the address has the token."""
    atomic.make_folder(folder)
    page = folder / f"open-{urlsplit(address).port}.html"
    page.unlink(missing_ok=True)
    with os.fdopen(os.open(page, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(
            f'<!doctype html><meta charset="utf-8"><title>motive</title><meta http-equiv="refresh" content="0; url={html.escape(address)}">\n'
        )
    return page


def _port(text: str) -> int:
    """``text`` as the number of a port."""
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port from 1 to 65535")
    return number
