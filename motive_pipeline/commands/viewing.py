"""``motive view``: look through the clips in a browser."""

from __future__ import annotations

import argparse
import threading
import webbrowser
from collections.abc import Callable

from motive_pipeline.commands.exporting import note_other_settings
from motive_pipeline.config import Config
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
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    serve(Viewer(workspace), port=arguments.port, opened=opened)
    return 0


def _port(text: str) -> int:
    """``text`` as the number of a port."""
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port from 1 to 65535")
    return number
