"""Brings what lies outside of docs/ into the site: README as the first page, CONTRIBUTING, CHANGELOG, and the settings and examples that pages link to.

Links are written as GitHub needs them, relative to the file. The ones that lead out of docs/ are turned to the pages made here.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages of their own: their path there, and in the site."""

ALWAYS_SHOWN = ("motive.yaml", "examples/public_api.ipynb")
LANGUAGES = {".yaml": "yaml", ".sh": "bash", ".py": "python", ".cff": "yaml"}
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def shown_files() -> list[str]:
    """Files of the repository that get a page with their text: all that the pages link to."""
    pages = [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").glob("*.md"))]
    targets = {_target(page, match[2]) for page in pages for match in LINK.finditer(page.read_text(encoding="utf-8"))}
    return sorted(name for name in targets - set(PAGES) if name and not name.startswith("docs/") and (ROOT / name).is_file())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for name in {*shown_files(), *ALWAYS_SHOWN}:
        files.append(File.generated(config, f"{name}.md", content=_page_of(ROOT / name, name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page to where their targets are in the site."""
    own = page.file.src_uri
    made = {name: f"{name}.md" for name in {*shown_files(), *ALWAYS_SHOWN}} | PAGES
    source = next((name for name, page_of in made.items() if page_of == own), f"docs/{own}")
    if not source.endswith((".md", ".ipynb")):
        return markdown

    def turned(match: re.Match[str]) -> str:
        target = _target(ROOT / source, match[2])
        site = made.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if site is None:
            return match[0]
        return f"{match[1]}{os.path.relpath(site, os.path.dirname(own) or '.')}{match[3] or ''}{match[4]}"

    return LINK.sub(turned, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show the roles of docstrings (``:class:`~.a.B```) as the last part of the name."""
    return re.sub(r":[a-z]+:<code>~?[\w.]*?(\w+)</code>", r"<code>\1</code>", html)


def _target(page: Path, link: str) -> str:
    """The file of the repository that ``link`` in ``page`` leads to, relative to its top; empty for an address."""
    if re.match(r"[a-z]+:", link):
        return ""
    return os.path.relpath(page.parent / link, ROOT)


def _page_of(file: Path, name: str) -> str:
    """A page that shows a file: a notebook by its cells, anything else as code."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        shown = ("".join(cell["source"]) if cell["cell_type"] == "markdown" else _code("".join(cell["source"]), "python") for cell in cells)
        return f"*The notebook `{name}`, without its outputs.*\n\n" + "\n\n".join(shown) + "\n"
    return f"# {name}\n\n{_code(text, LANGUAGES.get(file.suffix, 'text'))}\n"


def _code(text: str, language: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
