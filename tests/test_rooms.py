"""Rooms import one another in one direction only, in the order that docs/architecture.md and CONTRIBUTING.md state; both name every file or room."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import motive_pipeline

FLOORS = (
    ("errors", "progress", "stopping", "visible_text", "internals", "pinned", "seeds", "pages"),
    ("graph", "bucket"),
    ("config",),
    ("storage",),
    ("keys", "fetch", "models", "files"),
    ("devices",),
    ("engine",),
    ("video", "sources"),
    ("catalog",),
    ("latents", "motion"),
    ("attribution",),
    ("curation", "export", "outlook"),
    ("training", "first_costs"),
    ("evaluation", "forecast", "shards"),
    ("report",),
    ("demo",),
    ("view",),
    ("lineage", "api", "doctor", "bill"),
    ("commands",),
    ("cli",),
)
"""Folders and single files of the package. Each imports only from floors above its own, and rooms of one floor not from each other."""

PACKAGE = Path(motive_pipeline.__file__).parent
REPOSITORY = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = [room for floor in FLOORS for room in floor]


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def module_of(file: Path) -> str:
    return ".".join(("motive_pipeline", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@cache
def imports(file: Path) -> frozenset[str]:
    """The modules of the package that ``file`` imports, also inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
    return frozenset(module for module in modules if module.startswith("motive_pipeline."))


def test_every_room_has_its_floor():
    assert sorted(ROOMS) == sorted({room_of(file) for file in FILES} - {"__init__"})


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_from_its_own_floor_or_a_later_one(room):
    floor = next(number for number, rooms in enumerate(FLOORS) if room in rooms)
    allowed = {room, *(earlier for rooms in FLOORS[:floor] for earlier in rooms)}
    for file in FILES:
        if room_of(file) == room:
            assert {module.split(".")[1] for module in imports(file)} <= allowed, file


def test_no_two_files_import_each_other():
    by_module = {module_of(file): file for file in FILES}
    pairs = [(file, by_module[module]) for file in FILES for module in imports(file) if module in by_module]
    assert [(first, second) for first, second in pairs if first < second and module_of(first) in imports(second)] == []


def test_classes_of_the_rooms_that_bytes_pass_through_have_names_of_their_own():
    rooms = ("files", "video", "sources", "catalog", "latents", "demo")
    classes = [node for file in FILES if room_of(file) in rooms for node in ast.parse(file.read_text(encoding="utf-8")).body]
    names = Counter(node.name for node in classes if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_both_pages_name_every_room(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert [room for room in ROOMS if f"`{room}/" not in text and f"`{room}.py`" not in text] == []
