"""The lowest versions that ``pyproject.toml`` allows, as a constraints file for pip: ``python tests/lowest.py > FILE``.

``make lowest`` installs them and runs the tests marked ``smoke``. Only what the project itself names is lowered; what these packages need comes
in any version that they accept. It needs nothing but the standard library.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(pyproject: str) -> list[str]:
    """``name==version`` for each requirement of the project and of its extra ``dev``.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = []
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        found = re.match(r"([A-Za-z0-9_.-]+)\s*(?:>=|==)\s*([0-9.]+)", requirement)
        if found is None:
            raise ValueError(f"{PYPROJECT.name}: {requirement!r} has no lower bound")
        lines.append(f"{found[1]}=={found[2]}")
    return lines


if __name__ == "__main__":
    print("\n".join(lowest(PYPROJECT.read_text(encoding="utf-8"))))
