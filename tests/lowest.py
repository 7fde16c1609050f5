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
    """``name==version`` for each requirement of the project, of its extra ``dev`` and of the extras that this one names.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = []
    extras = project["optional-dependencies"]
    own = re.compile(rf"{project['name']}\[(.+)\]")
    in_dev = [each for each in extras["dev"] if not own.fullmatch(each)]
    named = [name.strip() for each in extras["dev"] if (found := own.fullmatch(each)) for name in found[1].split(",")]
    for requirement in [*project["dependencies"], *in_dev, *(each for name in named for each in extras[name])]:
        found = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*(?:>=|==)\s*([0-9.]+)", requirement)
        if found is None:
            raise ValueError(f"{PYPROJECT.name}: {requirement!r} has no lower bound")
        lines.append(f"{found[1]}=={found[2]}")
    return lines


if __name__ == "__main__":
    print("\n".join(lowest(PYPROJECT.read_text(encoding="utf-8"))))
