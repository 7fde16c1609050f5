"""Every command that README and the docs show exists, with its options, and every page of the docs is in the site's menu."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
import yaml

from motive_pipeline import cli

REPOSITORY = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in sorted((REPOSITORY / "docs").glob("*.md")))]
HEADS = sorted(f"configs/{file.name}" for file in (REPOSITORY / "configs").glob("*.yaml"))
START = re.compile(r"^(?:\.venv/bin/)?motive (?=[a-z])")
STOPS = {"|", ">", ">>", "&&", "||", "&", ";"}


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """Each command of ``motive`` and its parser."""
    (action,) = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(action.choices)


def shown_commands(text: str) -> list[str]:
    """The lines of code blocks, indented ones too, that call ``motive``; a line that ends in a backslash goes on in the next one."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE) + re.findall(r"(?:^    \S[^\n]*\n)+", text, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if START.match(line)]


def fault(command: str) -> str:
    """What is wrong with a command as it is shown; empty if nothing is."""
    words = shlex.split(START.sub("", command), comments=True)
    words = words[: next((place for place, word in enumerate(words) if word in STOPS), len(words))]
    parsers = subcommands()
    if words[0] not in parsers:
        return f"there is no command {words[0]}"
    known = {option for action in parsers[words[0]]._actions for option in action.option_strings}
    given = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
    unknown = [option for option in given if option not in known]
    return f"{words[0]} has no {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists(page: str):
    found = shown_commands((REPOSITORY / page).read_text(encoding="utf-8"))
    assert [f"{command}: {wrong}" for command in found if (wrong := fault(command))] == []


@pytest.mark.parametrize("config", HEADS)
def test_every_command_at_the_head_of_a_config_exists(config: str):
    lines = [line.removeprefix("#").strip() for line in (REPOSITORY / config).read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    found = [line for line in lines if START.match(line)]
    assert found or config == "configs/demo_audit.yaml"
    assert [wrong for command in found if (wrong := fault(command))] == []


def test_the_check_finds_commands_and_their_faults():
    text = "```\n.venv/bin/motive rank --config my.yaml --nothing   # comment --x\nmotive ask \\\n  a.mp4 --top 3 | less --y\n```\n\n    motive nothing\n"
    assert [fault(command) for command in shown_commands(text)] == ["rank has no --nothing", "", "there is no command nothing"]
    assert sum(len(shown_commands((REPOSITORY / page).read_text(encoding="utf-8"))) for page in PAGES) > 50


def test_the_menu_of_the_site_names_every_page():
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = {page for group in yaml.safe_load(text) for value in group.values() for page in _pages_of(value)}
    made_from_docs = {Path(page).name for page in PAGES if page.startswith("docs/")}
    assert made_from_docs - listed == set(), "add them to nav in mkdocs.yml"


def _pages_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    assert isinstance(value, list)
    return [page for each in value for page in (each.values() if isinstance(each, dict) else [each])]
