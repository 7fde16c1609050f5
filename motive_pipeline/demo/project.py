"""The demo as a project of its own: its settings in a folder, the storage beside them. ``motive demo`` starts here."""

from __future__ import annotations

from pathlib import Path

from motive_pipeline.config import parse_config
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic

TEMPLATE = Path(__file__).with_name("motive.yaml")
"""The commented settings of the demo: in a checkout a link to the ``motive.yaml`` at its top, in a wheel a file."""


def write_demo_config(folder: Path) -> Path:
    """Write the demo's ``motive.yaml`` into ``folder``, unless it is there already, and give its path. Nothing is ever overwritten.

    Raises:
        MotiveError: ``folder`` holds other settings, or a storage folder without settings.
    """
    folder = folder.expanduser().absolute()
    file, settings = folder / "motive.yaml", TEMPLATE.read_bytes()
    if file.exists():
        if file.read_bytes() == settings:
            return file
        raise MotiveError(
            f"{file} holds settings that are not the demo's, so it was left as it is. Run them with `motive run --config {file}`, or the demo in "
            "another folder with `motive demo FOLDER`."
        )
    root = parse_config(settings.decode(), file).storage.root
    if root.exists():
        raise MotiveError(
            f"{root} is there already, without the {file.name} that it was made from. Run the demo in another folder with `motive demo FOLDER`, "
            "or move that folder away."
        )
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(file, settings)
    return file
