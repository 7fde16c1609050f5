"""What stands around the code: the linters' hooks, the citation, the changelog."""

import re
import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]


def test_the_hooks_of_pre_commit_and_make_lint_run_the_same_targets():
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    called = {hook["entry"].split()[-1] for hook in hooks}
    lint = re.search(r"^lint: (.*)$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert lint is not None
    assert called == set(lint[1].split())


def test_the_citation_the_changelog_and_the_package_name_one_version():
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    released = re.findall(r"^## \[(\d[^]]*)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released[0] == version


def test_the_citation_names_the_paper_and_where_it_is():
    (paper,) = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    assert paper["title"] == "Motion Attribution for Video Generation"
    assert paper["url"].endswith("2601.08828")
