"""The settings are a contract: whoever adds, removes or changes one decides that on purpose and documents it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import BaseModel

from motive_pipeline.config import Config, Section
from tests.settings_list import FILE, setting_lines

REPOSITORY = Path(__file__).parents[1]
LISTED = FILE.read_text(encoding="utf-8").splitlines()
KEYS = [line.partition(":")[0] for line in LISTED]
NOT_KEYS = ("clips.published", "clips.disagrees")
"""What the docs write like a key: columns of the view ``clips``. Names of files and functions are told by their endings."""

ADVICE = """If that is what you want: describe the key in motive.yaml (unit, default, meaning), in the docs and in CHANGELOG.md, decide which
stages depend on it, then run `python -m tests.settings_list`."""


def commented_keys(text: str) -> dict[str, bool]:
    """Each key of a YAML file, and whether a comment stands beside it or directly above."""
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, bool]]:
        for key, value in node.value:
            name, line = prefix + key.value, key.start_mark.line
            yield name, "#" in lines[line] or lines[line - 1].strip().startswith("#")
            if isinstance(value, yaml.MappingNode):
                yield from walk(value, name + ".")

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return dict(walk(root, ""))


def test_the_settings_are_those_of_the_committed_list():
    now = list(setting_lines())
    added, gone = [line for line in now if line not in LISTED], [line for line in LISTED if line not in now]
    changes = [*(f"+ {line}" for line in added), *(f"- {line}" for line in gone)]
    assert not changes, "\n  ".join(["settings have changed:", *changes, ADVICE])
    assert now == LISTED, "the same settings in another order: run `python -m tests.settings_list`"


def test_motive_yaml_has_every_key_with_a_comment():
    found = commented_keys((REPOSITORY / "motive.yaml").read_text(encoding="utf-8"))
    assert [key for key in KEYS if key not in found] == []
    assert [key for key in KEYS if not found[key]] == [], "these have no comment"


def test_the_method_page_lists_every_key_of_the_sections_it_describes():
    text = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
    described = [key for key in KEYS if key.startswith(("gradient.", "influence."))]
    assert [key for key in described if not re.search(rf"\b{key.rpartition('.')[2]}\b", text)] == []


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{file.name}" for file in sorted((REPOSITORY / "docs").glob("*.md")))])
def test_the_docs_name_no_key_that_is_not_there(page: str):
    sections = {key.partition(".")[0] for key in KEYS}
    named = re.findall(rf"`((?:{'|'.join(sections)})(?:\.[a-z][a-z_0-9]*)+)", (REPOSITORY / page).read_text(encoding="utf-8"))
    known = {*NOT_KEYS, *(key[: end.start()] for key in KEYS for end in re.finditer(r"\.|$", key))}
    unknown = [name for name in named if name not in known and not name.endswith((".py", ".parquet", ".safetensors", ".compute_rows"))]
    assert not unknown, f"{page} names settings that are not there: {unknown}"


class Inner(Section):
    depth: Literal["deep", "flat"] = "flat"


class Toy(Section):
    rate: float | None = None
    inner: Inner = Inner()


def test_a_line_holds_key_type_and_default():
    assert list(setting_lines(Toy)) == ["rate: float | null = None", "inner.depth: 'deep' | 'flat' = 'flat'"]
    assert issubclass(Config, BaseModel)
    assert "subset.share: float (gt 0.0, le 1.0) = 0.1" in LISTED


def test_a_key_without_a_comment_is_noticed():
    assert commented_keys("a:  # said\n  b: 1\n  # above\n  c: 2\n") == {"a": True, "a.b": False, "a.c": True}
