"""What all pages have in common: one design and one head, in templates that each self-contained page includes.

``design.css`` has the colours (light, dark, paper), type, tables, controls and cards; ``head.html.j2`` the first lines of every page. Nothing is loaded from elsewhere:
a page holds a copy of both.
"""

from __future__ import annotations

from pathlib import Path

import jinja2

FOLDER = Path(__file__).parent
DESIGN = FOLDER / "design.css"


def page_environment(folder: Path) -> jinja2.Environment:
    """Templates of ``folder`` and those that all pages share. In HTML all text is escaped; a name that a template uses and nobody gave is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, FOLDER]),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
