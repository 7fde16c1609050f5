"""Run the example notebooks without Jupyter: their code cells one after the other in one namespace, as a kernel does.

``python -m tests.notebooks`` runs them on the root that ``MOTIVE_ROOT`` names (by default ``motive_data``) and writes their outputs into the files.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True)
class Output:
    """What a code cell printed, and the value of its last expression (None where it is a statement)."""

    printed: str
    value: Any


def run_notebook(file: Path) -> list[Output]:
    """Run every code cell of ``file`` in the notebook's own folder. An error in a cell is raised."""
    cells = ["".join(cell["source"]) for cell in _read(file)["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(file.parent):
        return [_run_cell(cell, f"{file.name}, code cell {number}", namespace) for number, cell in enumerate(cells, 1)]


def _run_cell(code: str, name: str, namespace: dict[str, Any]) -> Output:
    tree = ast.parse(code, name)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, name, "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace) if isinstance(last, ast.Expr) else None
    return Output(printed.getvalue(), value)


def write_outputs(file: Path) -> None:
    """Run ``file`` and put the outputs into it, as plain text."""
    notebook, outputs = _read(file), iter(run_notebook(file))
    for number, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), 1):
        output = next(outputs)
        cell["execution_count"], cell["outputs"] = number, []
        if output.printed:
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": output.printed.splitlines(keepends=True)})
        if output.value is not None:
            data = {"text/plain": repr(output.value).splitlines(keepends=True)}
            cell["outputs"].append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if "MOTIVE_ROOT" in os.environ:
        os.environ["MOTIVE_ROOT"] = os.path.abspath(os.environ["MOTIVE_ROOT"])
    for notebook_file in sorted(FOLDER.glob("*.ipynb")):
        write_outputs(notebook_file)
        print(notebook_file)
