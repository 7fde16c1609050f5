"""``vbench.json`` beside an arm's scores: the packages, weights and device behind VBench's numbers, for the asset's page and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from motive_pipeline.storage.workspace import Workspace

FILE = "vbench.json"


def facts_of(record: dict[str, Any]) -> dict[str, Any]:
    """The record as metadata for the asset's page."""
    listed = [
        {
            "dimension": name,
            "packages": ", ".join(f"{package} {version}" for package, version in made["versions"].items()),
            "weights": ", ".join(f"{Path(file).name} {sha256[:12]}" for file, sha256 in made["weights"].items()) or "none",
        }
        for name, made in record["dimensions"].items()
    ]
    other = ", ".join(record["other_weights"]) or "none"
    return {"VBench": listed, "VBench ran on": record["device"], "weights other than the published ones": other, "fps": str(record["fps"])}


def version_rows(ws: Workspace) -> list[list[str]]:
    """Rows on VBench's packages and weights for the report; none if VBench did not run."""
    file = ws.published(f"eval_scores/{ws.config.lead_arm}").path / FILE
    if not file.exists():
        return []
    record = json.loads(file.read_text(encoding="utf-8"))
    packages = {name: version for made in record["dimensions"].values() for name, version in made["versions"].items()}
    weights = {name: sha256 for made in record["dimensions"].values() for name, sha256 in made["weights"].items()}
    rows = [[f"{name} (VBench's environment, {record['device']})", version, ""] for name, version in packages.items()]
    for name, sha256 in weights.items():
        rows.append([f"VBench's {name}{' (not the published file)' if name in record['other_weights'] else ''}", sha256[:16], ""])
    return rows
