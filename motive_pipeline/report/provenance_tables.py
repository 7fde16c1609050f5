"""Where a report comes from: what was left out, every setting, and the versions of data, code and libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.evaluation.vbench.record import version_rows
from motive_pipeline.models.load import model_hash
from motive_pipeline.report.tables import Table
from motive_pipeline.storage.workspace import Workspace


def rejects_table(ws: Workspace) -> Table:
    """What each stage left out, by reason: clips and queries, and people's result files."""
    assets = [*ws.graph.rejecting, *(["preference_study"] if ws.config.comparisons else [])]
    rejects = pd.concat([ws.published(asset).rejects() for asset in assets], ignore_index=True)
    counts = rejects.groupby(["stage", "reason"], sort=True).size()
    return Table(
        key="rejects",
        title="Left out",
        columns=["stage", "reason", "files"],
        rows=[[str(stage), str(reason), str(number)] for (stage, reason), number in counts.items()],  # type: ignore[misc]
        caption="Files that a stage could not use. The table “rejects” (motive sql) names each with a sentence.",
        words=frozenset({1}),
    )


def settings_table(ws: Workspace) -> Table:
    """:func:`plain_settings` for a person."""
    rows = [[name, _plain(value)] for name, value in plain_settings(ws).items()]
    return Table(key="settings", title="Settings", columns=["setting", "value"], rows=rows, caption="", words=frozenset({1}))


def plain_settings(ws: Workspace) -> dict[str, Any]:
    """Every setting that a stage depends on, by dotted key, but for where things lie on this machine."""
    places = {"python", "weights", "timeout_s"} if ws.config.evaluate.backend == "vbench" else True
    hidden = {"storage": True, "schedule": True, "arms": True, "evaluate": {"vbench": places}}
    sections = ws.config.model_dump(mode="json", exclude=hidden)
    settings = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    kept = {name: value for name, value in settings.items() if not name.endswith(("path", "table", "prompts")) or name == "model.path"}
    return kept | {"arms": ", ".join(ws.config.arms), "embedding.encoder": _without_folder(ws.config.embedding.encoder)}


def _without_folder(encoder: str) -> str:
    return Path(encoder).name if Path(encoder).is_absolute() else encoder


def _plain(value: Any) -> str:
    """The value as ``motive.yaml`` writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def versions_table(ws: Workspace) -> Table:
    """The content hash of the model and of every asset, code versions and libraries."""
    rows = [["base model (weights)", model_hash(ws)[:16], ""]]
    ancestors = ws.graph.ancestors(["eval_report"])
    for asset in ws.graph.where(lambda asset: asset.key in ancestors):
        publication = ws.published(asset)
        rows.append([asset, publication.data_version[:16], str(publication.provenance["code_version"])])
    rows += version_rows(ws)
    libraries = ws.libraries()
    rows += [[name, str(version), ""] for name, version in libraries.items()]
    return Table(
        key="versions",
        title="Data, code and libraries",
        columns=["asset or library", "version", "code version of the stage"],
        rows=rows,
        caption="An asset's version is a hash of its content: equal content, equal version.",
        words=frozenset({1}),
    )
