"""The rooms that bytes pass through import one another in one direction only."""

import ast
from pathlib import Path

import motive_pipeline

ROOMS = ("files", "video", "sources", "catalog", "latents")
"""In the order of the data. ``demo`` is above all of them."""

PACKAGE = Path(motive_pipeline.__file__).parent


def imported_rooms(file: Path) -> set[str]:
    """The rooms that ``file`` imports from, also inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
    return {module.split(".")[1] for module in modules if module.startswith("motive_pipeline.")}


def test_no_room_imports_a_later_one():
    for place, room in enumerate(ROOMS):
        later = {*ROOMS[place + 1 :], "demo"}
        for file in (PACKAGE / room).glob("*.py"):
            assert not imported_rooms(file) & later, file


def test_classes_of_these_rooms_have_names_of_their_own():
    names = [
        (node.name, file.parent.name)
        for room in (*ROOMS, "demo")
        for file in (PACKAGE / room).glob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    assert len({name for name, _ in names}) == len(names)
